"""How a call is to be made: until when, under which key, and whether it is tried again; and what its options say of that.

Rule: pure. The name of a session comes from outside.

A *session* is one client's: its calls are numbered, and `SESSION.NUMBER` is the key of a call that has none of its own (see
`wire.sessions`). With each batch the service is told below which number none will be sent again, so that it may forget what it
has kept for them.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import msgspec

from tidegate.runtime.errors import CallError
from tidegate.runtime.limits import IDEMPOTENCY_KEY_BYTES_MAX
from tidegate.runtime.wire.encoding import encode_value
from tidegate.runtime.wire.sessions import Session, head_row

TIMEOUT_S_TOLD_MAX = 1e9
"""A longer one is as good as none, and might not fit into the request."""
ANSWER_S = 0.1
"""What the answer of a service at a deadline may take to arrive."""
SESSION_NAME = re.compile(r"[A-Za-z0-9_-]{1,22}")
_STEP_MIN = 64
"""So many calls at least say the same of what has been answered: looking for that costs as much as several calls."""
_STEP_SHARE = 8
"""And an eighth of those in flight, through which it has to be looked for."""


class History:
    """What has become of a call so far."""

    __slots__ = ("last", "may_have_run", "resets", "tries")

    def __init__(self, tries: int, resets: int, last: CallError, *, may_have_run: bool) -> None:
        self.tries = tries
        """How often it was sent."""
        self.resets = resets
        """How often its object was reset meanwhile."""
        self.last = last
        self.may_have_run = may_have_run


class Terms:
    """Of calls that are made alike. A call that has failed once has terms of its own, which know its history."""

    __slots__ = ("history", "in_session", "is_told", "key", "options", "retries", "timeout", "traceparent")

    def __init__(
        self, timeout: float, *, is_told: bool, retries: bool, key: str | None = None, traceparent: str | None = None
    ) -> None:
        """`timeout`: seconds. `is_told`: the service is told of it. `retries`: failures are kept from the caller where that is
        safe. `key`: the caller's own."""
        self.timeout = timeout
        self.is_told = is_told
        self.retries = retries
        self.key = key
        self.traceparent = traceparent
        """The trace that it is part of."""
        self.history: History | None = None
        self.in_session = retries and key is None
        """It has the key that its number in the session is."""
        self.options: msgspec.Raw | None = None
        options: dict[str, Any] = {}
        if is_told and timeout <= TIMEOUT_S_TOLD_MAX:
            options["deadline_ms"] = told_ms(timeout)
        if key is not None:
            options["key"] = key
        if traceparent is not None:
            options["traceparent"] = traceparent
        if options:
            self.options = msgspec.Raw(encode_value(options))

    def after(self, history: History) -> Terms:
        """Those of a call of this kind which has failed."""
        own = Terms.__new__(Terms)
        for name in Terms.__slots__:
            setattr(own, name, getattr(self, name))
        own.history = history
        return own


@functools.lru_cache(maxsize=256)
def other_terms(terms: Terms, timeout: float | None, retry: bool | None, key: str | None) -> Terms:
    """The same but for what is named. Raises TypeError and ValueError for a key that the service would refuse."""
    if key is not None and not isinstance(key, str):
        raise TypeError(f"a key is a text, not {key!r}")
    if key is not None and not 0 < len(key.encode(errors="replace")) <= IDEMPOTENCY_KEY_BYTES_MAX:
        raise ValueError(f"a key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes, not {len(key.encode(errors='replace'))}")
    return Terms(
        terms.timeout if timeout is None else timeout,
        is_told=terms.is_told or timeout is not None,
        retries=terms.retries if retry is None else retry,
        key=key,
    )


def traced(terms: Terms, traceparent: str) -> Terms:
    """The same for one call of a trace."""
    return Terms(terms.timeout, is_told=terms.is_told, retries=terms.retries, key=terms.key, traceparent=traceparent)


def told_ms(timeout: float) -> int:
    """A little less than the timeout: the service's answer, that the call was not started, say, is to arrive before the client
    gives up and knows nothing."""
    return max(0, math.ceil((timeout - min(ANSWER_S, timeout / 10)) * 1_000))


class Numbering:
    """The numbers of a client's calls, as a session."""

    __slots__ = ("changes_at", "head", "session")

    def __init__(self, name: str) -> None:
        assert SESSION_NAME.fullmatch(name), name
        self.session = Session(name, 0)
        self.head = head_row(self.session)
        """Of batches of its calls."""
        self.changes_at = 0
        """From this number on it has to be made anew."""

    def renew(self, number: int, answered: int, in_flight: int) -> None:
        """`number` is that of the next call, `answered` the lowest of a call that may be sent again."""
        self.session = Session(self.session.name, answered)
        self.head = head_row(self.session)
        self.changes_at = number + _STEP_MIN + in_flight // _STEP_SHARE

    def options_again(self, number: int, terms: Terms, left_s: float) -> msgspec.Raw | None:
        """Of a call that is sent once more, with what is left of its time."""
        options: dict[str, Any] = {}
        if left_s <= TIMEOUT_S_TOLD_MAX:
            options["deadline_ms"] = told_ms(max(0.0, left_s))
        if terms.key is not None:
            options["key"] = terms.key
        elif terms.in_session:
            options |= {"answered": self.session.answered, "key": f"{self.session.name}.{number}"}
        if terms.traceparent is not None:
            options["traceparent"] = terms.traceparent
        return msgspec.Raw(encode_value(options)) if options else None
