"""Calls in flight to one worker: who waits for which token, and what has still to be sent.

Rule 1: pure. It knows no socket and no clock; `now` is an argument.
Rule 2: a call is in exactly one place. It is *unanswered* from the moment it is taken until it is answered, once; while its
request has not been handed out by `take_bodies` it is *unsent* too, and then the worker cannot have seen it.
Rule 3: requests leave in the order in which they were taken, whichever codec they use.

Used by the router towards its workers and by a worker towards its peers. The router machine reaches into `unanswered`,
`bytes` and `rows` on its hot path; everything else goes through the methods.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from runtime.limits import MESSAGE_BYTES_MAX, TURN_REQUESTS_MAX
from runtime.protocol import Origin, Request, encode, encode_json, parse_options, with_deadline_ms

Unanswered = tuple[Origin, int | str, int]
"""Where the reply goes, the client's own request id, and the bytes counted for the call."""

_COMPACT_MIN = 64


class InFlight:
    """Every call that was added is given back exactly once: by `answered`, `take_lost`, `take_expired` or `take_all`."""

    __slots__ = ("_arrived", "_batches", "_deadlines", "_expired", "bytes", "endpoint", "rows", "unanswered", "worker")

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.endpoint: str | None = None
        """Where the worker listens, None while it is down: then nothing is handed out."""
        self.unanswered: dict[int, Unanswered] = {}
        self.bytes = 0
        self.rows: list[Request] = []
        """The newest unsent MessagePack requests, their ids replaced by tokens."""
        self._batches: list[tuple[bool, list[Request]]] = []
        """Older unsent requests: is it JSON, and the requests."""
        self._deadlines: list[tuple[float, int, bool]] = []
        """A heap for calls added while the worker was down: until when, token, whether the caller said so."""
        self._arrived: dict[int, float] = {}
        """When those calls arrived which carry a deadline of their own."""
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
        if self.rows:
            self._batches.append((False, self.rows))
            self.rows = []
        if not self._batches or not self._batches[-1][0]:
            self._batches.append((True, []))
        self._batches[-1][1].append(request)

    def add_deadline(self, token: int, now: float, wait_s: float, deadline_ms: int | None) -> None:
        """A call that was added while the worker is down waits `wait_s`, and no longer than its own deadline."""
        of_caller = deadline_ms is not None and deadline_ms / 1_000 < wait_s
        if deadline_ms is not None:
            self._arrived[token] = now
            wait_s = min(wait_s, deadline_ms / 1_000)
        heapq.heappush(self._deadlines, (now + wait_s, token, of_caller))

    def next_deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    # Requests go out

    def has_unsent(self) -> bool:
        return bool(self.rows or self._batches)

    def take_bodies(self) -> list[bytes]:
        """Hands out everything unsent, in order, as bodies of one codec each, not above the limit on messages, and of no
        more requests than the worker takes in a turn."""
        bodies = []
        for json, rows in self._take_batches():
            bodies += _encode_batch(rows, json=json)
        return bodies

    def came_up(self, endpoint: str, now: float) -> None:
        """The worker listens. What waited for it may go out; of the callers' deadlines the time waited is taken off."""
        assert self.endpoint is None, self.endpoint
        self.endpoint = endpoint
        if self._arrived:
            for json, rows in (*self._batches, (False, self.rows)):
                for request in rows:
                    self._shorten_deadline(request, now, json=json)
        self._arrived.clear()
        self._deadlines.clear()

    def _shorten_deadline(self, request: Request, now: float, *, json: bool) -> None:
        assert isinstance(request.id, int), request.id
        arrived = self._arrived.get(request.id)
        if arrived is not None and request.id in self.unanswered:
            options = parse_options(request.options, json=json)
            assert options.deadline_ms is not None
            left_ms = max(0, options.deadline_ms - int((now - arrived) * 1_000))
            request.options = with_deadline_ms(request.options, left_ms, json=json)

    # Calls go back

    def answered(self, token: int) -> Unanswered | None:
        """The call that the worker answered; None for a token that is not (or no longer) known."""
        call = self.unanswered.pop(token, None)
        if call is not None:
            self.bytes -= call[2]
        return call

    def take_lost(self, now: float, wait_s: float) -> list[Unanswered]:
        """The worker is lost: gives back every call that it may have seen. What is unsent waits for its successor."""
        self.endpoint = None
        unsent = {request.id for request in self._unsent()}
        self._deadlines = [(now + wait_s, token, False) for token in self.unanswered if token in unsent]
        lost = [token for token in self.unanswered if token not in unsent]
        return [self._take(token) for token in lost]

    def take_expired(self, now: float) -> list[tuple[Unanswered, bool]]:
        """Calls whose wait is over, and whether that was the caller's own deadline."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, token, of_caller = heapq.heappop(self._deadlines)
            if token in self.unanswered:
                expired.append((self._take(token), of_caller))
                self._expired += 1
                self._arrived.pop(token, None)
        if self._expired > max(_COMPACT_MIN, len(self.unanswered)):
            self._restore(list(self._take_batches()))
        return expired

    def take_all(self) -> list[Unanswered]:
        """Gives back every call, sent or not; nothing is left."""
        everything = [self._take(token) for token in list(self.unanswered)]
        self._clear_unsent()
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
        assert self.endpoint is None or not self._deadlines

    def _take(self, token: int) -> Unanswered:
        call = self.unanswered.pop(token)
        self.bytes -= call[2]
        return call

    def _unsent(self) -> Iterator[Request]:
        for _, rows in self._batches:
            yield from rows
        yield from self.rows

    def _take_batches(self) -> list[tuple[bool, list[Request]]]:
        batches, rows = self._batches, self.rows
        self.rows, self._batches = [], []
        if rows:
            batches.append((False, rows))
        if self._expired:
            self._expired = 0
            batches = [(json, [row for row in rows if row.id in self.unanswered]) for json, rows in batches]
            batches = [(json, rows) for json, rows in batches if rows]
        return batches

    def _restore(self, batches: list[tuple[bool, list[Request]]]) -> None:
        if batches and not batches[-1][0]:
            self.rows = batches.pop()[1]
        self._batches = batches

    def _clear_unsent(self) -> None:
        self.rows, self._batches, self._expired = [], [], 0
        self._deadlines.clear()
        self._arrived.clear()


def _encode_batch(rows: list[Request], *, json: bool) -> list[bytes]:
    if len(rows) <= TURN_REQUESTS_MAX:
        body = encode_json(rows) if json else encode(rows)
        if len(body) <= MESSAGE_BYTES_MAX or len(rows) == 1:
            return [body]
    half = len(rows) // 2
    return [*_encode_batch(rows[:half], json=json), *_encode_batch(rows[half:], json=json)]
