"""A host without a worker: the real core over memory, with commits that the test makes durable, or fails, when it wants."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import msgspec

from tidegate.runtime.errors import CallError, from_wire
from tidegate.runtime.wire.protocol import NO_RAW, JsonRequest, Message, Origin, Request, parse_body
from tidegate.shard.core.output_gate import PendingCommit
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.host.waiting import Readers
from tidegate.shard.loop.task import object_task_factory
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.state.memory_state import MemorySnapshot, MemoryState
from tidegate.testing.hosted import HostedShards

SHARDS = 4

WORLDS: list[World] = []
"""The worlds of the running test. What must always hold is checked in each of them at its end."""


class Call:
    """A call in flight, and later its answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reply: asyncio.Future[Any] = loop.create_future()

    @property
    def answered(self) -> bool:
        return self.reply.done()

    @property
    def error(self) -> CallError:
        exc = self.reply.exception()
        assert isinstance(exc, CallError), exc
        return exc

    @property
    def result(self) -> Any:
        return self.reply.result()


class DamagedState(MemoryState):
    def get(self, key: bytes) -> bytes | None:
        raise ShardDamaged(self.shard, "read", "its state", "a value has a wrong checksum")

    def scan(
        self, start: bytes, end: bytes, reverse: bool, *, may_wait: bool = True
    ) -> Generator[tuple[bytes, bytes], None, None]:
        raise ShardDamaged(self.shard, "read", "its state", "a row has a wrong checksum")

    def snapshot(self) -> MemorySnapshot:
        taken = super().snapshot()
        taken.get = self.get
        taken.scan = self.scan
        return taken


class World(HostedShards):
    """See `HostedShards`: it is called here as a socket would, and is asked for its largest commit."""

    def __init__(self, *classes: type[DurableObject], auto: bool = True, readers: Readers | None = None, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(object_task_factory)
        self.calls: dict[Any, Call] = {}
        self.numbers = itertools.count(1)
        self.client = b"test"
        """Who calls."""
        self.lost_calls: set[Any] = set()
        """Made before a crash; they may arrive after it, and nobody waits for their answer."""
        self.largest_commit_bytes = 0
        self.now_s: float | None = None
        """The time of calls, where the test sets it."""
        host_settings = HostSettings(shards_total=SHARDS, **settings)
        super().__init__(loop, map(ObjectClass, classes), range(SHARDS), host_settings, auto=auto, readers=readers)
        WORLDS.append(self)

    def _reply(self, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        if request_id in self.lost_calls:
            return
        call = self.calls.pop(request_id)
        assert not call.answered, "a call is answered once"
        codec: Any = msgspec.json if origin.json else msgspec.msgpack
        value = codec.decode(result) if isinstance(result, msgspec.Raw) else result
        if status:
            call.reply.set_exception(from_wire(value))
            call.reply.exception()
        else:
            call.reply.set_result(value)

    def _now_s(self) -> float:
        return super()._now_s() if self.now_s is None else self.now_s

    def call(
        self, target: type[DurableObject] | str, name: str, method: str, *args: Any, raw_args: bytes | None = None, **options: Any
    ) -> Call:
        """Hands one call to the host at once, as the socket would. Must not be used from object code."""
        number = next(self.numbers)
        call = self.calls[number] = Call(self.loop)
        cls = target if isinstance(target, str) else target.__name__
        raw_options = msgspec.Raw(msgspec.msgpack.encode(options)) if options else NO_RAW
        raw = msgspec.Raw(msgspec.msgpack.encode(args) if raw_args is None else raw_args)
        request = Request(number, cls, name, method, raw, raw_options)
        origin = Origin(self.client, envelope=None, json=False, single=False, requests=1)
        self.loop.call_soon(self._handle, Message(origin, [request], []), context=NEUTRAL)
        return call

    def call_json(self, target: type[DurableObject], name: str, method: str, **options: Any) -> Call:
        """One without arguments, in the other codec."""
        number = next(self.numbers)
        call = self.calls[number] = Call(self.loop)
        request = JsonRequest(number, target.__name__, name, method, options=msgspec.Raw(msgspec.json.encode(options)))
        origin = Origin(self.client, envelope=None, json=True, single=False, requests=1)
        self.loop.call_soon(self._handle, Message(origin, [request], []), context=NEUTRAL)
        return call

    def _handle(self, message: Message) -> None:
        self.host.turn.begin()
        self.host.handle(message)
        self._end_turn()

    def batch(self, *calls: tuple[type[DurableObject], str, str]) -> list[Call]:
        """Calls without arguments that arrive in one message, handled in one turn."""
        origin = Origin(self.client, envelope=None, json=False, single=False, requests=len(calls))
        requests, made = [], []
        for cls, name, method in calls:
            number = next(self.numbers)
            call = self.calls[number] = Call(self.loop)
            made.append(call)
            requests.append(Request(number, cls.__name__, name, method))
        self.loop.call_soon(self._handle, Message(origin, requests, []), context=NEUTRAL)
        return made

    def session(self, rows: Sequence[list[Any]], *, name: str = "Client-1", answered: Any = 0, json: bool = False) -> list[Call]:
        """The same behind the head of that session."""
        return self.message(rows, [0, "", name, "keys", [answered]], json=json)

    def message(self, rows: Sequence[list[Any]], *head: list[Any], json: bool = False) -> list[Call]:
        """Requests as they are on the wire, in one message."""
        encoder = msgspec.json.encode if json else msgspec.msgpack.encode
        message = parse_body(self.client, encoder([*head, *rows]))
        assert not message.refused
        made = []
        for row in rows:
            call = self.calls[row[0]] = Call(self.loop)
            made.append(call)
        self.loop.call_soon(self._handle, message, context=NEUTRAL)
        return made

    async def ask(self, target: type[DurableObject] | str, name: str, method: str, *args: Any, **options: Any) -> Any:
        return await self.call(target, name, method, *args, **options).reply

    async def ask_all(self, calls: Iterable[Call]) -> list[Any]:
        return [await call.reply for call in calls]

    def cut(self) -> PendingCommit:
        return self.host.cut()

    def commit(self) -> None:
        size = len(encode_record(CommitRecord(0, self.cut().shards)))
        self.largest_commit_bytes = max(size, self.largest_commit_bytes)
        self.committed()

    def crash(self, *, in_flight_is_durable: bool = False) -> None:
        """The process dies and another one recovers. Of a commit in flight either everything is durable or nothing."""
        if in_flight_is_durable and self.host.output_gate.in_flight is not None:
            self.committed()
        self.lost_calls |= set(self.calls)
        self.calls.clear()
        self.boot()

    def damage(self, shard: int) -> None:
        """Every read of its state finds damage from now on; the shard is stopped then, as a worker does it."""
        self.stores[shard].state = DamagedState(shard)
        self.stores[shard].on_damage = self._on_damage

    def _on_damage(self, error: ShardDamaged) -> None:
        self.host.stopped.found(error)
        self.loop.call_soon(self.stop, error, context=NEUTRAL)

    def stop(self, error: ShardDamaged) -> None:
        if self.stores.pop(error.shard, None) is not None:
            self.stopped[error.shard] = error
            self.host.stopped.stop(error.shard)

    async def settle(self, turns: int = 20) -> None:
        """Lets everything that can happen without time happen."""
        for _ in range(turns):
            await asyncio.sleep(0)

    def activation(self, cls: type[DurableObject], name: str) -> Activation:
        return self.host.classes[cls.__name__].activations[name]

    def durable(self, cls: type[DurableObject], name: str) -> dict[str, Any]:
        return self.durable_rows(cls.__name__, name)

    def expect_nothing_forgotten(self) -> None:
        """At the end: who called has been answered."""
        assert not self.calls, f"{len(self.calls)} calls were never answered"
        assert self.host.unanswered == 0, self.host.statistics()
