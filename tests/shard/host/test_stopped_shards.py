"""shard/host/stopped_shards.py: what is damaged stops its shard, and nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.alarm_world import AlarmWorld, Bell, in_virtual_time
from tests.support.cold_world import Actor, ColdWorld
from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, Counter, control, until
from tidegate.runtime.errors import CallError, Unavailable
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.memtable import Memtable

STOPPED = ShardDamaged(0, "open store", "shards/0000", "a page is damaged")


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()


def names_by_shard(world: World, cls: str = "Counter") -> dict[int, str]:
    """One object of each shard."""
    return {world.shard_of(cls, f"c{number}"): f"c{number}" for number in range(40)}


def expect_refused(error: CallError, outcome: str) -> None:
    assert isinstance(error, Unavailable), repr(error)
    assert (error.outcome, error.retryable) == (outcome, False)
    assert "shard 0 is stopped" in error.message
    assert "tidegate repair --shard 0" in error.message, "the next step"


async def test_calls_to_a_stopped_shard_are_refused_at_once_with_the_reason_and_the_others_are_served() -> None:
    world = World(Counter)
    names = names_by_shard(world)
    for name in names.values():
        assert await world.ask(Counter, name, "plain") == 0
    world.stop(STOPPED)
    call = world.call(Counter, names[0], "plain")
    await world.settle(2)
    expect_refused(call.error, "not_executed")
    for shard in (1, 2, 3):
        assert await world.ask(Counter, names[shard], "plain") == 1
    assert world.host.statistics().activations == 3


async def test_a_read_that_finds_damage_stops_its_shard_and_its_caller_is_told() -> None:
    world = ColdWorld()
    names = names_by_shard(world, "Actor")
    for name in names.values():
        await world.fill(name, {"a": 1})
    world.evict_idle()
    world.damage(0)
    world.stores[0].active = Memtable()  # What was written is on disk only.
    expect_refused((await _answered(world.call(Actor, names[0], "ping"))).error, "not_executed")
    assert 0 in world.stopped
    assert await world.ask(Actor, names[1], "ping") == "pong"


async def test_code_that_goes_on_after_a_damaged_read_answers_nothing_of_its_own() -> None:
    """It may catch whatever it likes."""
    world = ColdWorld()
    name = names_by_shard(world, "Actor")[0]
    await world.fill(name, {"a": 1})
    world.evict_idle()
    world.damage(0)
    seen: list[Any] = []

    async def read(actor: Actor) -> Any:
        try:
            return await actor.storage.get("b")
        except Exception as exc:
            seen.append(exc)
            return "nothing wrong"

    expect_refused((await _answered(world.act(name, read))).error, "unknown")
    assert len(seen) == 1


async def test_a_read_beside_the_loop_that_finds_damage_stops_its_shard_too() -> None:
    world = ColdWorld()
    name = names_by_shard(world, "Actor")[0]
    await world.fill(name, {"a": 1})
    world.cool()
    await world.loaded(name)
    world.damage(0)

    async def read(actor: Actor) -> Any:
        return await actor.storage.get("a")

    call, waiting = world.act(name, read), world.call(Actor, name, "ping")
    await world.settle()
    world.reader.release()
    expect_refused((await _answered(call)).error, "unknown")
    expect_refused((await _answered(waiting)).error, "not_executed")


async def test_what_waits_runs_or_is_queued_when_its_shard_is_stopped_is_answered_at_once() -> None:
    world = ColdWorld()
    name = names_by_shard(world, "Actor")[0]

    async def hold(actor: Actor) -> None:
        async with actor.block_concurrency():
            await until("go on")

    control("go on")
    running, queued = world.act(name, hold), world.call(Actor, name, "ping")
    await world.settle()
    world.stop(STOPPED)
    expect_refused((await _answered(running)).error, "unknown")
    expect_refused((await _answered(queued)).error, "not_executed")


async def test_a_write_that_is_on_its_way_to_the_disk_is_confirmed_and_an_open_one_is_not() -> None:
    world = World(Counter, auto=False)
    names = names_by_shard(world)
    in_flight, other = world.call(Counter, names[0], "plain"), world.call(Counter, names[1], "plain")
    await world.settle()
    world.cut()
    open_one, other_open = world.call(Counter, names[0], "plain"), world.call(Counter, names[1], "plain")
    await world.settle()
    world.stop(STOPPED)
    expect_refused((await _answered(open_one)).error, "unknown")
    world.committed()
    assert await in_flight.reply == 0
    assert await other.reply == 0
    world.commit()
    assert await other_open.reply == 1
    assert set(world.stores) == {1, 2, 3}


async def test_an_object_of_the_same_worker_that_calls_a_stopped_shard_is_told_why() -> None:
    world = ColdWorld()
    names = names_by_shard(world, "Actor")
    world.stop(STOPPED)

    async def ask(actor: Actor) -> Any:
        try:
            return await actor.stub("Actor", names[0]).ping()
        except Unavailable as exc:
            return str(exc)

    assert "shard 0 is stopped" in await world.do(names[1], ask)


@in_virtual_time
async def test_alarms_of_a_stopped_shard_do_not_ring_and_those_of_the_others_do() -> None:
    world = AlarmWorld()
    names = names_by_shard(world, "Bell")
    for shard, name in names.items():
        await world.ask(Bell, name, "set", 10 + shard)

    async def play(bell: Bell, _: object) -> None:
        if bell.id.name == names[0]:
            await asyncio.sleep(50)  # It is on its way when its shard is stopped.

    world.rehearsal.play = play
    await world.until(10.5)
    world.stop(STOPPED)
    await world.until(100)
    assert [run.name for run in world.rehearsal.runs] == [names[shard] for shard in (0, 1, 2, 3)]


@in_virtual_time
async def test_a_damaged_index_of_alarms_stops_its_shard_and_the_others_ring() -> None:
    world = AlarmWorld()
    names = names_by_shard(world, "Bell")
    for shard, name in names.items():
        await world.ask(Bell, name, "set", 10 + shard)
    world.damage(0)
    world.stores[0].active = Memtable()
    world.crash()
    await world.until(100)
    assert set(world.stopped) == {0}
    assert [run.name for run in world.rehearsal.runs] == [names[shard] for shard in (1, 2, 3)]


async def _answered(call: Call) -> Call:
    await asyncio.wait([call.reply], timeout=5)
    assert call.answered, "answered at once"
    return call
