"""The activation table: who leaves memory, and when."""

from __future__ import annotations

from tests.support.host_world import World
from tests.support.objects import Thing


async def test_one_that_has_slept_twice_within_one_tick_of_the_clock_leaves_once() -> None:
    """It is in the queue of those that sleep twice with the same time of last use: seed 1008824 of the simulator."""
    world = World(Thing, idle_evict_s=0.001)
    world.now_s = world.loop.time()
    for name in ("first", "a", "a"):
        await world.ask(Thing, name, "put", "k", 1)
        await world.ask(Thing, name, "memory")  # It has kept something: its instance will leave.
        for _ in range(3):
            world.host.table.evict_idle(world.now_s + 0.002)
        assert name in world.host.classes["Thing"].asleep
    for _ in range(3):
        world.host.table.evict_idle(world.now_s + 1.0)
    assert not world.host.classes["Thing"].asleep
    assert world.host.table.budget.used_bytes == 0
    assert world.host.table.is_empty
