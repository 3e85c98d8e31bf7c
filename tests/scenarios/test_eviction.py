"""Memory (scenarios 259 to 274, what tests/shard does not have)."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.scenarios.stage import Actor, act
from tests.shard.world import World


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


async def test_a_pending_timer_keeps_an_object_in_memory_and_its_end_lets_it_go() -> None:
    """Scenario 274."""
    world = World(Actor)
    end = asyncio.Event()

    async def leave_a_timer(actor: Actor) -> None:
        actor.spawn(end.wait())

    await act(world, leave_a_timer).reply
    world.evict_idle()
    assert len(world.host.table) == 1
    end.set()
    await world.settle()
    world.evict_idle()
    assert len(world.host.table) == 0
