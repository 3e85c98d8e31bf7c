"""A hot object with a long queue takes turns with the quiet ones of its worker. Counted in calls, not in time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.support.host_world import World
from tests.support.objects import CONTROL, LOG, control, until
from tidegate import DurableObject
from tidegate.shard.host.activation import GRANTS_PER_TURN

QUEUE = 9 * GRANTS_PER_TURN
QUIET = [f"quiet {number}" for number in range(5)]


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


class Noted(DurableObject):
    async def close(self, until_what: str) -> None:
        async with self.block_concurrency():
            await until(until_what)

    async def note(self) -> None:
        await self.storage.put("noted", len(LOG))
        LOG.append(self.id.name)

    async def note_when(self, what: str) -> None:
        await until(what)
        LOG.append(self.id.name)


def hot_calls() -> int:
    return sum(name.startswith("hot") for name in LOG)


async def until_hot_objects_work(world: World, hot: int) -> None:
    """Their gates are closed, and each has a long queue behind it; then they open."""
    control("work")
    for number in range(hot):
        world.call(Noted, f"hot {number}", "close", "work")
    await world.settle()
    for number in range(hot):
        for _ in range(QUEUE):
            world.call(Noted, f"hot {number}", "note")
    assert not LOG
    CONTROL["work"].set_result(None)
    while not LOG:
        await asyncio.sleep(0)


@pytest.mark.parametrize("hot", [1, 3])
async def test_what_a_quiet_object_waits_for_reaches_it_after_a_round_of_the_hot_ones(hot: int) -> None:
    world = World(Noted)
    control("go on")
    for name in QUIET:
        world.call(Noted, name, "note_when", "go on")
    await until_hot_objects_work(world, hot)
    before = hot_calls()
    CONTROL["go on"].set_result(None)
    while len(LOG) - hot_calls() < len(QUIET):
        await asyncio.sleep(0)
    last = max(LOG.index(name) for name in QUIET)
    between = sum(name.startswith("hot") for name in LOG[before : last + 1])
    assert between <= 3 * hot * GRANTS_PER_TURN, "one round for each step of its way: the future, its task, its gate"
    assert hot_calls() < hot * QUEUE, "they have not been through before it"
    while hot_calls() < hot * QUEUE:
        await asyncio.sleep(0)
    await world.settle()


@pytest.mark.parametrize("hot", [1, 3])
async def test_the_queue_of_a_quiet_object_goes_on_beside_the_hot_ones(hot: int) -> None:
    world = World(Noted)
    control("open")
    world.call(Noted, QUIET[0], "close", "open")
    await world.settle()
    calls = [world.call(Noted, QUIET[0], "note") for _ in range(3)]
    await until_hot_objects_work(world, hot)
    CONTROL["open"].set_result(None)
    while not all(call.answered for call in calls):
        await asyncio.sleep(0)
    assert hot_calls() < hot * QUEUE, "its replies have left before they are through"
    while hot_calls() < hot * QUEUE:
        await asyncio.sleep(0)
    await world.settle()


async def test_no_round_of_the_loop_has_more_than_so_many_calls_of_one_object() -> None:
    world = World(Noted)
    await until_hot_objects_work(world, 1)
    rounds = [hot_calls()]
    while rounds[-1] < QUEUE:
        await asyncio.sleep(0)
        rounds.append(hot_calls())
    assert max(after - before for before, after in pairwise(rounds)) <= GRANTS_PER_TURN
    assert rounds[0] <= GRANTS_PER_TURN
    await world.settle()
