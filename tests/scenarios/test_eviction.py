"""Memory (scenarios 259 to 274, what tests/shard does not have)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.alarm_world import AlarmWorld, in_virtual_time
from tests.support.host_world import World
from tests.support.stage import Actor, act
from tidegate.runtime.limits import IDLE_EVICT_S, TIMERS_KEEP_S


async def test_without_any_budget_everything_is_read_and_listed_whole_and_nothing_is_retained() -> None:
    """Scenarios 262 and 269."""
    world = World(Actor, cache_bytes=0)

    async def fill(actor: Actor) -> None:
        for number in range(300):
            actor.storage.put(f"k{number:03}", "x" * 100)

    async def read(actor: Actor) -> list[Any]:
        keys = [await actor.storage.get(f"k{number:03}") for number in range(3)]
        await asyncio.sleep(0)
        actor.storage.put("dirty", 1)
        return [len(keys), len(await actor.storage.list()), next(iter(await actor.storage.list(limit=1)))]

    await act(world, fill).reply
    world.host.table.evict_idle(world.loop.time())
    for _ in range(3):
        assert await act(world, read).reply == [3, 301, "dirty"]
        world.host.table.evict_idle(world.loop.time())
        world.host.table.evict_idle(world.loop.time())
        assert len(world.host.table) == 0
        assert world.host.table.budget.used_bytes == 0


async def test_reading_one_object_under_pressure_evicts_the_one_not_used_for_longest() -> None:
    """Scenarios 259 and 260, for objects."""
    world = World(Actor)
    for at_s, name in enumerate(["foo", "bar", "baz", "qux", "foo"]):
        world.now_s = float(at_s)
        await world.ask(Actor, name, "put", "k", "x" * 1_000)
    used = world.host.table.budget.used_bytes
    world.host.table.budget.bytes_max = used // 2
    for _ in range(3):
        world.host.table.evict_idle(5.0)
    assert sorted(world.host.classes["Actor"].activations) == ["foo", "qux"]
    for name in ("foo", "bar", "baz", "qux"):
        assert await world.ask(Actor, name, "get", "k") == "x" * 1_000


@in_virtual_time
async def test_an_object_outlives_its_pending_timer_by_as_long_as_it_would_outlive_a_call() -> None:
    """Scenario 274."""
    world = AlarmWorld(Actor)

    async def set_a_timer(actor: Actor) -> None:
        actor.memory = "kept"  # type: ignore[attr-defined]  # An instance that has kept nothing could stay for longer.
        asyncio.get_running_loop().call_later(15, actor.storage.put, "rang", True)

    await act(world, set_a_timer).reply
    assert await seconds_in_memory(world) == pytest.approx(15 + IDLE_EVICT_S, abs=1)
    assert await world.ask(Actor, "one", "get", "rang") is True


@in_virtual_time
@pytest.mark.parametrize("used", [False, True], ids=["left alone", "called for two minutes"])
async def test_timers_that_set_the_next_one_do_not_keep_an_object_in_memory_for_ever(used: bool) -> None:
    """Scenario 274."""
    world = AlarmWorld(Actor)
    rung: list[float] = []

    async def set_timers(actor: Actor) -> None:
        loop = asyncio.get_running_loop()

        def ring() -> None:
            rung.append(loop.time())
            loop.call_later(3, ring)

        ring()

    await act(world, set_timers).reply
    if used:
        for _ in range(12):
            await asyncio.sleep(9)
            await world.ask(Actor, "one", "get", "n")
            world.host.table.evict_idle(world.loop.time())
        assert len(rung) == 12 * 3 + 1, "while it is called its timers go on"
        assert await seconds_in_memory(world) == pytest.approx(IDLE_EVICT_S, abs=1)
    else:
        assert await seconds_in_memory(world) == pytest.approx(TIMERS_KEEP_S, abs=IDLE_EVICT_S + 1)
    so_far = len(rung)
    await asyncio.sleep(60)
    assert len(rung) == so_far, "none of them rings for an object that is gone"


async def seconds_in_memory(world: World) -> float:
    """How long the one object stays there, looked at every second."""
    started_s = world.loop.time()
    while len(world.host.table):
        await asyncio.sleep(1)
        world.host.turn.begin()
        world.host.table.evict_idle(world.loop.time())
    waited_s: float = world.loop.time() - started_s
    return waited_s


async def test_a_task_keeps_an_object_in_memory_and_its_end_lets_it_go() -> None:
    world = World(Actor)
    end = asyncio.Event()

    async def leave_a_task(actor: Actor) -> None:
        actor.spawn(end.wait())

    await act(world, leave_a_task).reply
    world.evict_idle()
    assert len(world.host.table) == 1
    end.set()
    await world.settle()
    world.evict_idle()
    assert len(world.host.table) == 0
