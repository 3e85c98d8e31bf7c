"""One object's storage without a host: the real cache, commits and store, and a test that says when commits end."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.support.records import decode_record
from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.ids import ObjectId, object_key
from tidegate.shard.core.alarms import Alarm, alarm_for, shown_for
from tidegate.shard.core.cache import Budget, ObjectCache
from tidegate.shard.core.output_gate import OutputGate
from tidegate.shard.loop.done import DONE
from tidegate.shard.objects.storage import Storage
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ShardStore


class OpenSection:
    """A critical section where nobody else is."""

    expired = False

    async def __aenter__(self) -> OpenSection:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class AlwaysOpen:
    """What storage needs of an activation, where nothing ever has to wait."""

    def alarm_at(self, when: datetime.datetime | datetime.timedelta | float) -> Alarm:
        return alarm_for(when, 1_000_000, 1_000_000)

    def alarm_shown(self, alarm: Alarm) -> datetime.datetime:
        return shown_for(alarm, 0)

    def wait_durable(self) -> Awaitable[None]:
        return DONE

    def wait_capacity(self) -> Awaitable[None]:
        return DONE

    def runs_keyed_call(self) -> bool:
        return False

    def asked_first(self, keys: Sequence[str]) -> None:
        raise AssertionError("everything is in memory")

    def wait_fetched(self, begin: Any, finish: Any, concurrent: bool) -> Awaitable[Any]:
        raise AssertionError("everything is in memory")

    def enter_section(self, undo: Callable[[], None] | None) -> OpenSection:
        return OpenSection()


def finish(awaitable: Awaitable[Any]) -> Any:
    """The result of what must not suspend."""
    try:
        awaitable.__await__().__next__()
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it yielded to the event loop")


class StorageWorld:
    """`storage` is replaced by a fresh one after a reset, an eviction or a crash."""

    def __init__(self) -> None:
        self.output_gate = OutputGate()
        self.budget = Budget(1 << 30)
        self.store = ShardStore(MemoryState(0))
        self.key = object_key("Thing", "one")
        self.done = 0
        """Commits made durable."""
        self.pieces: list[ObjectWrites] | None = None
        self.activate()

    def activate(self) -> None:
        self.budget.used_bytes = 0
        self.cache = ObjectCache(self.key, ObjectId("Thing", "one"), self.store, self.output_gate, self.budget)
        self.storage = Storage(self.cache, AlwaysOpen())

    def cut(self) -> list[ObjectWrites]:
        commit = self.output_gate.cut(1 << 30)
        assert commit.members == [self.cache]
        self.pieces = [self.cache.begin_commit()]
        # As the log would give it back.
        record = encode_record(CommitRecord(0, [ShardCommit(0, self.store.seq + 1, self.pieces)]))
        self.pieces = decode_record(record).shards[0].objects
        return self.pieces

    def committed(self) -> None:
        assert self.pieces is not None
        self.store.apply(self.store.seq + 1, self.pieces)
        self.pieces = None
        self.cache.committing = None
        assert self.output_gate.in_flight is not None
        self.output_gate.succeeded(self.output_gate.in_flight)
        self.done += 1

    def commit(self) -> None:
        """Makes everything durable that is not."""
        if self.pieces is not None:
            self.committed()
        if self.output_gate.can_cut:
            self.cut()
            self.committed()

    def failed(self) -> None:
        """The commit in flight is lost, the object is reset."""
        self.pieces = None
        assert self.output_gate.in_flight is not None
        self.output_gate.failed(self.output_gate.in_flight)
        self.reset()

    def reset(self) -> None:
        self.output_gate.forget(self.cache)
        self.cache.break_with(ObjectReset("reset"))
        self.activate()

    def crash(self) -> None:
        """Memory is gone."""
        self.pieces = None
        self.output_gate = OutputGate()
        self.activate()

    @property
    def held(self) -> bool:
        """Whether a message that is sent now waits for the disk."""
        return self.cache.confirm_seq > self.output_gate.durable_seq

    def put(self, key: str, value: Any, **options: Any) -> None:
        finish(self.storage.put(key, value, **options))

    def get(self, key: str, default: Any = None, **options: Any) -> Any:
        return finish(self.storage.get(key, default, **options))

    def list(self, **options: Any) -> dict[str, Any]:
        listed: dict[str, Any] = finish(self.storage.list(**options))
        return listed

    def durable(self) -> dict[str, bytes]:
        return dict(self.store.scan(self.key))


def run(coro: Any) -> Any:
    return asyncio.run(coro)
