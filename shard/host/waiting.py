"""Where calls wait that cannot be started at once, and for what: for the disk to catch up, for the end of an object that was
reset, for an object's header to be read, for their client to take replies, or at the gate of an object.

Guarantee: nobody overtakes. While a call waits here, later calls to its object wait behind it; all that wait for one thing are
delivered together, in order. There is room for so many calls and bytes (see `call_book`); who finds none is refused, not
executed.

Rule: at the gate of an object the gate itself keeps the order (it orders sections too, and knows no calls); who waits there is
noted here all the same, so that whoever looks for a call, or takes one out, need not know where it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from tidegate.runtime.errors import CallError, Internal, Overloaded
from tidegate.runtime.limits import RETRY_UNREAD_MS, TURN_MESSAGES_MAX
from tidegate.runtime.wire.protocol import Origin
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.input_gate import Section
from tidegate.shard.host.call import Call
from tidegate.shard.host.call_book import CallBook
from tidegate.shard.host.outbound import InternalOrigin, LocalOrigin
from tidegate.shard.host.turn import Turn
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import HEADER, UNKNOWN, Done, Reader, ShardDamaged, Unknown

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.keyed_calls import KeyedRun
    from tidegate.shard.objects.methods import Method

Queue = dict[Call, None]
"""In order; who is answered meanwhile leaves from wherever it stands."""


def client_of(origin: Origin | KeyedRun) -> bytes:
    """Who has sent the call that is to be answered there. Empty for what has come from inside."""
    return (origin if origin.__class__ is Origin else cast("InternalOrigin", origin).asked_by(0)[0]).client


class Readers(Protocol):
    """Clients, as those who take replies."""

    crowded: set[bytes]
    """Those that have too many to take before anything else is run that answers much."""

    def made(self, client: bytes, size: int) -> None:
        """There is a large result for the client, and it will be given to `reply` in this turn."""


class EveryoneReads:
    def __init__(self) -> None:
        self.crowded: set[bytes] = set()

    def made(self, client: bytes, size: int) -> None:
        pass


class HeaderStore(Protocol):
    reader: Reader | None

    def recall(self, object_key: bytes, key: str) -> bytes | Unknown | None: ...

    def fetch(self, object_key: bytes, keys: Sequence[str], done: Done) -> None: ...

    def is_read_in(self, object_key: bytes, key: str) -> bool: ...

    def note_read_in(self, object_key: bytes, keys: Sequence[str]) -> None: ...


class WaitingRoom:
    """`deliver` is called again for each call whose wait is over, `refuse` answers one to an object of that
    class for which there is no room."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        book: CallBook,
        deliver: Callable[[Call], None],
        refuse: Callable[[Origin, Any, CallError, str], None],
        turn: Turn,
        crowded: Collection[bytes],
    ) -> None:
        """See `Readers.crowded`; `has_room` is to be called of each that is crowded no longer."""
        self._loop = loop
        self._book = book
        self._deliver = deliver
        self._refuse = refuse
        self._turn = turn
        self.stalled: Queue = {}
        """Calls that came while too much was not durable."""
        self.is_closed = False
        """Calls cannot be started without having asked here. It may stay set when nothing is the matter any more."""
        self._crowded = crowded
        self._unread: dict[bytes, dict[tuple[str, str], Queue]] = {}
        """By client, and by object: calls that wait until the client has taken replies. The objects take turns."""
        self._unread_calls: dict[bytes, int] = {}
        self.large: set[tuple[str, str]] = set()
        """Class and name of methods that have answered much."""
        self._ending: dict[bytes, tuple[ObjectCache, Queue]] = {}
        """By object: the cache of an activation that is in memory no more, and the calls that wait for its last commit."""
        self.has_read = False
        """Those are delivered whose object has just been read."""
        self._reading: dict[bytes, Queue] = {}
        """By object: the calls that wait until its header has been read."""
        self.repeating: dict[object, Queue] = {}
        """By the first call with their key, which runs: those that came after it."""

    # For what they wait

    def stall(self, call: Call) -> None:
        """Too much is not durable, or others wait for that already."""
        self.is_closed = True
        self._join(self.stalled, call, ahead=0)

    def look(self) -> None:
        """Whether anything is still the matter."""
        self.is_closed = bool(self.stalled or self._crowded or self._unread)

    def until_read(self, call: Call) -> bool:
        """Whether the call has to wait until its client has taken replies: if it has too many to take, and this call is likely to
        answer much, or if others that it made to the object wait for that. It does wait then, or has been refused."""
        if call.was_let_in:
            return False
        request, client = call.request, client_of(call.origin)
        queues = self._unread.get(client, {})
        queue = queues.get((request.cls, request.name))
        if queue is None and (client not in self._crowded or (request.cls, request.method) not in self.large):
            return False
        # Half of all room is left to calls that wait for something else.
        refusal = self._book.refusal(call, ahead=0 if queue is None else len(queue)) or self._book.half_refusal(call)
        if refusal is None:
            if queue is None:
                queue = queues[request.cls, request.name] = {}
                self._unread[client] = queues
            self._enter(queue, call)
        else:
            self._refuse(call.origin, request.id, refusal, request.cls)
        return True

    def takes(self, object_key: bytes, call: Call) -> bool:
        """Whether a call to an object that is not in memory has to wait behind others; it does then, or has been refused."""
        if (queue := self._reading.get(object_key)) is not None:
            self._join(queue, call, ahead=len(queue))
        elif (ending := self._ending.get(object_key)) is not None:
            self._join(ending[1], call, ahead=len(ending[1]))
        elif self.stalled:
            self.stall(call)
        else:
            return False
        return True

    def reads(self, store: HeaderStore, object_key: bytes, call: Call, first_keys: Sequence[str] = ()) -> bool:
        """Whether the header of the object has to be fetched first; the call waits for it then, or has been refused. With it come
        these keys, which the object is likely to ask for."""
        if store.reader is None or store.recall(object_key, HEADER) is not UNKNOWN or store.is_read_in(object_key, HEADER):
            return False
        refusal = self._book.refusal(call, ahead=0)
        if refusal is None:
            keys = (HEADER, *first_keys)
            store.fetch(
                object_key, keys, partial(self._was_read, store, object_key, keys)
            )  # If that raises, nobody waits for it.
            queue = self._reading[object_key] = {}
            self._enter(queue, call)
        else:
            self._refuse(call.origin, call.request.id, refusal, call.request.cls)
        return True

    def settle(self, cache: ObjectCache, queued: list[Call]) -> None:
        """The object is reset. What was queued for it goes to its successor, which may begin when the commit in flight has
        ended: what is durable then is all that it knows."""
        waiting = queued + self._take_stalled(cache)
        if self.stalled:  # Perhaps nothing is left whose commit they could wait for.
            self._loop.call_soon(self._deliver_stalled, context=NEUTRAL)
        _, queue = self._ending.get(cache.key, (cache, {}))  # Known: the runtime has changed it, and that change is lost.
        if waiting or queue or cache.committing is not None or cache.dirty:
            self._ending[cache.key] = cache, queue
            for call in waiting:
                self._enter(queue, call)
            self._loop.call_soon(self._deliver_settled, cache.key, context=NEUTRAL)

    def at_gate(self, call: Call, activation: Activation, method: Method, section: Section) -> None:
        """The gate of the object does not let it in now."""
        call.activation = activation
        call.method = method
        call.section = section
        call.since_s = self._loop.time()
        if call.trace is not None:
            call.trace.queued()
        if call.chain is not None and isinstance(call.origin, LocalOrigin):
            call.origin.place = call
        self._book.queued(call)
        activation.gate.wait(section, call)
        activation.schedule_pump()

    def behind(self, first: object, call: Call) -> None:
        """It has the same key as one that runs, and will know what that was answered."""
        queue = self.repeating.get(first)
        self._join({} if queue is None else queue, call, ahead=0 if queue is None else len(queue))
        if queue is None and call.queue is not None:
            self.repeating[first] = call.queue

    def first_ended(self, first: object) -> None:
        if self.repeating and first in self.repeating:
            self._loop.call_soon(self._deliver_repeats, first, context=NEUTRAL)

    def is_away(self, object_key: bytes) -> bool:
        """Whether the object is being read, or an activation of it that was reset has not ended yet."""
        return object_key in self._reading or object_key in self._ending

    # Whose wait is over

    def commit_ended(self) -> None:
        for key in self._ending:
            self._loop.call_soon(self._deliver_settled, key, context=NEUTRAL)
        if self.stalled:
            self._loop.call_soon(self._deliver_stalled, context=NEUTRAL)

    def has_room(self, client: bytes) -> None:
        """It has taken replies."""
        if client in self._unread:
            self._loop.call_soon(self._deliver_unread, client, context=NEUTRAL)

    def refuse_of(self, client: bytes, request_ids: Collection[Any]) -> int:
        """Who made these calls through the client does not read: those that wait, for whatever, are not run. How many."""
        calls = [call for call in self._book.waiting if call.request.id in request_ids and client_of(call.origin) == client]
        self.take_out(calls)
        error = Overloaded("the client has too many replies to read", retry_after_ms=RETRY_UNREAD_MS)
        for call in calls:
            self._refuse(call.origin, call.request.id, error, call.request.cls)
        return len(calls)

    def take_out(self, calls: Iterable[Call]) -> None:
        """Whoever takes them out answers them."""
        at_gates: dict[tuple[Activation, Section], set[Call]] = {}
        for call in calls:
            if call.queue is not None:
                del call.queue[call]
            else:
                assert call.activation is not None
                at_gates.setdefault((call.activation, call.activation.gate.living(call.section)), set()).add(call)
            self._book.dropped(call)
        for (activation, section), gone in at_gates.items():  # All at once: each pass over those who wait costs as much.
            activation.gate.give_up(section, gone)
            activation.schedule_pump()

    def queues(self) -> Iterator[Queue]:
        yield self.stalled
        yield from self._reading.values()
        yield from (queue for _, queue in self._ending.values())
        yield from self.repeating.values()
        for queues in self._unread.values():
            yield from queues.values()

    def _join(self, queue: Queue, call: Call, ahead: int) -> None:
        refusal = self._book.refusal(call, ahead)
        if refusal is None:
            self._enter(queue, call)
        else:
            self._refuse(call.origin, call.request.id, refusal, call.request.cls)

    def _enter(self, queue: Queue, call: Call) -> None:
        queue[call] = None
        call.queue = queue
        self._book.queued(call)

    def _take_stalled(self, cache: ObjectCache) -> list[Call]:
        """The calls of one object wait in one place, so that they stay in order."""
        name, class_name = cache.name, cache.class_name
        taken = [call for call in self.stalled if call.request.name == name and call.request.cls == class_name]
        for call in taken:
            del self.stalled[call]
            self._book.dropped(call)
        return taken

    def _deliver_all(self, queue: Queue) -> None:
        """At once, so that no call that arrives meanwhile overtakes those that waited. Each leaves its room before it may need
        other room."""
        self._turn.begin()
        for call in queue:
            self._book.dropped(call)
            self._deliver(call)
        self._turn.end_soon()

    def _deliver_settled(self, key: bytes) -> None:
        cache, queue = self._ending.get(key, (None, {}))
        if cache is not None and cache.committing is None and not cache.dirty:
            del self._ending[key]
            self._deliver_all(queue)

    def _deliver_stalled(self) -> None:
        """Once there is too much again, the rest stalls again, in order."""
        stalled, self.stalled = self.stalled, {}
        self._deliver_all(stalled)

    def _deliver_repeats(self, first: object) -> None:
        if (queue := self.repeating.pop(first, None)) is not None:
            self._deliver_all(queue)

    def _deliver_unread(self, client: bytes) -> None:
        """One call of each object after the other, until there are too many replies again."""
        queues = self._unread.get(client, {})
        self._turn.begin()
        for _ in range(TURN_MESSAGES_MAX):
            if not queues or client in self._crowded:
                break
            key, queue = next(iter(queues.items()))
            del queues[key]
            if queue:  # Those whose deadline has passed have left it.
                call = next(iter(queue))
                del queue[call]
                self._book.dropped(call)
                if queue:
                    queues[key] = queue
                call.was_let_in = True
                self._deliver(call)
        if not queues:
            self._unread.pop(client, None)
        elif client not in self._crowded:
            self._loop.call_soon(self._deliver_unread, client, context=NEUTRAL)
        self._turn.end_soon()

    def _was_read(self, store: HeaderStore, object_key: bytes, keys: Sequence[str], _: Any, error: Exception | None) -> None:
        """The pages are in memory now: reading them again costs nothing, and no header has to be handed around."""
        queue = self._reading.pop(object_key)
        if error is None or isinstance(error, ShardDamaged):  # The shard is about to be stopped, and refuses what it is asked.
            store.note_read_in(object_key, keys)
            self.has_read = True
            self._deliver_all(queue)
            self.has_read = False
            store.note_read_in(b"", ())
            return
        for call in queue:
            self._book.dropped(call)
            text = f"the object could not be read: {error}"
            self._refuse(call.origin, call.request.id, Internal(text, outcome="not_executed"), call.request.cls)
        self._turn.end_soon()
