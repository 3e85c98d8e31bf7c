"""A host in virtual time, with a wall clock that a test may set, and objects whose alarm handlers do what a test says."""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tests.support import host_world as world
from tests.support.host_world import Call, World
from tidegate.runtime.ids import object_key
from tidegate.shard.core.alarms import INDEX_KEY, STEADY_INDEX_KEY, Alarm, AlarmInfo, index_row_key, pending_alarm
from tidegate.shard.host.activation import Activation
from tidegate.shard.objects.object import DurableObject
from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime

EPOCH_S = 1_700_000_000
"""Unix time at the start of each test."""
TEST_HOURS_MAX = 100_000
TEST_TURNS_MAX = 500_000


class Run(NamedTuple):
    """One run of a handler."""

    name: str
    at_s: float
    scheduled_s: float
    retry_count: int


class Rehearsal:
    """What handlers have done, and what they do."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.running: set[str] = set()
        self.play: Callable[[Bell, AlarmInfo], Awaitable[Any]] | None = None
        self.start: Callable[[Bell], Awaitable[Any]] | None = None

    def times(self, name: str = "a") -> list[float]:
        return [round(run.at_s, 3) for run in self.runs if run.name == name]


def seconds_after(when: datetime.datetime) -> float:
    return round(when.timestamp() - EPOCH_S, 6)


class Bell(DurableObject):
    """Times are seconds after the start of the test."""

    rehearsal = Rehearsal()
    if TYPE_CHECKING:  # A class may not annotate what the runtime gives to every object.
        _activation: Activation

    async def on_start(self) -> None:
        if self.rehearsal.start is not None:
            await self.rehearsal.start(self)

    async def set(self, at_s: float, allow_unconfirmed: bool = False) -> None:
        await self.storage.set_alarm(EPOCH_S + at_s, allow_unconfirmed=allow_unconfirmed)

    async def set_in(self, seconds: float) -> None:
        await self.storage.set_alarm(datetime.timedelta(seconds=seconds))

    async def put_and_set(self, value: int, at_s: float) -> None:
        await self.storage.put("value", value)
        await self.storage.set_alarm(EPOCH_S + at_s)

    async def get(self, key: str) -> Any:
        return await self.storage.get(key)

    async def put(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)

    async def delete(self) -> None:
        await self.storage.delete_alarm()

    async def delete_all(self) -> None:
        await self.storage.delete_all()

    async def pending(self) -> float | None:
        when = await self.storage.get_alarm()
        return None if when is None else seconds_after(when)

    async def be_busy(self, seconds: float) -> None:
        async with self.block_concurrency():
            await asyncio.sleep(seconds)

    async def alarm(self, info: AlarmInfo) -> None:
        name, rehearsal = self.id.name, self.rehearsal
        host = self._activation.host
        assert name not in rehearsal.running, "two handlers of one object"
        at_s = round(host.wall_us() / 1e6 - EPOCH_S, 6)
        rehearsal.runs.append(Run(name, at_s, seconds_after(info.scheduled_for), info.retry_count))
        rehearsal.running.add(name)
        try:
            if rehearsal.play is not None:
                await rehearsal.play(self, info)
        finally:
            rehearsal.running.discard(name)


class AlarmWorld(World):
    """`failing` makes every commit fail."""

    def __init__(self, *classes: type[DurableObject], **settings: Any) -> None:
        self.set_by_s = 0.0
        """By how much the wall clock was set, all in all."""
        self.failing = False
        super().__init__(*(classes or (Bell,)), **settings)
        self.rehearsal = Bell.rehearsal = Rehearsal()

    def boot(self) -> None:
        if self.boots:
            self.host.alarms.stop()
        super().boot()
        self.host.alarms.start()

    def wall_us(self) -> int:
        return round((EPOCH_S + self.loop.time() + self.set_by_s) * 1e6)

    @property
    def now_after_s(self) -> float:
        return self.wall_us() / 1e6 - EPOCH_S

    def _end_turn(self) -> None:
        if self.failing:
            while self.host.output_gate.can_cut:
                self.fail_commit()
        else:
            super()._end_turn()

    def crash(self, *, in_flight_is_durable: bool = False) -> None:
        self.rehearsal.running.clear()
        super().crash(in_flight_is_durable=in_flight_is_durable)

    async def until(self, at_s: float) -> None:
        """Time passes up to then; what is due then has run."""
        await asyncio.sleep(max(0.0, at_s - self.now_after_s))
        await self.settle(60)

    def bell(self, method: str, *args: Any, name: str = "a") -> Call:
        return self.call(Bell, name, method, *args)

    async def ring_up(self, method: str, *args: Any, name: str = "a") -> Any:
        return await self.ask(Bell, name, method, *args)

    def object(self, name: str = "a") -> Activation:
        return self.activation(Bell, name)

    def durable_alarm_s(self, name: str = "a", cls: str = "Bell") -> float | None:
        alarm = pending_alarm(self.stores[self.shard_of(cls, name)], object_key(cls, name))
        return None if alarm is None else self._seconds(self.shard_of(cls, name), alarm.due_us, alarm.is_steady)

    def _seconds(self, shard: int, due_us: int, steady: bool) -> float:
        """By the wall clock as it is set now."""
        ahead_us = self.host.alarms.ahead_us(shard) if steady else 0
        return round((due_us - ahead_us) / 1e6 - EPOCH_S, 6)

    def index_rows(self) -> dict[str, list[float]]:
        """By object name: the rows that are in the indexes."""
        found: dict[str, list[float]] = {}
        for store in self.stores.values():
            for index_key in (INDEX_KEY, STEADY_INDEX_KEY):
                for key, raw in store.scan(index_key):
                    name = msgspec.msgpack.decode(raw)[1]
                    due_s = self._seconds(store.shard, int(key[:16], 16), index_key == STEADY_INDEX_KEY)
                    found.setdefault(name, []).append(due_s)
        return found

    def check(self) -> None:
        super().check()
        for store in self.stores.values():
            for index_key in (INDEX_KEY, STEADY_INDEX_KEY):
                for key, _ in store.scan(index_key):
                    alarm: Alarm | None = pending_alarm(store, bytes.fromhex(key[16:]))
                    assert alarm is not None, "a row of the index without its alarm"
                    assert key == index_row_key(alarm.due_us, bytes.fromhex(key[16:]))
                    assert alarm.is_steady == (index_key == STEADY_INDEX_KEY)


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on a loop whose time passes at once. It fails as tests on the real loop do, when an exception reaches the
    loop's handler or an invariant does not hold at the end."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        world.WORLDS.clear()
        problems: list[str] = []
        virtual = VirtualTime(Random(1))
        loop = ProcessLoop(virtual, problems.append)
        loop.virtual = virtual
        task = loop.create_task(test(**arguments))
        try:
            virtual.run(TEST_HOURS_MAX * 3_600.0, lambda: task.done() or virtual.turns > TEST_TURNS_MAX)
            assert task.done(), "the test never ends"
            task.result()
            for each in world.WORLDS:
                each.check()
                each.expect_nothing_forgotten()
            assert not problems, problems
        finally:
            world.WORLDS.clear()
            loop.kill()

    return run
