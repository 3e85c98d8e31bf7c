"""The callers' side of wire protocol 1: calls in flight, where each goes, and what becomes of it.

Rule 1: pure. No socket, coroutine or clock; `now` is an argument; what the shell must do comes back as effects.
Rule 2: every call is answered once: by its reply, by its deadline, or because the link it was sent on was lost.
Rule 3: the calls to one object are delivered in the order in which they were made. A call changes its route (router or
straight to the worker) only when none to an object of the same slot is in flight on the other one.
Rule 4: failures that say nothing to the caller are kept from him: the call is tried again (`retries`).

A *link* is one connection, made once and lost once. There is always one to the router; those to workers are opened when
the first call needs them, and the calls wait the moment that takes. What was sent on a lost link may have been executed
(`ShardLost`, unless it is tried again); what was not sent yet goes to the router's link, and there it waits until there is one,
for so long as a call waits for a connection (`Unavailable`) or until its deadline.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterable, Mapping
from zlib import crc32

import msgspec

from tidegate.runtime.client.links import (
    IN_SESSION,
    PLAIN,
    AskTopology,
    Caller,
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
from tidegate.runtime.client.retries import LOOK_AGAIN_S, Holds, in_the_end
from tidegate.runtime.client.terms import ANSWER_S, Numbering, Terms
from tidegate.runtime.errors import BadRequest, CallError, DeadlineExceeded, Moved, Overloaded, ShardLost, Unavailable
from tidegate.runtime.ids import SLOT_MASK, slot_of
from tidegate.runtime.limits import CLIENT_CALLS_MAX, CONNECT_TIMEOUT_S, SLOTS
from tidegate.runtime.wire.encoding import Decode, error_from_raw, exception_for_caller, result_mismatch
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

GATHER_CALLS = 64
"""So many that are to be sent do not wait for others: they fill a message."""
NO_SLOT = -1
"""Of calls which always go through the router."""


class ClientMachine:
    """See the rules above. After any event the shell takes messages, then effects, then the next deadline."""

    def __init__(
        self, endpoint: str, *, terms: Terms, direct: bool, session: str, chance: Callable[[], float],
        connect_timeout: float | None = None,
    ) -> None:  # fmt: skip
        """`terms` are those of calls which name none. `session`: a name that no other client has. `chance`: a number from 0
        to 1, another one each time. Without `connect_timeout` a call that may be tried again waits for a service that has
        been there once until its own deadline."""
        self.terms = terms
        self._numbering = Numbering(session)
        self._connect_timeout = CONNECT_TIMEOUT_S if connect_timeout is None else connect_timeout
        self._is_patient = False
        self._may_be_patient = connect_timeout is None
        self.problem = ""
        """What the shell knows of why there is no connection to the router."""
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
        """By slot: calls in flight through the router, plus one while the slot is moving: it stays there. Plus one for each
        object that is held."""
        self._moving: dict[int, Moving] = {}
        self._holds = Holds(chance)
        self._links[0] = self._holds.link
        self._held = self._holds.by_object
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
        args: msgspec.Raw, decode: Decode, terms: Terms | None, now: float, caller: Caller = None,
    ) -> None:  # fmt: skip
        """Accepts one call; it leaves with the next `take_messages`. Raises Overloaded or Unavailable, and then the call has
        not been accepted."""
        link = self._router
        if slot >= 0:
            lane = self._lanes[slot]
            link = lane if lane is not None and slot not in self._pins else self._pin(slot, class_name, name, now)
        elif self._held and (class_name, name) in self._held:
            link = self._holds.link
        if self.closed or (class_name and len(link.calls) >= CLIENT_CALLS_MAX):
            self._refuse(link, slot)
        call_id = self._next_call
        self._next_call = call_id + 1
        if terms is None:
            terms = self.terms
        row: Row
        link.kinds |= IN_SESSION if terms.in_session and class_name else PLAIN
        if terms.options is not None:
            row = (call_id, class_name, name, method, args, terms.options)
        elif args is not NO_RAW:
            row = (call_id, class_name, name, method, args)
        else:
            row = (call_id, class_name, name, method)
        deadline = now + terms.timeout
        if deadline < self._sweep_at:
            self._sweep_at = deadline
        link.calls[call_id] = (waiter, decode, deadline, row, slot, now, terms, caller)
        if not link.rows:
            self._dirty.append(link)
        link.rows.append(row)

    def call_each(
        self, calls: Iterable[tuple[Waiter, str, msgspec.Raw]], class_name: str, method: str, decode: Decode,
        terms: Terms | None, now: float, caller: Caller,
    ) -> None:  # fmt: skip
        """`call` for a method of many objects: all but the names and the arguments is looked up once.
        Raises what `call` raises, for the first call that is not accepted."""
        terms = terms or self.terms
        kind, options, deadline = IN_SESSION if terms.in_session else PLAIN, terms.options, now + terms.timeout
        lanes, pins, held, dirty = self._lanes, self._pins, self._held, self._dirty
        begun = crc32(f"{class_name}/".encode())
        self._sweep_at = min(self._sweep_at, deadline)
        for waiter, name, args in calls:  # What makes them may make calls itself.
            slot, link = NO_SLOT, None
            if lanes:
                slot = slot_of(class_name, name) if "{" in name else crc32(name.encode(), begun) & SLOT_MASK
                link = lanes[slot]
            if link is None or pins or held or self.closed or len(link.calls) >= CLIENT_CALLS_MAX:
                self.call(waiter, slot, class_name, name, method, args, decode, terms, now, caller)
                continue
            call_id = self._next_call
            self._next_call = call_id + 1
            row: Row
            if options is not None:
                row = (call_id, class_name, name, method, args, options)
            elif args is not NO_RAW:
                row = (call_id, class_name, name, method, args)
            else:
                row = (call_id, class_name, name, method)
            link.calls[call_id] = (waiter, decode, deadline, row, slot, now, terms, caller)
            rows = link.rows
            if not rows:
                dirty.append(link)
            rows.append(row)
            if link.kinds != kind:
                link.kinds |= kind

    def _pin(self, slot: int, class_name: str, name: str, now: float) -> Link:
        """The slot's calls go through the router, or are held while it moves there; those of an object that is held wait."""
        if self._held and (class_name, name) in self._held:
            return self._holds.link
        moving = self._moving.get(slot)
        if moving is not None:
            return moving.held
        lane = self._lanes[slot]
        if lane is not None and self._pins[slot] == self._holds.by_slot.get(slot):
            return lane
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
                if self._held:
                    self._keep_unsent(link)
                if link.rows:
                    self._send_rows(link, messages, now)
            elif link.connecting_until is None and link.number in self._links:
                link.connecting_until = now + CONNECT_S
                self._sweep_at = min(self._sweep_at, link.connecting_until)
                self._effects.append(Open(link.number, link.endpoint, reconnect=False))
            elif link is self._router:
                self._sweep_at = min(self._sweep_at, self._refusal_at())
        return messages

    def _send_rows(self, link: Link, messages: list[tuple[int, bytes]], now: float) -> None:
        rows, link.rows = link.rows, []
        kinds, link.kinds = link.kinds, 0
        if kinds != PLAIN and self._next_call > self._numbering.changes_at:
            self._renew_numbering()
        parts: Iterable[tuple[bool, Iterable[Row]]] = [(kinds == IN_SESSION, rows)]
        if kinds not in (IN_SESSION, PLAIN):
            parts = itertools.groupby(
                rows, lambda row: bool(row[1]) and row[0] in link.calls and link.calls[row[0]][6].in_session
            )
        for in_session, part in parts:
            bodies, unsendable = bodies_of(list(part), self._numbering.head if in_session else None)
            messages += [(link.number, body) for body in bodies]
            if unsendable:
                self._reject(link, unsendable, now)

    def _renew_numbering(self) -> None:
        links = [link for link in self._links.values() if link.calls]
        oldest = min((next(iter(link.calls)) if link.endpoint else min(link.calls) for link in links), default=self._next_call)
        self._numbering.renew(self._next_call, oldest, sum(len(link.calls) for link in links))

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def has_work(self) -> bool:
        """Whether there is something to take."""
        return bool(self._dirty or self._effects)

    def may_gather(self) -> bool:
        """Whether few calls are to be sent, and others are unanswered, whose callers may have more. See `gathering`."""
        unsent = sum([len(link.rows) for link in self._dirty])
        return 0 < unsent < GATHER_CALLS and sum([len(link.calls) for link in self._links.values()]) > unsent

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
        take, from_router, moving, held = link.calls.pop, link is self._router, self._moving, self._held
        for reply in replies:
            entry = take(reply.id, None)  # type: ignore[arg-type]  # an id that is no int is not found
            if entry is None:
                self._unexpected += 1
                if reply.status != OK and not from_router and "leaving" in error_from_raw(reply.result).details:
                    self._send_nothing_more(link, NO_SLOT, now)
                continue
            waiter, decode, _, row, slot, _, _, _ = entry
            has_run = True
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
            else:
                error = error_from_raw(reply.result)
                has_run = self._failed(link, entry, error, now)
                if "leaving" in error.details and from_router:
                    link.connected, link.connecting_until = False, math.inf  # Calls wait for the next connection.
                elif "leaving" in error.details:
                    self._send_nothing_more(link, NO_SLOT if isinstance(error, Moved) else slot, now)
            if held or moving or (from_router and slot >= 0):
                self._settle(link, entry, has_run, now)

    def _parse(self, body: bytes) -> list[Reply]:
        try:
            return parse_replies(body)
        except Malformed:
            self._unexpected += 1
            return []

    def _failed(self, link: Link, entry: Entry, error: CallError, now: float) -> bool:
        """Gives the error to who waits, or keeps it from him: then the call is sent again. Whether it may have run for good."""
        waiter, _, _, _, slot, _, terms, _ = entry
        if isinstance(error, Moved) and link is not self._router and slot >= 0:
            self._refused_as_moved(link, entry, now)
            return False
        if waiter.done():
            return error.outcome != "not_executed"
        again = self._holds.try_again(entry, error, self._next_call, now)
        if again is None:
            waiter.set_exception(exception_for_caller(in_the_end(error, terms)))
            return error.outcome != "not_executed"
        self._hold(self._once_more(entry, again[0], now), now + again[1], refused=True)
        if self.direct and not isinstance(error, Overloaded):
            self._incomplete = True
            if now >= self._ask_at:
                self._ask(now)
        return False

    def _send_nothing_more(self, link: Link, answered: int, now: float) -> None:
        """Its worker is about to end, and what is still on its way then is lost: from now on its slots go through the router.
        `answered`: the slot of the call that has told it, which `_settle` takes away."""
        self._avoid[link.endpoint] = now + AVOID_S
        for slot in sorted({entry[4] for entry in link.calls.values()}):
            if slot >= 0 and self._lanes[slot] is link:
                moving = self._start_moving(slot, link)
                moving.remaining += slot == answered
                if moving.remaining == 0:
                    self._finish_moving(slot, moving, now)
        self._leave(link)

    def _refused_as_moved(self, link: Link, entry: Entry, now: float) -> None:
        """The worker does not own the object: its slot goes to the router."""
        row, slot = entry[3], entry[4]
        is_first = slot not in self._moving
        moving = self._start_moving(slot, link)
        moving.remaining += is_first  # This call was not seen there, and `_settle` takes it away.
        moving.refused.add(row[0])
        moving.held.calls[row[0]] = entry
        moving.held.add(row)
        self._incomplete = True
        if now >= self._ask_at:
            self._ask(now)

    def _settle(self, link: Link, entry: Entry, has_run: bool, now: float) -> None:
        """A call was answered on this link, or will never be, or not yet. `has_run`: it may have run, and is not sent again."""
        slot = entry[4]
        if self._held:
            self._sweep_at = min(self._sweep_at, self._holds.answered(entry, ran=has_run))
        if slot < 0 or link is self._holds.link:
            return
        if link is self._router:
            self._unpin(slot)
            return
        moving = self._moving.get(slot)
        if moving is not None and moving.source is link:
            if has_run:
                moving.passed.note(entry)
            moving.remaining -= 1
            if moving.remaining == 0:
                self._finish_moving(slot, moving, now)

    # Once more

    def _once_more(self, entry: Entry, terms: Terms, now: float) -> Entry:
        """The call with the time that is left for it."""
        waiter, decode, deadline, row, slot, made, _, caller = entry
        options = self._numbering.options_again(row[0], terms, deadline - now) if row[1] else None
        if options is not None:
            row = (*row[:4], row[4] if len(row) > 4 else NO_RAW, options)
        return (waiter, decode, deadline, row, slot, made, terms, caller)

    def _after_waiting(self, entry: Entry, now: float) -> Entry:
        """The call as it is sent now: what the service is told of its time is what is left of it."""
        terms = entry[6]
        if terms.history is None and (not terms.is_told or now - entry[5] < ANSWER_S):
            return entry
        return self._once_more(entry, terms, now)

    def _hold(self, entry: Entry, due: float, *, refused: bool) -> None:
        slot = entry[4]
        if slot >= 0 and entry[3][1:3] not in self._held:
            self._pins[slot] = self._pins.get(slot, 0) + 1
        self._holds.hold(entry, due, refused=refused)
        self._sweep_at = min(self._sweep_at, due)

    def _keep_unsent(self, link: Link) -> None:
        """What the link has not sent yet of objects that are held waits with the rest of them."""
        kept = [row for row in _unanswered(link) if row[1:3] in self._held]
        if not kept:
            return
        link.rows = [row for row in link.rows if row[1:3] not in self._held]
        for row in kept:
            entry = link.calls.pop(row[0])
            self._holds.keep(entry)
            if link is self._router and entry[4] >= 0:
                self._unpin(entry[4])

    def _release(self, now: float) -> None:
        """Calls of held objects go out again, unless earlier ones are still in flight."""
        due = self._holds.due(now)
        for name in [name for name in due if self._held[name].slot in self._moving]:
            due.discard(name)
            self._held[name].due = now + LOOK_AGAIN_S
        if not due:
            return
        for link in list(self._links.values()):
            if link is not self._holds.link and link.rows:
                self._keep_unsent(link)
        ready = self._holds.wait_for(self._links.values(), due)
        for name in ready:
            if self._held[name].slot >= 0:
                self._unpin(self._held[name].slot)
        out, late = self._holds.release(ready)
        for waiter, _, _, _, _, _, terms, _ in late:
            if not waiter.done():
                assert terms.history is not None, "only what was refused can be late"
                waiter.set_exception(in_the_end(terms.history.last, terms, passed=True))
        for entry in out:
            if not entry[0].done():
                self._send_again(self._after_waiting(entry, now), now)
        for link in self._links.values():
            _put_in_order(link)

    def _send_again(self, entry: Entry, now: float) -> None:
        row, slot = entry[3], entry[4]
        link = self._router
        if slot >= 0:
            lane = self._lanes[slot]
            link = lane if lane is not None and slot not in self._pins else self._pin(slot, row[1], row[2], now)
        link.calls[row[0]] = entry
        if not link.rows:
            self._dirty.append(link)
        link.add(row)

    # Links

    def link_connected(self, number: int, now: float) -> None:
        link = self._links.get(number)
        if link is None:
            return
        link.connected = True
        link.connecting_until = None
        self._drop(link, dict.fromkeys(row[0] for row in _unanswered(link) if link.calls[row[0]][0].done()), now)
        for row in _unanswered(link):
            link.calls[row[0]] = self._after_waiting(link.calls[row[0]], now)
        link.rows = [link.calls[row[0]][3] for row in _unanswered(link)]
        self._dirty.append(link)
        if link is not self._router:
            return
        self.problem = ""
        self._is_patient = self._may_be_patient
        if self.direct or self.terms.retries:
            self._epoch = -1  # Another router, perhaps of another start of the service.
            self._ask(now)

    @property
    def endpoint(self) -> str:
        """Of the service."""
        return self._router.endpoint

    def link_refused(self, number: int, error: CallError, now: float) -> bool:
        """The service does not take the client: whatever waits for a connection to it is answered with that. False for a link
        to a worker, which is lost like any other."""
        if number != self._router.number:
            return False
        self.problem = error.message
        self._reject(self._router, {row[0]: error for row in _unanswered(self._router)}, now)
        return True

    def link_lost(self, number: int, now: float) -> None:
        """What was sent on it is tried again or answered ShardLost. The shell delivers what the link had received before it says
        this."""
        link = self._links.pop(number, None)
        if link is None:
            return
        self._effects.append(Close(number))
        unsent = [link.calls.pop(row[0]) for row in _unanswered(link)]
        lost = list(link.calls.values())
        link.rows, link.calls = [], {}
        again = self._lost_calls(link, lost, now)
        if link is self._router:
            self._router = self._open_router(link.endpoint)
            for entry in sorted(again + unsent, key=_call_id):
                self._router.calls[entry[3][0]] = entry
                self._router.add(entry[3])
            self._sweep_at = min(self._sweep_at, self._refusal_at())
            return
        self._leave(link)
        self._avoid[link.endpoint] = now + AVOID_S
        self._incomplete = True
        for slot, moving in [(slot, moving) for slot, moving in self._moving.items() if moving.source is link]:
            for entry in lost:
                if entry[4] == slot:
                    moving.passed.note(entry)
            moving.held.calls |= {entry[3][0]: entry for entry in again if entry[4] == slot}
            again = [entry for entry in again if entry[4] != slot]
            self._finish_moving(slot, moving, now)
        self._resend(sorted(again + unsent, key=_call_id), now)
        if now >= self._ask_at:
            self._ask(now)

    def _lost_calls(self, link: Link, lost: list[Entry], now: float) -> list[Entry]:
        """Answers those that cannot be sent again, keeps for a while those that have failed before, and returns the others."""
        again = []
        for entry in lost:
            terms, slot = entry[6], entry[4]
            error = ShardLost(f"the connection to {link.endpoint} was lost with the call in flight")
            once_more = None if entry[0].done() else self._holds.try_again(entry, error, self._next_call, now)
            if self._held:
                self._sweep_at = min(self._sweep_at, self._holds.answered(entry, ran=True))
            if once_more is not None and (terms.history is None or link is self._router):
                again.append(self._once_more(entry, once_more[0], now))
                continue
            if link is self._router and slot >= 0:
                self._unpin(slot)
            if once_more is not None:
                self._hold(self._once_more(entry, once_more[0], now), now + once_more[1], refused=False)
            elif not entry[0].done():
                entry[0].set_exception(in_the_end(error, terms))
        return again

    def close(self, *, is_heard: bool = True) -> None:
        """Answers everything, if anybody can hear it: the client gives up."""
        self.closed = True
        self._effects = [effect for effect in self._effects if isinstance(effect, Close)]
        for link in list(self._links.values()):
            unsent = {row[0] for row in link.rows}
            for call_id, entry in link.calls.items():
                if is_heard and not entry[0].done():
                    lost: CallError = Unavailable("the client was closed before the call was sent")
                    if call_id not in unsent:
                        lost = ShardLost("the client was closed with the call in flight")
                    entry[0].set_exception(in_the_end(lost, entry[6]))
            link.calls, link.rows = {}, []
            if link.endpoint:
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

    def _resend(self, entries: list[Entry], now: float) -> None:
        """Through the router, in order: calls which were not sent, refused as `moved`, or lost, with the time that is left for
        them. Their slots have no lane. Those that nobody waits for any more are forgotten."""
        router = self._router
        entries = [self._after_waiting(entry, now) for entry in entries if not entry[0].done()]
        if entries and (not router.rows or not router.connected):
            self._dirty.append(router)
        for entry in entries:
            if entry[4] >= 0:
                self._pins[entry[4]] = self._pins.get(entry[4], 0) + 1
            router.calls[entry[3][0]] = entry
            router.add(entry[3])
        _put_in_order(router)

    # Topology

    def keys_told(self, *, kept: bool) -> None:
        """Whether the service runs a call once, however often it is sent with the same key."""
        self._holds.keys_kept = kept

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
                        self._finish_moving(slot, moving, now)
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
        held.rows = [row for row in _unanswered(source) if source.calls[row[0]][4] == slot]
        held.calls = {row[0]: source.calls.pop(row[0]) for row in held.rows}
        source.rows = [row for row in source.rows if row[0] not in held.calls]
        remaining = sum(entry[4] == slot for entry in source.calls.values())
        self._pins[slot] = self._pins.get(slot, 0) + 1
        moving = self._moving[slot] = Moving(source, remaining, held)
        return moving

    def _finish_moving(self, slot: int, moving: Moving, now: float) -> None:
        del self._moving[slot]
        del self._links[moving.held.number]
        refused = [moving.held.calls[call_id] for call_id in sorted(moving.refused & moving.held.calls.keys())]
        for entry in filter(moving.passed.has_passed, refused):
            del moving.held.calls[entry[3][0]]
            if not entry[0].done():
                error = Moved("the object moved with calls in flight, and a later one has run")
                entry[0].set_exception(in_the_end(error, entry[6]))
        self._resend([moving.held.calls[call_id] for call_id in sorted(moving.held.calls)], now)
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
                self._expire(link, expired, now)
        if self._held:
            self._release(now)
        next_at = min(self._refusal_at(), self._holds.next_due())
        for link in self._links.values():
            if link.connecting_until is not None:
                next_at = min(next_at, link.connecting_until)
            if link.calls:
                next_at = min(next_at, min(entry[2] for entry in link.calls.values()))
        self._sweep_at = max(next_at, now + SWEEP_S)

    def _impatient(self) -> list[Row]:
        """Unsent calls that wait for a connection to the service no longer than for so long."""
        router = self._router
        if router.connected:
            return []
        return [row for row in _unanswered(router) if not (self._is_patient and router.calls[row[0]][6].retries)]

    def _refusal_at(self) -> float:
        """When the first of them has waited for so long."""
        calls = self._router.calls
        return min((calls[row[0]][5] for row in self._impatient()), default=math.inf) + self._connect_timeout

    def _refuse_unsent(self, now: float) -> None:
        router = self._router
        if self._refusal_at() > now:
            return
        made_by = now - self._connect_timeout + SWEEP_S / 2  # Both sides of the comparison were rounded.
        waited = [row[0] for row in self._impatient() if router.calls[row[0]][5] <= made_by]
        error = f"{self._no_connection()} for {self._connect_timeout:g} s; the call was not sent"
        self._reject(router, {call_id: Unavailable(error) for call_id in waited}, now)

    def _no_connection(self) -> str:
        why = f" ({self.problem})" if self.problem else ""
        return f"no connection to {self._router.endpoint}{why}"

    def _expire(self, link: Link, expired: list[int], now: float) -> None:
        unsent = {row[0] for row in link.rows}
        errors: dict[int, CallError] = {}
        for call_id in expired:
            history = link.calls[call_id][6].history
            if call_id not in unsent:
                errors[call_id] = DeadlineExceeded("not answered in time", outcome="unknown")
            elif history is not None:
                errors[call_id] = history.last
            elif link is self._holds.link:
                errors[call_id] = DeadlineExceeded("not sent in time: an earlier call to the object is tried again and again")
            else:
                errors[call_id] = DeadlineExceeded(f"not sent in time: {self._no_connection()}")
        self._reject(link, errors, now)

    def _reject(self, link: Link, errors: Mapping[int, CallError], now: float) -> None:
        for call_id, error in errors.items():
            entry = link.calls.get(call_id)
            if entry is not None and not entry[0].done():
                entry[0].set_exception(in_the_end(error, entry[6]))
        self._drop(link, errors, now)

    def _drop(self, link: Link, errors: Mapping[int, CallError | None], now: float) -> None:
        """Forgets calls, sent or not."""
        if link.rows and errors:
            link.rows = [row for row in link.rows if row[0] not in errors]
        for call_id, error in errors.items():
            entry = link.calls.pop(call_id, None)
            if entry is not None:
                self._settle(link, entry, error is not None and error.outcome != "not_executed", now)

    # Numbers

    def statistics(self) -> ClientStatistics:
        links = self._links.values()
        return ClientStatistics(
            calls_in_flight=sum(len(link.calls) - len(link.rows) for link in links),
            calls_unsent=sum(len(link.rows) for link in links),
            links_connected=sum(link.connected for link in links),
            slots_direct=sum(lane is not None for lane in self._lanes),
            replies_unexpected=self._unexpected,
            calls_held=len(self._holds.link.calls),
        )

    def check_invariants(self) -> None:
        """Recomputes every count from the calls. Tests call it after every step."""
        self._holds.check_invariants()
        pins: dict[int, int] = {slot: held for slot, held in self._holds.by_slot.items() if slot >= 0}
        for slot in self._moving:
            pins[slot] = pins.get(slot, 0) + 1
        for entry in self._router.calls.values():
            if entry[4] >= 0:
                pins[entry[4]] = pins.get(entry[4], 0) + 1
        assert pins == self._pins, (pins, self._pins)
        for slot, moving in self._moving.items():
            sent = sum(entry[4] == slot for entry in moving.source.calls.values())
            assert moving.remaining == sent > 0, (slot, moving.remaining, sent)
            assert moving.source.number in self._links
        assert self._sweep_at <= max(self._holds.next_due(), 0.0) + SWEEP_S or not self._held, "held calls go out in time"
        for link in self._links.values():
            assert not link.endpoint or list(link.calls) == sorted(link.calls), link.endpoint
            assert all(row[0] in link.calls for row in link.rows), link.endpoint
            assert all(entry[2] >= self._sweep_at - SWEEP_S for entry in link.calls.values()), self._sweep_at


def _call_id(entry: Entry) -> int:
    call_id: int = entry[3][0]
    return call_id


def _unanswered(link: Link) -> list[Row]:
    """What is to be sent. A service that is out of its mind may have answered it already."""
    return [row for row in link.rows if row[0] in link.calls]


def _put_in_order(link: Link) -> None:
    """The oldest call first: what is older has been answered."""
    calls = link.calls
    if any(earlier > later for earlier, later in itertools.pairwise(calls)):
        link.calls = dict(sorted(calls.items()))
