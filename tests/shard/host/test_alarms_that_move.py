"""shard/host/alarm_clock.py where a shard goes: its alarms ring at its new owner, each once, and not at the old one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.shard.host.test_alarm_deaths import DyingWorld
from tests.support.alarm_world import AlarmWorld, Bell, in_virtual_time
from tests.support.host_world import World
from tests.support.objects import CONTROL, control, until
from tidegate.shard.core.alarms import BEGUN_KEY, AlarmInfo

SHARD = 0


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()


def name_there(world: World) -> str:
    return next(name for name in map(str, range(100)) if world.shard_of("Bell", name) == SHARD)


def without(world: AlarmWorld) -> AlarmWorld:
    """It has never had that shard, and shares what handlers do with the first world of the test."""
    del world.stores[SHARD]
    world.host.moving.going[SHARD] = False
    world.host.moving.gone(SHARD)
    return world


async def given(world: World) -> Any:
    """As a worker does it that was told to give it: at the first turn at which it can go."""
    for turn in range(2_000):
        if world.host.moving.has_ended(SHARD):
            store = world.stores.pop(SHARD)
            world.host.moving.gone(SHARD)
            return store
        world.host.moving.hurry(SHARD)
        await asyncio.sleep(0 if turn < 1_000 else 1)
    raise AssertionError("it does not go")


def taken(world: World, store: Any) -> None:
    world.stores[SHARD] = store
    world.host.moving.come(SHARD)


@pytest.mark.parametrize("turns", range(24))
@in_virtual_time
async def test_at_whatever_turn_the_shard_goes_its_alarm_rings_once_and_nobody_is_blamed(turns: int) -> None:
    here = AlarmWorld()
    there = without(AlarmWorld())
    rehearsal = Bell.rehearsal = here.rehearsal
    name = name_there(here)

    async def play(bell: Bell, info: AlarmInfo) -> None:
        for value in range(3):
            await bell.put("step", value)

    rehearsal.play = play
    await here.ask(Bell, name, "set", 1)
    await asyncio.sleep(1)
    for _ in range(turns):
        await asyncio.sleep(0)
    here.host.moving.begin(SHARD)
    store = await given(here)
    assert not store.scan(BEGUN_KEY), "a run that counts as begun has ended here, or was not begun"
    taken(there, store)
    await asyncio.sleep(100)
    assert len(rehearsal.runs) == 1
    assert there.index_rows() == {}


@in_virtual_time
async def test_one_that_pauses_after_deaths_does_not_begin_where_its_shard_was() -> None:
    here = DyingWorld()
    name = name_there(here)
    await died_twice(here, name)
    runs = len(here.rehearsal.runs)
    here.host.moving.begin(SHARD)
    store = await given(here)
    await asyncio.sleep(100)
    assert len(here.rehearsal.runs) == runs
    taken(here, store)
    await asyncio.sleep(100)
    assert len(here.rehearsal.runs) == runs + 1
    assert here.index_rows() == {}


async def died_twice(world: DyingWorld, name: str) -> None:
    """And its handler does so no longer, and pauses."""
    world.killers = {name}
    await world.ring_up("set", 1, name=name)
    while len(world.deaths_at_s) < 2:
        await asyncio.sleep(0.1)
    world.killers = set()
    await asyncio.sleep(0.1)


@in_virtual_time
async def test_deaths_of_which_another_worker_has_heard_the_end_are_forgotten() -> None:
    here = DyingWorld()
    name = name_there(here)
    await died_twice(here, name)
    here.host.moving.begin(SHARD)
    store = await given(here)
    there = without(AlarmWorld())
    Bell.rehearsal = here.rehearsal
    taken(there, store)
    await asyncio.sleep(10)
    there.host.moving.begin(SHARD)
    taken(here, await given(there))
    runs = len(here.rehearsal.runs)
    await here.ring_up("set", here.now_after_s + 1, name=name)
    await asyncio.sleep(1.5)
    assert len(here.rehearsal.runs) == runs + 1, "it does not pause"


@in_virtual_time
async def test_one_that_did_not_get_through_is_tried_again_where_its_shard_is() -> None:
    here = AlarmWorld()
    name = name_there(here)
    await here.ask(Bell, name, "set", 1)
    await asyncio.sleep(0.9)
    here.failing = True
    await asyncio.sleep(0.5)
    here.failing = False
    assert here.rehearsal.runs == []
    await rests_while_another_call_runs(here, name)


@in_virtual_time
async def test_one_whose_run_ended_with_its_object_is_tried_again_where_its_shard_is() -> None:
    here = AlarmWorld()
    name = name_there(here)

    async def fail(bell: Bell, info: AlarmInfo) -> None:
        await until("go")
        bell.abort()

    here.rehearsal.play = fail
    control("go")
    await here.ask(Bell, name, "set", 1)
    await asyncio.sleep(2)
    here.rehearsal.play = None
    asyncio.get_running_loop().call_later(1, CONTROL["go"].set_result, None)
    await rests_while_another_call_runs(here, name)


async def rests_while_another_call_runs(here: AlarmWorld, name: str) -> None:
    """Its alarm: from when the shard goes until it is somewhere again. Then it rings once."""
    other = next(each for each in map(str, range(100)) if here.shard_of("Bell", each) == SHARD and each != name)
    call = here.call(Bell, other, "be_busy", 20)
    await here.settle()
    here.host.moving.begin(SHARD)
    runs = len(here.rehearsal.runs)
    await asyncio.sleep(15)
    assert not here.host.moving.has_ended(SHARD)
    store = await given(here)
    assert call.answered
    await asyncio.sleep(50)
    assert len(here.rehearsal.runs) == runs
    taken(here, store)
    await asyncio.sleep(10)
    assert len(here.rehearsal.runs) == runs + 1
    assert here.index_rows() == {}


@in_virtual_time
async def test_one_that_waits_for_its_object_is_ended_in_time_and_rings_elsewhere() -> None:
    here = AlarmWorld()
    there = without(AlarmWorld())
    rehearsal = Bell.rehearsal = here.rehearsal
    name = name_there(here)
    await here.ask(Bell, name, "set", 1)
    busy = here.call(Bell, name, "be_busy", 1_000)
    await asyncio.sleep(2)
    assert rehearsal.runs == []
    here.host.moving.begin(SHARD)
    here.host.moving.end_calls(SHARD)
    await here.settle()
    assert busy.error.outcome == "unknown"
    taken(there, await given(here))
    await asyncio.sleep(2_000)
    assert len(rehearsal.runs) == 1
    assert there.index_rows() == {}
