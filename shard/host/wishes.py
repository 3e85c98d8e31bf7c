"""What operators wish of one object, carried out where the object is: in memory behind its input gate, else on its storage.

Guarantee: a wish is answered once. What it has changed, and what it has seen, is durable when the answer says so. One that was
not begun in its time never is. No code of the object runs for it (a method that is called apart), and no object comes into being
or into memory because somebody looks at it. Classes that the app does not have, and objects in quarantine, are served too.

Rule: what a wish means for the storage of an object stands in `core.wishes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from tidegate.runtime.errors import CallError, DeadlineExceeded, Internal, Moved, UnknownClass, from_wire
from tidegate.runtime.ids import ObjectId, object_key, shard_of_slot, slot_of
from tidegate.runtime.logs.tracebacks import whole_traceback
from tidegate.runtime.wire.plain_json import from_plain, to_plain
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, Request, encode
from tidegate.runtime.wire.wishes import OF_MANY, CallMethod, Evict, Get, Inspect, ObjectWish, Show, TurnAlarm
from tidegate.shard.core.cache import Budget, ObjectCache
from tidegate.shard.core.states import InvalidTransition
from tidegate.shard.core.wishes import Clocks, Reads, StorageWish, carry_out, reads_of, refused
from tidegate.shard.host.call import Call
from tidegate.shard.host.inspection import inspect
from tidegate.shard.host.many_wishes import Many
from tidegate.shard.host.outbound import BuiltIn, InternalOrigin
from tidegate.shard.host.stopped_shards import StoppedShards
from tidegate.shard.host.table import Kept
from tidegate.shard.loop.context import CURRENT
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.interface import HEADER, ShardDamaged

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host

Answered = Callable[[dict[str, Any] | None, dict[str, Any] | None], object]
"""Told an error as the wire protocol has it, or None, and what came of a wish, in a form that JSON has."""

AGAIN_S = 0.005
"""After this time it is looked again whether an object that is away is back."""


class WishOrigin(BuiltIn):
    """A wish as a call to an object that is in memory: the gate lets it in, and its answer waits for what it reveals."""

    __slots__ = ("_answered", "_error", "_left", "_result", "_wish", "call")

    name = "a wish of an operator"

    def __init__(self, wish: StorageWish, answered: Answered, left: Callable[[], object]) -> None:
        """`left`: the object has left memory before."""
        super().__init__()
        self._wish = wish
        self._answered: Answered | None = answered
        self._left = left
        self._error: dict[str, Any] | None = None
        self._result: dict[str, Any] | None = None
        self.call: Call | None = None
        """Until it is begun or answered."""

    async def function(self, instance: DurableObject) -> None:
        self.call = None
        activation = cast("Activation", CURRENT.get())
        activation.count.calls -= 1  # It was counted like all calls; of its class it is none.
        if self._answered is None:
            return
        cache = activation.cache
        reads = reads_of(self._wish)
        if not is_in_memory(cache.store, cache.key, reads):
            await activation.wait_fetched(lambda done: fetch(cache.store, cache.key, reads, done), lambda rows: rows, False)
        try:
            self._result = carry_out(self._wish, cache, activation.host.wishes.clocks(cache.shard))
        except CallError as error:
            self._error = error.to_wire()

    def not_in_memory(self) -> bool:
        self.call = None
        if self._answered is not None:
            self._answered = None
            self._left()
        return True

    def answer(self, status: int, result: Any) -> None:
        self.end(result if status == ERROR else self._error, self._result)

    def end(self, error: dict[str, Any] | None, result: dict[str, Any] | None = None) -> None:
        self.call = None
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(error, None if error is not None else result)


class MethodOrigin(InternalOrigin):
    """A method that an operator has called: an ordinary call, but for where its answer goes."""

    __slots__ = ("_answered", "call")

    def __init__(self, answered: Answered) -> None:
        super().__init__()
        self._answered: Answered | None = answered
        self.call: Call | None = None

    def answer(self, status: int, result: Any) -> None:
        if status == ERROR:
            self.end(result)
        else:
            value = msgspec.msgpack.decode(result) if isinstance(result, msgspec.Raw) else result
            self.end(None, {"result": to_plain(value)})

    def end(self, error: dict[str, Any] | None, result: dict[str, Any] | None = None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(error, result)


class AbandonedOrigin(InternalOrigin):
    """An operator who wishes something of an alarm that was given up."""

    __slots__ = ("_answered", "_wish")

    def __init__(self, wish: TurnAlarm, answered: Answered) -> None:
        super().__init__()
        self._wish = wish
        self._answered = answered

    def answer(self, status: int, result: Any) -> None:
        if status == ERROR:
            self._answered(result, None)
        else:
            self._answered(None, {"alarm": self._wish.do})


def is_in_memory(store: Any, key: bytes, reads: Reads) -> bool:
    """Whether these rows of an object can be read at once."""
    if reads.limit:
        return store.scan_now(key, reads.start, reads.end, reverse=False, limit=reads.limit) is not None
    return store.reader is None


def fetch(store: Any, key: bytes, reads: Reads, done: Callable[[Any, Exception | None], object]) -> None:
    """Brings rows of an object into memory, where only the disk may have them."""
    if reads.limit:
        store.fetch_range(key, reads.start, reads.end, False, reads.limit, done)
    else:
        store.fetch(key, reads.keys, done)


class Wishes:
    """Of the objects of one worker."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._orphans: dict[str, Kept] = {}
        """Classes that the app does not have, as far as something was changed in them."""

    def begin(self, wish: ObjectWish, class_name: str, name: str, timeout_s: float, answered: Answered) -> None:
        """`answered` is called once. The name is one that an object may have."""
        due_s = self._host.loop.time() + timeout_s
        shard = shard_of_slot(slot_of(class_name, name), self._host.settings.shards_total)
        if shard not in self._host.stores:
            answered(self._refusal(shard).to_wire(), None)
        elif isinstance(wish, CallMethod):
            self._call(wish, class_name, name, due_s, answered)
        elif isinstance(wish, Inspect):
            self._inspect(class_name, name, shard, answered)
        elif isinstance(wish, Evict):
            self._evict(class_name, name, answered)
        elif isinstance(wish, TurnAlarm) and wish.abandoned_at:
            given_up, request = self._host.alarms.given_up, Request(0, "", f"{class_name}/{name}", wish.do)
            carry_out = given_up.drop if wish.do == "drop" else given_up.run
            carry_out(request, AbandonedOrigin(wish, answered), wish.abandoned_at)
        else:
            self._begin(wish, class_name, name, shard, due_s, answered)

    def begin_many(self, wish: OF_MANY, timeout_s: float, answered: Answered) -> None:
        """Each as by `begin`. `answered` is called once, when all have been."""
        Many(self, self._host.loop, wish, timeout_s, answered).go_on()

    def _refusal(self, shard: int) -> CallError:
        """Of one that this worker does not serve."""
        return self._host.stopped.refusal(shard) or Moved(f"this worker does not own shard {shard}; ask again")

    def clocks(self, shard: int) -> Clocks:
        return Clocks(self._host.wall_us(), self._host.alarms.ahead_us(shard))

    def _start(self, work: Any) -> None:
        task = self._host.loop.create_task(work, context=NEUTRAL)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard, context=NEUTRAL)

    # Storage

    def _begin(self, wish: StorageWish, class_name: str, name: str, shard: int, due_s: float, answered: Answered) -> None:
        host = self._host
        kept = host.classes.get(class_name)
        if kept is None or kept.activations.find(name) is None:
            self._start(self._apart(wish, class_name, name, shard, due_s, answered))
            return
        origin = WishOrigin(wish, answered, lambda: self._begin(wish, class_name, name, shard, due_s, answered))
        call = origin.call = Call(Request(0, class_name, name, origin.name), origin)
        host.loop.call_at(due_s, self._expire, origin, context=NEUTRAL)
        host.deliver_wish_soon(call)

    def _expire(self, origin: WishOrigin | MethodOrigin) -> None:
        call = origin.call
        if call is not None and call.waits:
            self._host.waiting.take_out([call])
            text = "the gate of the object has not let it in in time; `tidegate inspect` says what keeps it closed"
            origin.end(DeadlineExceeded(text).to_wire())
            self._host.turn.end_soon()
        else:
            text = "it was begun and has not ended in time, or what it saw or changed is not durable yet"
            origin.end(DeadlineExceeded(text, outcome="unknown").to_wire())

    async def _apart(self, wish: StorageWish, class_name: str, name: str, shard: int, due_s: float, answered: Answered) -> None:
        """Of an object of which no instance is in memory."""
        host, key, reads, was_fetched = self._host, object_key(class_name, name), reads_of(wish), False
        try:
            while True:
                store, kept = host.stores.get(shard), host.classes.get(class_name)
                if store is None:
                    raise self._refusal(shard)
                if kept is not None and kept.activations.find(name) is not None:  # By now it is.
                    self._begin(wish, class_name, name, shard, due_s, answered)
                    return
                if host.loop.time() >= due_s:
                    raise DeadlineExceeded("the object was on its way into memory, or out of it, all the time")
                if host.waiting.is_away(key):
                    await asyncio.sleep(AGAIN_S)
                elif not was_fetched and not is_in_memory(store, key, reads):
                    was_fetched = True
                    await self._fetched(store, shard, key, reads)
                else:
                    host.turn.begin()
                    self._carry_out(wish, kept, class_name, name, shard, answered)
                    host.turn.end_soon()
                    return
        except CallError as error:
            answered(error.to_wire(), None)
        except ShardDamaged as error:
            answered((StoppedShards.answer(error) if shard in host.stores else self._refusal(shard)).to_wire(), None)
        except Exception as error:
            host.log.error("a wish of an operator failed: %s", whole_traceback(error))
            answered(Internal("it failed; the log of the service says why").to_wire(), None)

    async def _fetched(self, store: Any, shard: int, key: bytes, reads: Reads) -> None:
        future: asyncio.Future[None]

        def done(_: Any, error: Exception | None) -> None:
            if not future.done():
                future.set_result(None)  # Of an error whoever reads it is told.

        for each in (Reads((HEADER,)), reads):
            if self._host.stores.get(shard) is not store:
                return  # The shard is not here any longer.
            if is_in_memory(store, key, each):  # By now that is known.
                continue
            future = self._host.loop.create_future()
            fetch(store, key, each, done)
            await future

    def _carry_out(
        self, wish: StorageWish, kept: Kept | None, class_name: str, name: str, shard: int, answered: Answered
    ) -> None:
        """In one turn. Raises CallError."""
        host = self._host
        if isinstance(wish, Get | Show):
            key, budget = object_key(class_name, name), Budget(0)
            cache = ObjectCache(key, ObjectId(class_name, name), host.stores[shard], host.output_gate, budget)
            answered(None, carry_out(wish, cache, self.clocks(shard)))
            return
        kept = kept or self._orphan(class_name, name, shard)
        activation = host.activator.borrow(kept, name, shard)
        assert activation is not None, "it is not away"
        try:
            result = carry_out(wish, activation.cache, self.clocks(shard))
        finally:
            host.activator.give_back(kept, activation)
        seq = activation.cache.confirm_seq
        if seq <= host.output_gate.durable_seq:
            answered(None, result)
        else:
            host.hold(activation, seq, lambda: answered(None, result), lambda error: answered(error.to_wire(), None))

    def _orphan(self, class_name: str, name: str, shard: int) -> Kept:
        """Of a class that the app does not have. Raises UnknownClass where the object does not exist: nobody could use it."""
        if self._host.stores[shard].get(object_key(class_name, name), HEADER) is None:
            known = ", ".join(sorted(self._host.classes))
            raise UnknownClass(f"the app has no class {class_name!r}, and there is no such object; the app has: {known}")
        if (kept := self._orphans.get(class_name)) is None:
            object_class = ObjectClass(type("Orphan", (DurableObject,), {}))
            object_class.name = class_name
            kept = self._orphans[class_name] = Kept(object_class)
        return kept

    # The rest

    def _call(self, wish: CallMethod, class_name: str, name: str, due_s: float, answered: Answered) -> None:
        host, origin = self._host, MethodOrigin(answered)
        try:
            raw = msgspec.Raw(encode(from_plain(wish.arguments))) if wish.arguments else NO_RAW
        except (ValueError, TypeError, OverflowError) as error:
            answered(refused(f"the arguments cannot be sent: {error}").to_wire(), None)
            return
        call = origin.call = Call(Request(0, class_name, name, wish.method, raw), origin)
        host.loop.call_at(due_s, self._expire, origin, context=NEUTRAL)
        host.deliver_soon(call)

    def _inspect(self, class_name: str, name: str, shard: int, answered: Answered) -> None:
        try:
            answered(None, inspect(self._host, class_name, name, shard))
        except CallError as error:
            answered(error.to_wire(), None)
        except ShardDamaged as error:
            answered(StoppedShards.answer(error).to_wire(), None)
        except Exception as error:
            self._host.log.error("an object could not be inspected: %s", whole_traceback(error))
            answered(Internal("it failed; the log of the service says why").to_wire(), None)

    def _evict(self, class_name: str, name: str, answered: Answered) -> None:
        host = self._host
        kept = host.classes.get(class_name)
        activation = None if kept is None else kept.activations.find(name) or kept.asleep.get(name)
        if activation is None:
            answered(None, {"evicted": False})
            return
        try:
            if kept is not None and name in kept.activations and activation.gate.resting:
                host.table.rouse(activation, host.turn.now_s)
            if name in kept.activations and not activation.is_idle(host.turn.now_s):  # type: ignore[union-attr]  # it has one
                text = f"{class_name}/{name} is at work; `tidegate inspect {class_name} {name}` says what it does"
                raise refused(text, busy=True)
            host.table.evict(activation)
            answered(None, {"evicted": True})
        except CallError as error:
            answered(error.to_wire(), None)
        except InvalidTransition as error:
            answered(from_wire({"code": "internal", "message": str(error)}).to_wire(), None)
