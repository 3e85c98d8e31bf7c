"""Calls in flight to one worker: who waits for which token, and what has still to be sent.

Rule 1: pure. It knows no socket and no clock; `now` is an argument.
Rule 2: a call is in exactly one place. It is *unanswered* from the moment it is taken until it is answered, once; while its
request has not been handed out by `take_bodies` it is *unsent* too, and then the worker cannot have seen it.
Rule 3: requests of one client leave in the order in which they were taken, whichever codec they use.
Rule 4: a worker reads in the order in which it was sent to. So `take_bodies_in_turn` sends it no more than it reads in a few
turns: the rest waits here, and its clients take turns. What it has read shows in its answers to marks; calls tell nothing, as
they may take as long as they like.

Used by the router towards its workers and by a worker towards its peers. The router machine reaches into `unanswered`,
`bytes` and `rows` on its hot path; everything else goes through the methods.
"""

from __future__ import annotations

import collections
import enum
import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from tidegate.runtime.limits import (
    DEADLINE_GRACE_S,
    MESSAGE_BYTES_MAX,
    SMALL_CALL_BYTES,
    TURN_REQUESTS_MAX,
    WAIT_DOWN_S,
    WAIT_START_S,
    WORKER_AHEAD_BYTES,
    WORKER_AHEAD_CALLS,
)
from tidegate.runtime.wire.protocol import Origin, Request, encode, encode_json, parse_options, with_deadline_ms


class Expiry(enum.Enum):
    """Why the time of a call is over."""

    WAITED = enum.auto()
    """It has waited long enough for a worker that does not listen."""
    UNSENT = enum.auto()
    """The caller's deadline has passed, and no worker has seen the call."""
    SENT = enum.auto()
    """It has passed while the call was with its worker."""


Unanswered = tuple[Origin, int | str, int]
"""Where the reply goes, the client's own request id, and the bytes counted for the call."""

_COMPACT_MIN = 64
_MARK_CALLS = TURN_REQUESTS_MAX // 4
"""A mark for so many calls: a message of its own costs as much as a few of them."""
_MARK_BYTES = WORKER_AHEAD_BYTES // 4


class _Body:
    """What requests of one batch may share."""

    __slots__ = ("json",)

    def __init__(self, json: bool) -> None:
        self.json = json


class InFlight:
    """Every call that was added is given back exactly once: by `answered`, `take_lost`, `take_expired` or `take_all`."""

    __slots__ = (
        "_ahead", "_ahead_bytes", "_arrived", "_batches", "_deadlines", "_expired", "_lines", "_marks", "_numbers", "_unmarked",
        "_unmarked_bytes", "_waits", "bytes", "endpoint", "is_down", "process", "rows", "unanswered", "worker",
    )  # fmt: skip

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.endpoint: str | None = None
        """Where the worker takes calls, None while it does not: then nothing is handed out."""
        self.process: str | None = None
        """Where the process listens that has been sent all that is not unsent. A parked one takes no calls, and answers."""
        self.is_down = False
        """It is not just being started: it fails again and again."""
        self.unanswered: dict[int, Unanswered] = {}
        self.bytes = 0
        self.rows: list[Request] = []
        """The newest unsent MessagePack requests, their ids replaced by tokens."""
        self._batches: list[tuple[bool, list[Request]]] = []
        """Older unsent requests: is it JSON, and the requests."""
        self._lines: dict[bytes, collections.deque[tuple[_Body, Request]]] = {}
        """The oldest unsent requests, by client: those whose turn it was not yet. The client whose turn is next comes first."""
        self._ahead = self._ahead_bytes = 0
        """Calls handed out of which the worker has not said that it has read them, as far as they were counted."""
        self._unmarked = self._unmarked_bytes = 0
        """Those after the newest mark."""
        self._marks: collections.deque[tuple[str, int, int]] = collections.deque()
        """What it is to answer when it has read so many more of them, and so many bytes."""
        self._numbers = itertools.count(1).__next__
        self._waits: collections.deque[tuple[float, int]] = collections.deque()
        """Until when calls wait for the worker to listen, and their tokens, in order."""
        self._deadlines: list[tuple[float, int]] = []
        """A heap: the deadlines of callers. Calls that were answered leave it when they are due, or when they are most of it."""
        self._arrived: dict[int, float] = {}
        """When those calls arrived which have a deadline and wait for the worker."""
        self._expired = 0
        """Requests among the unsent whose calls have been answered already."""

    # Calls come in

    def add(self, token: int, request: Request, origin: Origin, size: int) -> None:
        """Takes a call. Its request will be sent with the token as id."""
        self.unanswered[token] = (origin, request.id, size)
        self.bytes += size
        request.id = token
        if not origin.json:
            self.rows.append(request)
            return
        self.end_batch()
        if not self._batches or not self._batches[-1][0]:
            self._batches.append((True, []))
        self._batches[-1][1].append(request)

    def end_batch(self) -> None:
        """What is added from now on shares no body with what was added before."""
        if self.rows:
            self._batches.append((False, self.rows))
            self.rows = []

    def clients(self) -> Iterator[bytes]:
        """Of every unanswered call."""
        return (origin.client for origin, _, _ in self.unanswered.values())

    def add_wait(self, token: int, now: float) -> None:
        """A call was added while the worker does not listen: it waits, with a bound."""
        self._waits.append((now + self._wait_s, token))

    def add_deadline(self, token: int, now: float, deadline_ms: int) -> None:
        """The caller wants an answer until then. A worker that has the call is given the first word: it knows more."""
        if self.endpoint is None:
            self._arrived[token] = now
        if len(self._deadlines) > 2 * len(self.unanswered) + _COMPACT_MIN:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self.unanswered]
            heapq.heapify(self._deadlines)
        grace_s = 0.0 if self.endpoint is None else DEADLINE_GRACE_S
        heapq.heappush(self._deadlines, (now + deadline_ms / 1_000 + grace_s, token))

    def next_deadline(self) -> float | None:
        """When `take_expired` wants to be called."""
        if self._waits and self._deadlines:
            return min(self._waits[0][0], self._deadlines[0][0])
        return self._waits[0][0] if self._waits else self._deadlines[0][0] if self._deadlines else None

    @property
    def _wait_s(self) -> float:
        return WAIT_DOWN_S if self.is_down else WAIT_START_S

    # Requests go out

    def has_unsent(self) -> bool:
        """Something may be handed out."""
        return self.endpoint is not None and bool(self.rows or self._batches or self._lines)

    def has_sent(self) -> bool:
        """Something that was handed out is not answered yet."""
        return len(self.unanswered) > sum(1 for _ in self._unsent()) - self._expired

    def unsent_tokens(self) -> set[Any]:
        return {request.id for request in self._unsent()}

    def is_unsent(self, request: Request) -> bool:
        """Whether this very request has been added and not handed out."""
        return any(each is request for each in self._unsent())

    def take_bodies(self) -> list[bytes]:
        """Hands out everything unsent, in order, as bodies of one codec each, not above the limit on messages, and of no
        more requests than the worker takes in a turn."""
        bodies = []
        for json, rows in self._take_batches():
            bodies += _encode_batch(rows, json=json)
        return bodies

    def take_bodies_in_turn(self) -> list[bytes]:
        """Hands out no more than the worker may be ahead; the rest waits, and its clients take turns."""
        if not self._lines and len(self.unanswered) <= WORKER_AHEAD_CALLS and self.bytes <= WORKER_AHEAD_BYTES:
            return self.take_bodies()
        self._line_up()
        bodies = []
        while taken := self._take_turn(min(TURN_REQUESTS_MAX, WORKER_AHEAD_CALLS - self._ahead)):
            for body, entries in itertools.groupby(taken, key=lambda entry: entry[0]):
                bodies += _encode_batch([request for _, request in entries], json=body.json)
            self._ahead += len(taken)
            self._unmarked += len(taken)
            if self._unmarked >= _MARK_CALLS or self._unmarked_bytes >= _MARK_BYTES:
                mark = f"read {self._numbers()}"
                self._marks.append((mark, self._unmarked, self._unmarked_bytes))
                self._unmarked = self._unmarked_bytes = 0
                bodies.append(encode([[mark, "", "", "ping"]]))
        return bodies

    def has_read(self, mark: int | str) -> bool:
        """The worker has answered what may be a mark: whether it is one."""
        if all(mark != each for each, _, _ in self._marks):
            return False
        found = ""
        while found != mark:
            found, calls, size = self._marks.popleft()
            self._ahead -= calls
            self._ahead_bytes -= size
        return True

    def _line_up(self) -> None:
        lines, unanswered = self._lines, self.unanswered
        for json, rows in self._take_new_batches():
            body = _Body(json)
            for request in rows:
                assert isinstance(request.id, int), request.id
                client = unanswered[request.id][0].client
                line = lines.get(client)
                if line is None:
                    line = lines[client] = collections.deque()
                line.append((body, request))

    def _take_turn(self, calls_max: int) -> list[tuple[_Body, Request]]:
        """Of each client as many as of every other, where it has so many. Who has come to its turn is last next time. While there
        are too many bytes ahead of the worker, who has something large to send keeps its place, and others go past it."""
        lines = self._lines
        taken: list[tuple[_Body, Request]] = []
        while lines and len(taken) < calls_max:
            before = len(taken)
            each_max = max(1, (calls_max - before) // len(lines))
            for client in list(lines):
                if len(taken) == calls_max:
                    break
                line = lines[client]
                entries = self._take_from(line, min(each_max, calls_max - len(taken)))
                taken += entries
                if entries or not line:
                    del lines[client]
                    if line:
                        lines[client] = line
            if len(taken) == before:
                break
        return taken

    def _take_from(self, line: collections.deque[tuple[_Body, Request]], calls_max: int) -> list[tuple[_Body, Request]]:
        unanswered = self.unanswered
        taken: list[tuple[_Body, Request]] = []
        while line and len(taken) < calls_max:
            call = unanswered.get(line[0][1].id)  # type: ignore[arg-type]  # a token
            if call is None:
                line.popleft()
                self._expired -= 1
                continue
            size = call[2]
            if size > SMALL_CALL_BYTES and self._ahead_bytes >= WORKER_AHEAD_BYTES:
                break
            taken.append(line.popleft())
            self._ahead_bytes += size
            self._unmarked_bytes += size
        return taken

    def park(self, now: float) -> None:
        """The worker is about to be replaced: it answers what it has, and from now on calls wait for its successor."""
        if self.endpoint is not None:
            self.endpoint = None
            self._wait_all_unsent(now)

    def _wait_all_unsent(self, now: float) -> None:
        unsent = self.unsent_tokens()
        self._waits.extend((now + self._wait_s, token) for token in self.unanswered if token in unsent)

    def came_up(self, endpoint: str, now: float) -> tuple[int, float]:
        """The worker listens. What waited for it may go out; of the callers' deadlines the time waited is taken off. Returns how
        many calls have waited, and the longest of these waits in seconds."""
        assert self.endpoint is None, self.endpoint
        self.endpoint = self.process = endpoint
        waited = sum(token in self.unanswered for _, token in self._waits)
        longest_s = max(0.0, now - (self._waits[0][0] - self._wait_s)) if waited else 0.0
        self._waits.clear()
        if self._arrived:
            self.count_wait(now)
            self._deadlines = [
                (when + DEADLINE_GRACE_S if token in self._arrived else when, token) for when, token in self._deadlines
            ]
            heapq.heapify(self._deadlines)
            self._arrived.clear()
        return waited, longest_s

    def set_down(self, now: float, *, is_down: bool) -> None:
        """Whether the worker, while it does not listen, is being started, or fails again and again: that is not waited for so
        long."""
        if is_down and not self.is_down:
            self._waits = collections.deque((min(until, now + WAIT_DOWN_S), token) for until, token in self._waits)
        self.is_down = is_down

    def count_wait(self, now: float) -> None:
        """The time that unsent calls have waited until now is taken off what their callers gave them."""
        for json, rows in self._unsent_batches():
            for request in rows:
                self._shorten_deadline(request, now, json=json)

    def _shorten_deadline(self, request: Request, now: float, *, json: bool) -> None:
        assert isinstance(request.id, int), request.id
        arrived = self._arrived.get(request.id)
        if arrived is not None and request.id in self.unanswered:
            options = parse_options(request.options, json=json)
            assert options.deadline_ms is not None
            left_ms = max(0, options.deadline_ms - int((now - arrived) * 1_000))
            request.options = with_deadline_ms(request.options, left_ms, json=json)
            self._arrived[request.id] = now

    # Calls go back

    def answered(self, token: int) -> Unanswered | None:
        """The call that the worker answered; None for a token that is not (or no longer) known."""
        call = self.unanswered.pop(token, None)
        if call is not None:
            self.bytes -= call[2]
        return call

    def take_lost(self, now: float) -> list[Unanswered]:
        """The worker is lost: gives back every call that it may have seen. What is unsent waits for its successor."""
        self.park(now)
        self.process = None
        self._ahead = self._ahead_bytes = self._unmarked = self._unmarked_bytes = 0
        self._marks.clear()
        unsent = self.unsent_tokens()
        lost = [token for token in self.unanswered if token not in unsent]
        return [self._take(token) for token in lost]

    def take_expired(self, now: float) -> list[tuple[Unanswered, Expiry]]:
        """Calls whose time is over, and what that means."""
        expired: list[tuple[Unanswered, Expiry]] = []
        unsent: set[Any] | None = None
        while self._deadlines and self._deadlines[0][0] <= now:
            _, token = heapq.heappop(self._deadlines)
            if token in self.unanswered:
                if unsent is None:
                    unsent = self.unsent_tokens()
                expired.append((self._take(token), Expiry.UNSENT if token in unsent else Expiry.SENT))
                self._expired += token in unsent
                self._arrived.pop(token, None)
        while self._waits and self._waits[0][0] <= now:
            _, token = self._waits.popleft()
            if token in self.unanswered:
                expired.append((self._take(token), Expiry.WAITED))
                self._expired += 1
                self._arrived.pop(token, None)
        self._drop_expired()
        return expired

    def take_unsent_of(self, clients: Collection[bytes]) -> list[Unanswered]:
        """Gives back those calls of these clients that the worker has not seen."""
        unanswered = self.unanswered
        tokens = [request.id for request in self._unsent() if request.id in unanswered]
        taken = [self._take(token) for token in tokens if unanswered[token][0].client in clients]
        self._expired += len(taken)
        self._drop_expired()
        return taken

    def tokens_of(self, clients: Collection[bytes]) -> list[int]:
        """Of all unanswered calls of these clients."""
        return [token for token, (origin, _, _) in self.unanswered.items() if origin.client in clients]

    def _drop_expired(self) -> None:
        """Now and then, so that they do not pile up."""
        if self._expired > max(_COMPACT_MIN, len(self.unanswered)):
            self._restore(list(self._take_batches()))

    def take_all(self) -> list[Unanswered]:
        """Gives back every call, sent or not; nothing is left."""
        everything = [self._take(token) for token in list(self.unanswered)]
        self._clear_unsent()
        self._deadlines.clear()
        return everything

    def take_unsent(self) -> list[tuple[Unanswered, Request]]:
        """Gives back every call the worker has not seen, in order, each request with the client's own id again."""
        taken = []
        for _, rows in self._take_batches():
            for request in rows:
                assert isinstance(request.id, int), request.id
                call = self._take(request.id)
                request.id = call[1]
                taken.append((call, request))
        self._clear_unsent()
        return taken

    def check_invariants(self) -> None:
        assert self.bytes == sum(call[2] for call in self.unanswered.values())
        unsent = [request.id for request in self._unsent()]
        assert len(unsent) == len(set(unsent))
        assert sum(token not in self.unanswered for token in unsent) == self._expired
        assert all(rows for _, rows in self._batches)
        assert self.endpoint is None or not (self._waits or self._arrived)
        assert self.endpoint in (None, self.process)
        assert list(self._waits) == sorted(self._waits, key=lambda wait: wait[0])
        assert all(self._lines.values())
        assert self._ahead == sum(calls for _, calls, _ in self._marks) + self._unmarked <= WORKER_AHEAD_CALLS
        assert self._ahead_bytes == sum(size for _, _, size in self._marks) + self._unmarked_bytes
        assert self._unmarked < _MARK_CALLS or not self._ahead
        assert self._unmarked_bytes < _MARK_BYTES or not self._ahead

    def _take(self, token: int) -> Unanswered:
        call = self.unanswered.pop(token)
        self.bytes -= call[2]
        return call

    def _unsent(self) -> Iterator[Request]:
        for _, rows in self._unsent_batches():
            yield from rows

    def _unsent_batches(self) -> Iterator[tuple[bool, Iterable[Request]]]:
        for line in self._lines.values():
            for body, entries in itertools.groupby(line, key=lambda entry: entry[0]):
                yield body.json, (request for _, request in entries)
        yield from self._batches
        yield False, self.rows

    def _take_batches(self) -> list[tuple[bool, list[Request]]]:
        lines, self._lines = self._lines, {}
        lined_up = [
            (body.json, [request for _, request in entries])
            for line in lines.values()
            for body, entries in itertools.groupby(line, key=lambda entry: entry[0])
        ]
        if not lined_up:
            return self._take_new_batches()
        self._batches[:0] = lined_up
        return self._take_new_batches()

    def _take_new_batches(self) -> list[tuple[bool, list[Request]]]:
        batches, rows = self._batches, self.rows
        self.rows, self._batches = [], []
        if rows:
            batches.append((False, rows))
        if self._expired:
            before = sum(len(rows) for _, rows in batches)
            batches = [(json, [row for row in rows if row.id in self.unanswered]) for json, rows in batches]
            self._expired -= before - sum(len(rows) for _, rows in batches)
            batches = [(json, rows) for json, rows in batches if rows]
        return batches

    def _restore(self, batches: list[tuple[bool, list[Request]]]) -> None:
        if batches and not batches[-1][0]:
            self.rows = batches.pop()[1]
        self._batches = batches

    def _clear_unsent(self) -> None:
        self.rows, self._batches, self._lines, self._expired = [], [], {}, 0
        self._waits.clear()
        self._arrived.clear()


def _encode_batch(rows: list[Request], *, json: bool) -> list[bytes]:
    if len(rows) <= TURN_REQUESTS_MAX:
        body = encode_json(rows) if json else encode(rows)
        if len(body) <= MESSAGE_BYTES_MAX or len(rows) == 1:
            return [body]
    half = len(rows) // 2
    return [*_encode_batch(rows[:half], json=json), *_encode_batch(rows[half:], json=json)]
