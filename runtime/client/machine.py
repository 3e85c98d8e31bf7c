"""The callers' side of wire protocol 1: calls in flight, where each goes, and what becomes of it.

Rule 1: pure. No socket, coroutine or clock; `now` is an argument; what the shell must do comes back as effects.
Rule 2: every call is answered once: by its reply, by its deadline, or because the link it was sent on was lost.
Rule 3: the calls to one object are delivered in the order in which they were made. A call changes its route (router or
straight to the worker) only when none to an object of the same slot is in flight on the other one.

A *link* is one connection, made once and lost once. There is always one to the router; those to workers are opened when
the first call needs them, and the calls wait the moment that takes. What was sent on a lost link may have been executed
(`ShardLost`); what was not sent yet goes to the router's link, and there it waits until there is one, for so long as a call waits
for a connection (`Unavailable`) or until its deadline.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container

import msgspec

from tidegate.runtime.client.links import (
    AskTopology,
    ClientStatistics,
    Close,
    Effect,
    Entry,
    Link,
    Moving,
    Open,
    Row,
    Waiter,
    bodies_of,
)
from tidegate.runtime.errors import BadRequest, CallError, DeadlineExceeded, Moved, Overloaded, ShardLost, Unavailable
from tidegate.runtime.ids import slot_of
from tidegate.runtime.limits import CLIENT_CALLS_MAX, CONNECT_TIMEOUT_S, SLOTS
from tidegate.runtime.wire.encoding import Decode, deadline_options, error_from_raw, exception_for_caller, result_mismatch
from tidegate.runtime.wire.protocol import NO_RAW, OK, Malformed, Reply, decode_replies, parse_replies
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import Topology

CONNECT_S = 1.0
"""How long calls wait for the link to a worker before they go through the router."""
AVOID_S = 5.0
"""How long a worker whose link was lost is left to the router. A restarted worker has another endpoint."""
TOPOLOGY_ASK_S = 1.0
"""The topology is asked for again at most this often, and only while calls have to go round."""
SWEEP_S = 0.005
"""Deadlines are met with this granularity, so that no call needs a timer of its own."""

NO_SLOT = -1
"""Of calls which always go through the router."""


class ClientMachine:
    """See the rules above. After any event the shell takes messages, then effects, then the next deadline."""

    def __init__(
        self, endpoint: str, *, timeout: float, direct: bool, deadline_to_server: bool, connect_timeout: float = CONNECT_TIMEOUT_S
    ) -> None:
        """`timeout` is that of calls which name none; the service is told of it only with `deadline_to_server`."""
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self.problem = ""
        """What the shell knows of why there is no connection to the router."""
        self._options = deadline_options(timeout) if deadline_to_server else None
        self.direct = direct
        """Calls may go straight to workers."""
        self._links: dict[int, Link] = {}
        self._effects: list[Effect] = []
        self._dirty: list[Link] = []
        self._next_call = 1
        self._next_link = 1
        self._lanes: list[Link | None] = [None] * SLOTS if direct else []
        """By slot: the link to the worker that owns it, None where calls go through the router."""
        self._pins: dict[int, int] = {}
        """By slot: calls in flight through the router, plus one while the slot is moving. Such a slot stays there."""
        self._moving: dict[int, Moving] = {}
        self._epoch = -1
        self._avoid: dict[str, float] = {}
        self._incomplete = False
        self._ask_at = -math.inf
        self._sweep_at = math.inf
        self._unexpected = 0
        self.closed = False
        self._router = self._open_router(endpoint)

    # Calls

    def slot_of(self, class_name: str, name: str) -> int:
        """The slot that `call` wants to know: a caller of the same object again and again asks once. Raises BadRequest."""
        if not self.direct or not class_name:
            return NO_SLOT
        try:
            return slot_of(class_name, name)
        except UnicodeEncodeError:
            raise BadRequest("class and name must be valid Unicode") from None

    def call(
        self, waiter: Waiter, slot: int, class_name: str, name: str, method: str,
        args: msgspec.Raw, decode: Decode, timeout: float | None, now: float,
    ) -> None:  # fmt: skip
        """Accepts one call; it leaves with the next `take_messages`. Raises Overloaded or Unavailable, and then the call has
        not been accepted."""
        link = self._router
        if slot >= 0:
            lane = self._lanes[slot]
            link = lane if lane is not None and slot not in self._pins else self._pin(slot, now)
        if self.closed or (class_name and len(link.calls) >= CLIENT_CALLS_MAX):
            self._refuse(link, slot)
        call_id = self._next_call
        self._next_call = call_id + 1
        options = self._options
        if timeout is None:
            timeout = self._timeout
        else:
            options = deadline_options(timeout)
        row: Row
        if options is not None:
            row = (call_id, class_name, name, method, args, options)
        elif args is not NO_RAW:
            row = (call_id, class_name, name, method, args)
        else:
            row = (call_id, class_name, name, method)
        deadline = now + timeout
        if deadline < self._sweep_at:
            self._sweep_at = deadline
        link.calls[call_id] = (waiter, decode, deadline, row, slot, now)
        if not link.rows:
            self._dirty.append(link)
        link.rows.append(row)

    def _pin(self, slot: int, now: float) -> Link:
        """The slot's calls go through the router, or are held while it moves there."""
        moving = self._moving.get(slot)
        if moving is not None:
            return moving.held
        if self._incomplete and now >= self._ask_at:
            self._ask(now)
        self._pins[slot] = self._pins.get(slot, 0) + 1
        return self._router

    def _unpin(self, slot: int) -> None:
        left = self._pins[slot] - 1
        if left:
            self._pins[slot] = left
        else:
            del self._pins[slot]

    def _refuse(self, link: Link, slot: int) -> None:
        if slot != NO_SLOT and link is self._router:
            self._unpin(slot)
        if self.closed:
            raise Unavailable("the client is closed")
        raise Overloaded(f"{CLIENT_CALLS_MAX} calls of this client wait for replies")

    # Out

    def take_messages(self, now: float) -> list[tuple[int, bytes]]:
        """`(link, body)` in the order of sending: all calls accepted since, for every link that is connected."""
        messages: list[tuple[int, bytes]] = []
        dirty, self._dirty = self._dirty, []
        for link in dirty:
            if link.connected:
                if link.rows:
                    rows, link.rows = link.rows, []
                    bodies, unsendable = bodies_of(rows)
                    messages += [(link.number, body) for body in bodies]
                    if unsendable:
                        self._reject(link, unsendable)
            elif link.connecting_until is None and link.number in self._links:
                link.connecting_until = now + CONNECT_S
                self._sweep_at = min(self._sweep_at, link.connecting_until)
                self._effects.append(Open(link.number, link.endpoint, reconnect=False))
            elif link is self._router:
                self._sweep_at = min(self._sweep_at, self._refusal_at())
        return messages

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def has_work(self) -> bool:
        """Whether there is something to take."""
        return bool(self._dirty or self._effects)

    def next_deadline(self) -> float:
        """When `handle_timer` wants to be called; infinity for never."""
        return self._sweep_at

    # In

    def message_received(self, number: int, body: bytes, now: float) -> None:
        link = self._links.get(number)
        if link is None:
            return
        try:
            replies = decode_replies(body)
        except Exception:
            replies = self._parse(body)
        take, from_router, moving = link.calls.pop, link is self._router, self._moving
        for reply in replies:
            entry = take(reply.id, None)  # type: ignore[arg-type]  # an id that is no int is not found
            if entry is None:
                self._unexpected += 1
                continue
            waiter, decode, _, row, slot, _ = entry
            ran_last = row[0]
            if reply.status == OK:
                try:
                    result = decode(reply.result)
                except Exception as exc:  # A user's `__post_init__` may raise whatever it likes.
                    if not waiter.done():
                        waiter.set_exception(result_mismatch(row[1], row[3], exc))
                else:
                    try:  # Not asked first: futures look themselves, and that is 0.03 us of a call.
                        waiter.set_result(result)
                    except Exception:
                        if not waiter.done():
                            raise
            elif self._is_moved(link, entry, reply, now):
                ran_last = 0
            if (from_router or moving) and slot >= 0:
                self._settle(link, slot, ran_last)

    def _parse(self, body: bytes) -> list[Reply]:
        try:
            return parse_replies(body)
        except Malformed:
            self._unexpected += 1
            return []

    def _is_moved(self, link: Link, entry: Entry, reply: Reply, now: float) -> bool:
        """Gives an error to who waits; but a worker's `moved` is kept from him, and the call goes to the router."""
        error = error_from_raw(reply.result)
        waiter, _, _, row, slot, _ = entry
        if not isinstance(error, Moved) or link is self._router or slot < 0:
            if not waiter.done():
                waiter.set_exception(exception_for_caller(error))
            return False
        is_first = slot not in self._moving
        moving = self._start_moving(slot, link)
        moving.remaining += is_first  # This call was not seen there, and `_settle` takes it away.
        moving.held.calls[row[0]] = entry
        moving.held.rows.append(row)
        self._incomplete = True
        if now >= self._ask_at:
            self._ask(now)
        return True

    def _settle(self, link: Link, slot: int, ran_last: int) -> None:
        """A call counted for the slot was answered on this link, or will never be. `ran_last`: its id, if it may have run."""
        if link is self._router:
            self._unpin(slot)
            return
        moving = self._moving.get(slot)
        if moving is not None and moving.source is link:
            moving.passed = max(moving.passed, ran_last)
            moving.remaining -= 1
            if moving.remaining == 0:
                self._finish_moving(slot, moving)

    # Links

    def link_connected(self, number: int, now: float) -> None:
        link = self._links.get(number)
        if link is None:
            return
        link.connected = True
        link.connecting_until = None
        given_up = [row[0] for row in link.rows if link.calls[row[0]][0].done()]
        self._drop(link, dict.fromkeys(given_up))
        self._dirty.append(link)
        if link is not self._router:
            return
        self.problem = ""
        if self.direct:
            self._epoch = -1  # Another router, perhaps of another start of the service.
            self._ask(now)

    def link_lost(self, number: int, now: float) -> None:
        """What was sent on it is answered ShardLost. The shell delivers what the link had received before it says this."""
        link = self._links.pop(number, None)
        if link is None:
            return
        self._effects.append(Close(number))
        unsent, link.rows = link.rows, []
        unsent_entries = [link.calls.pop(row[0]) for row in unsent]
        lost, link.calls = link.calls, {}
        if link is self._router:
            self._router = self._open_router(link.endpoint)
            self._router.rows = unsent
            self._router.calls = {entry[3][0]: entry for entry in unsent_entries}
            self._sweep_at = min(self._sweep_at, self._refusal_at())
            for entry in lost.values():
                if entry[4] >= 0:
                    self._unpin(entry[4])
        else:
            self._leave(link)
            self._avoid[link.endpoint] = now + AVOID_S
            self._incomplete = True
            for slot, moving in [(slot, moving) for slot, moving in self._moving.items() if moving.source is link]:
                moving.passed = max(call_id for call_id, entry in lost.items() if entry[4] == slot)
                self._finish_moving(slot, moving)
            self._resend(unsent_entries)
            if now >= self._ask_at:
                self._ask(now)
        for entry in lost.values():
            if not entry[0].done():
                entry[0].set_exception(ShardLost(f"the connection to {link.endpoint} was lost with the call in flight"))

    def close(self) -> None:
        """Answers everything: the client gives up."""
        self.closed = True
        self._effects = [effect for effect in self._effects if isinstance(effect, Close)]
        for link in list(self._links.values()):
            unsent = {row[0] for row in link.rows}
            for call_id, entry in link.calls.items():
                if not entry[0].done():
                    lost: CallError = Unavailable("the client was closed before the call was sent")
                    if call_id not in unsent:
                        lost = ShardLost("the client was closed with the call in flight")
                    entry[0].set_exception(lost)
            link.calls, link.rows = {}, []
            self._effects.append(Close(link.number))
        self._links.clear()
        self._dirty.clear()
        self._sweep_at = math.inf

    def _new_link(self, endpoint: str) -> Link:
        link = Link(self._next_link, endpoint)
        self._next_link += 1
        self._links[link.number] = link
        return link

    def _open_router(self, endpoint: str) -> Link:
        link = self._new_link(endpoint)
        link.connecting_until = math.inf
        self._effects.append(Open(link.number, endpoint, reconnect=True))
        return link

    def _leave(self, link: Link) -> None:
        self._lanes = [None if lane is link else lane for lane in self._lanes]

    def _resend(self, entries: list[Entry]) -> None:
        """Through the router: calls which were not sent, or answered `moved`. Their slots have no lane of their own."""
        router = self._router
        if entries and (not router.rows or not router.connected):
            self._dirty.append(router)
        for entry in entries:
            if entry[4] >= 0:
                self._pins[entry[4]] = self._pins.get(entry[4], 0) + 1
            router.calls[entry[3][0]] = entry
            router.rows.append(entry[3])

    # Topology

    def _ask(self, now: float) -> None:
        self._ask_at = now + TOPOLOGY_ASK_S
        self._effects.append(AskTopology())

    def topology_received(self, topology: Topology, reachable: Container[str], now: float) -> None:
        """Calls go straight to the workers whose endpoints are `reachable`, to the others through the router."""
        if not self.direct or self.closed or topology.epoch < self._epoch:
            return
        self._epoch = topology.epoch
        self._incomplete = False
        known = {link.endpoint: link for link in self._links.values() if link is not self._router and link.endpoint}
        links = [self._link_to(endpoint, known, reachable, now) for endpoint in topology.endpoints]
        lanes = [links[worker] for worker in SlotTable(topology).worker_by_slot]
        used = {link.number for link in links if link is not None}
        old, self._lanes = self._lanes, lanes
        for link in known.values():
            for slot in sorted({entry[4] for entry in link.calls.values()}):
                if lanes[slot] is not link and old[slot] is link:
                    moving = self._start_moving(slot, link)
                    if moving.remaining == 0:
                        self._finish_moving(slot, moving)
            if link.number not in used and not link.calls:
                del self._links[link.number]
                if link.connected or link.connecting_until is not None:
                    self._effects.append(Close(link.number))

    def _link_to(self, endpoint: str | None, known: dict[str, Link], reachable: Container[str], now: float) -> Link | None:
        if endpoint is None or self._avoid.get(endpoint, now) > now:
            self._incomplete = True
            return None
        if endpoint not in reachable:
            return None
        self._avoid.pop(endpoint, None)
        if endpoint not in known:
            known[endpoint] = self._new_link(endpoint)
        return known[endpoint]

    def _start_moving(self, slot: int, source: Link) -> Moving:
        """From now on the slot's calls go through the router, as soon as the source has answered those it was sent."""
        moving = self._moving.get(slot)
        if moving is not None:
            return moving
        if self._lanes[slot] is source:
            self._lanes[slot] = None
        held = self._new_link("")
        held.connecting_until = math.inf  # Is no connection and never becomes one.
        held.rows = [row for row in source.rows if source.calls[row[0]][4] == slot]
        held.calls = {row[0]: source.calls.pop(row[0]) for row in held.rows}
        source.rows = [row for row in source.rows if row[0] not in held.calls]
        remaining = sum(entry[4] == slot for entry in source.calls.values())
        self._pins[slot] = self._pins.get(slot, 0) + 1
        moving = self._moving[slot] = Moving(source, remaining, held)
        return moving

    def _finish_moving(self, slot: int, moving: Moving) -> None:
        del self._moving[slot]
        del self._links[moving.held.number]
        for call_id in [call_id for call_id in moving.held.calls if call_id < moving.passed]:
            waiter = moving.held.calls.pop(call_id)[0]
            if not waiter.done():
                waiter.set_exception(Moved("the object moved with calls in flight, and a later one has run"))
        self._resend([moving.held.calls[call_id] for call_id in sorted(moving.held.calls)])
        self._unpin(slot)

    # Time

    def handle_timer(self, now: float) -> None:
        """Answers what is overdue. Looks at every call in flight, so it is called once a deadline, not once a call."""
        self._sweep_at = math.inf
        for link in list(self._links.values()):
            if link.connecting_until is not None and link.connecting_until <= now:
                self.link_lost(link.number, now)
        self._refuse_unsent(now)
        # Held calls first: an answer on the link they wait for sends them to the router's, which may have been looked at.
        for link in sorted(self._links.values(), key=lambda link: link.endpoint != ""):
            expired = [call_id for call_id, entry in link.calls.items() if entry[2] <= now]
            if expired:
                self._expire(link, expired)
        next_at = self._refusal_at()
        for link in self._links.values():
            if link.connecting_until is not None:
                next_at = min(next_at, link.connecting_until)
            if link.calls:
                next_at = min(next_at, min(entry[2] for entry in link.calls.values()))
        self._sweep_at = max(next_at, now + SWEEP_S)

    def _refusal_at(self) -> float:
        """When the first call has waited for a connection to the service for as long as calls do."""
        router = self._router
        if router.connected or not router.rows:
            return math.inf
        return min(router.calls[row[0]][5] for row in router.rows) + self._connect_timeout

    def _refuse_unsent(self, now: float) -> None:
        router = self._router
        if self._refusal_at() > now:
            return
        made_by = now - self._connect_timeout + SWEEP_S / 2  # Both sides of the comparison were rounded.
        waited = [row[0] for row in router.rows if router.calls[row[0]][5] <= made_by]
        error = f"{self._no_connection()} for {self._connect_timeout:g} s; the call was not sent"
        self._reject(router, {call_id: Unavailable(error) for call_id in waited})

    def _no_connection(self) -> str:
        why = f" ({self.problem})" if self.problem else ""
        return f"no connection to {self._router.endpoint}{why}"

    def _expire(self, link: Link, expired: list[int]) -> None:
        errors: dict[int, CallError] = {
            call_id: DeadlineExceeded("not answered in time", outcome="unknown") for call_id in expired
        }
        for row in link.rows:
            if row[0] in errors:
                errors[row[0]] = DeadlineExceeded(f"not sent in time: {self._no_connection()}")
        self._reject(link, errors)

    def _reject(self, link: Link, errors: dict[int, CallError]) -> None:
        for call_id, error in errors.items():
            entry = link.calls.get(call_id)
            if entry is not None and not entry[0].done():
                entry[0].set_exception(error)
        self._drop(link, errors)

    def _drop(self, link: Link, call_ids: Collection[int]) -> None:
        """Forgets calls, sent or not."""
        if link.rows and call_ids:
            link.rows = [row for row in link.rows if row[0] not in call_ids]
        for call_id in call_ids:
            entry = link.calls.pop(call_id, None)
            if entry is not None and entry[4] >= 0:
                self._settle(link, entry[4], call_id)

    # Numbers

    def statistics(self) -> ClientStatistics:
        links = self._links.values()
        return ClientStatistics(
            calls_in_flight=sum(len(link.calls) - len(link.rows) for link in links),
            calls_unsent=sum(len(link.rows) for link in links),
            links_connected=sum(link.connected for link in links),
            slots_direct=sum(lane is not None for lane in self._lanes),
            replies_unexpected=self._unexpected,
        )

    def check_invariants(self) -> None:
        """Recomputes every count from the calls. Tests call it after every step."""
        pins: dict[int, int] = dict.fromkeys(self._moving, 1)
        for entry in self._router.calls.values():
            if entry[4] >= 0:
                pins[entry[4]] = pins.get(entry[4], 0) + 1
        assert pins == self._pins, (pins, self._pins)
        for slot, moving in self._moving.items():
            sent = sum(entry[4] == slot for entry in moving.source.calls.values())
            assert moving.remaining == sent > 0, (slot, moving.remaining, sent)
            assert moving.source.number in self._links
        for link in self._links.values():
            assert all(row[0] in link.calls for row in link.rows), link.endpoint
            assert all(entry[2] >= self._sweep_at - SWEEP_S for entry in link.calls.values()), self._sweep_at
