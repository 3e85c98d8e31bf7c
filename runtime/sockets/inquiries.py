"""Calls that a worker has had for long: is it still aware of them?

Guarantee: a call that its worker has lost (a message that got lost, code that made it vanish) does not stay in the books for
ever: it is answered and taken out. One that the worker has, however long, is left alone.

Rule 1: pure. The shell asks now and then, sends what it is given, and hands in the answer.
Rule 2: only calls that are older than the time between two questions are asked for, a bounded number at once, in turn.
Calls that wait here, in their clients' lines, are not asked for: no worker has seen them.
Rule 3: a call is lost when the worker does not know it twice. Question and calls travel in order, and so do replies of one form;
a reply of another form may come after the answer to the first question, but not after that to the second.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from tidegate.runtime.limits import INQUIRY_CALLS_MAX, INQUIRY_PATIENCE
from tidegate.runtime.sockets.inflight import InFlight, Unanswered
from tidegate.runtime.wire.protocol import OK, UNKNOWN_CALLS, Reply, encode

FORGOTTEN = "worker %d no longer knows of %d call(s) that it was sent; they are answered `internal`, outcome unknown"
"""A line for the log: none of this should ever be."""

_decode = msgspec.msgpack.Decoder(list[int]).decode


class Inquiries:
    """What one worker is asked."""

    def __init__(self, worker: InFlight) -> None:
        self._worker = worker
        self._endpoint: str | None = None
        self._numbers = itertools.count(-1, -1).__next__
        """Tokens of calls are not negative."""
        self._asked: int | None = None
        """The question to which no answer has come."""
        self._patience = 0
        """So many more times it is waited for."""
        self._newest = 0
        """The next token when it was asked last."""
        self._from = 0
        self._suspects: frozenset[int] = frozenset()

    def ask(self, next_token: int) -> bytes | None:
        """To be called now and then. What to send, if anything."""
        worker = self._worker
        old, self._newest = self._newest, next_token
        if worker.endpoint != self._endpoint:  # Another process, which knows nothing of earlier questions.
            self._endpoint, self._asked, self._suspects = worker.endpoint, None, frozenset()
        if worker.endpoint is None:
            return None
        if self._asked is not None and self._patience > 0:  # The worker is busy; or question or answer got lost.
            self._patience -= 1
            return None
        unsent = worker.unsent_tokens()
        tokens = self._older(old, self._from, unsent) or self._older(old, 0, unsent)
        self._from = tokens[-1] + 1 if len(tokens) == INQUIRY_CALLS_MAX else 0
        tokens = sorted({*tokens, *(self._suspects & worker.unanswered.keys())})
        if not tokens:
            return None
        self._asked = self._numbers()
        self._patience = INQUIRY_PATIENCE
        return encode([[self._asked, "", "", UNKNOWN_CALLS, [tokens]]])

    def _older(self, than: int, start: int, unsent: set[int]) -> list[int]:
        """Calls are kept in the order in which they were taken."""
        old = itertools.takewhile(lambda token: token < than, self._worker.unanswered)
        return list(itertools.islice((token for token in old if token >= start and token not in unsent), INQUIRY_CALLS_MAX))

    def reply(self, reply: Reply) -> list[Unanswered] | None:
        """The calls that are lost. None: it is no answer to a question."""
        if self._asked is None or reply.id != self._asked:
            return None
        self._asked = None
        if reply.status != OK:  # It has no time for that, or stops.
            return []
        unknown = frozenset(_decode(reply.result))
        lost: list[Any] = [self._worker.answered(token) for token in sorted(unknown & self._suspects)]
        self._suspects = unknown - self._suspects
        return [call for call in lost if call is not None]
