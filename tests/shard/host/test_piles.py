"""What one object piles up has a bound, which its own code is told, and is named before."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.shard.host.test_chained_calls import Act, Actor, act
from tests.support.alarm_world import in_virtual_time
from tests.support.host_world import World
from tests.support.objects import CONTROL, LOG, control, until
from tidegate.runtime.errors import MethodRaised
from tidegate.runtime.limits import OBJECT_CALLBACKS_MAX, OBJECT_TASKS_MAX, PILE_BYTES, PILE_CALLBACKS, PILE_TASKS
from tidegate.shard.host.named import NAMED_MAX
from tidegate.shard.host.piles import kept_bytes
from tidegate.shard.host.settings import PiledUp


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()
    Actor.acts = {}
    Actor.starts = {}


def looked(world: World) -> list[PiledUp]:
    """What is named after a look at everybody."""
    for _ in range(2):
        world._later_s += 100
        world.host.table.evict_idle(world.loop.time() + world._later_s)
    return world.host.statistics().piles


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "piles up" in record.message]


async def wait(actor: Actor) -> None:
    await until("open")


def spawning(count: int) -> Act:
    async def run(actor: Actor) -> None:
        for _ in range(count):
            actor.spawn(wait(actor))

    return run


def creating(count: int) -> Act:
    async def run(actor: Actor) -> None:
        actor.kept = [asyncio.create_task(wait(actor)) for _ in range(count)]  # type: ignore[attr-defined]

    return run


@pytest.mark.parametrize("starting", [spawning, creating])
async def test_an_object_that_has_started_very_many_tasks_can_start_no_more_until_some_are_done(starting: Any) -> None:
    open_ = control("open")
    world = World(Actor)
    await asyncio.wait([act(world, "a", starting(OBJECT_TASKS_MAX)).reply])
    refused = act(world, "a", starting(1))
    await asyncio.wait([refused.reply])
    assert isinstance(refused.error, MethodRaised)
    assert "Actor/a has started 10,000 tasks that are not done, and can start no more: await or cancel some first" in str(
        refused.error
    )
    open_.set_result(None)
    await world.settle()
    assert world.activation(Actor, "a").own_tasks == 0
    await asyncio.wait_for(act(world, "a", starting(1)).reply, 10)


@in_virtual_time
async def test_an_object_that_has_set_very_many_timers_can_set_no_more_until_some_are_cancelled() -> None:
    world = World(Actor)

    async def set_all(actor: Actor) -> None:
        loop = asyncio.get_running_loop()
        actor.timers = [loop.call_later(1_000, print) for _ in range(OBJECT_CALLBACKS_MAX)]  # type: ignore[attr-defined]

    async def set_one(actor: Actor) -> None:
        asyncio.get_running_loop().call_later(1_000, print).cancel()

    async def cancel_one(actor: Actor) -> None:
        actor.timers.pop().cancel()  # type: ignore[attr-defined]

    await act(world, "a", set_all).reply
    refused = act(world, "a", set_one)
    await asyncio.wait([refused.reply])
    assert "Actor/a has 10,000 timers and callbacks pending, and can set no more: cancel some first" in str(refused.error)
    await act(world, "a", cancel_one).reply
    await act(world, "a", set_one).reply


async def test_an_object_with_many_tasks_is_named_once_again_when_they_double_and_no_more_when_they_are_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_ = control("open")
    world = World(Actor)
    await act(world, "a", spawning(PILE_TASKS - 2)).reply
    assert looked(world) == []
    await act(world, "a", spawning(2)).reply
    (row,) = looked(world)
    assert (row.object, row.tasks) == ("Actor/a", PILE_TASKS)
    looked(world)
    assert lines(caplog) == [row.shown()]
    assert [record.tidegate.object for record in caplog.records if "piles up" in record.message] == ["Actor/a"]  # type: ignore[attr-defined]  # whose line it is
    assert row.shown() == "Actor/a piles up 1,000 tasks"
    await act(world, "a", spawning(PILE_TASKS)).reply
    looked(world)
    assert len(lines(caplog)) == 2
    open_.set_result(None)
    await world.settle()
    assert looked(world) == []


@in_virtual_time
async def test_an_object_with_many_timers_is_named() -> None:
    world = World(Actor)

    async def set_all(actor: Actor) -> None:
        for _ in range(PILE_CALLBACKS):
            asyncio.get_running_loop().call_later(1e6, print)
        actor.spawn(asyncio.sleep(1e6))

    await act(world, "a", set_all).reply
    (row,) = looked(world)
    assert row.callbacks == PILE_CALLBACKS
    world.crash()


@pytest.mark.parametrize("namespace", [False, True], ids=["attributes", "namespace"])
async def test_an_object_that_keeps_much_in_memory_is_named_also_what_is_cached_of_its_storage(namespace: bool) -> None:
    """Python makes a dict of its attributes when it is asked for that, or where the class has too many kinds of them."""
    control("open")
    world = World(Actor, cache_bytes=4 * PILE_BYTES)

    async def keep(actor: Actor) -> None:
        if namespace:
            vars(actor)["more"] = None
        actor.history = {"rows": [bytes(1_000) for _ in range(70_000)]}  # type: ignore[attr-defined]
        actor.spawn(wait(actor))

    async def cache(actor: Actor) -> None:
        for number in range(70):
            await actor.storage.put(str(number), bytes(1 << 20))
        actor.spawn(wait(actor))

    await act(world, "a", keep).reply
    (row,) = looked(world)
    assert PILE_BYTES < row.kept_bytes < 80e6
    assert row.cached_bytes < 1_000
    await act(world, "b", cache).reply
    _, row = looked(world)
    assert row.cached_bytes > PILE_BYTES
    assert row.shown() == "Actor/b piles up 1 tasks, 73 MB cached of its storage"


async def test_an_object_that_has_let_go_of_half_is_named_no_more_though_it_stays_in_memory() -> None:
    control("open")
    world = World(Actor)

    def keeping(rows: int) -> Callable[[Any], Coroutine[Any, Any, None]]:
        async def keep(actor: Actor) -> None:
            actor.history = [bytes(1_000)] * rows  # type: ignore[attr-defined]
            if rows == 70_000:
                actor.spawn(wait(actor))

        return keep

    await act(world, "a", keeping(70_000)).reply
    assert [row.kept_bytes > PILE_BYTES for row in looked(world)] == [True]
    await act(world, "a", keeping(40_000)).reply
    assert [row.kept_bytes > PILE_BYTES for row in looked(world)] == [False], "a little less is no reason to name it anew soon"
    await act(world, "a", keeping(10)).reply
    assert looked(world) == []


async def test_those_that_are_named_are_few_and_make_room_for_others() -> None:
    control("open")
    world = World(Actor)
    for number in range(NAMED_MAX + 1):
        await act(world, str(number), spawning(PILE_TASKS)).reply
    assert len(looked(world)) == NAMED_MAX


def test_what_an_instance_keeps_is_estimated_from_few_of_its_items_and_nothing_of_its_own_is_asked() -> None:
    class Keeper:
        pass

    class Odd(list[int]):
        def __sizeof__(self) -> int:
            raise AssertionError("nobody may ask")

        def __len__(self) -> int:
            raise AssertionError("nobody may ask")

    keeper: Any = Keeper()
    assert kept_bytes(keeper) < 1_000
    keeper.odd, keeper.lock, keeper.none = Odd(), threading.Lock(), None
    assert kept_bytes(keeper) < 1_000
    keeper.rows = deque([bytes(1_000)] * 1_000)
    assert 1_000_000 < kept_bytes(keeper) < 1_100_000
    keeper.rows = {number: [str(number) * 100] for number in range(1_000)}
    assert 100_000 < kept_bytes(keeper) < 1_000_000
    keeper.rows.clear()
    assert kept_bytes(keeper) < 10_000
