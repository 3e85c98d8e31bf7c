"""Who is called most is found, at a bounded cost, whatever is called and in which order."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.support.host_world import World
from tidegate import DurableObject
from tidegate.runtime.wire.protocol import Request
from tidegate.runtime.wire.wishes import Show
from tidegate.shard.host.hot_objects import KEPT_MAX, SEEN_MAX, SHOWN_MAX, HotObjects
from tidegate.shard.host.settings import HotObject


def call(hot: HotObjects, *names: str, cls: str = "Cart") -> None:
    """As the host does."""
    requests = [Request(0, cls, name, "add") for name in names]
    hot.left -= len(requests)
    if hot.left <= 0:
        hot.look(requests)


def rates(hot: HotObjects, now_s: float) -> dict[str, float]:
    return {each.name: each.calls_per_s for each in hot.newest(now_s)}


def test_few_calls_are_all_counted() -> None:
    hot = HotObjects({"Cart"}, 0.0)
    for _ in range(30):
        call(hot, "alice", "bob", "alice")
        call(hot, "carol")
    assert rates(hot, 2.0) == {"alice": 30.0, "bob": 15.0, "carol": 15.0}
    assert rates(hot, 4.0) == {}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_shares_are_right_where_calls_come_in_a_fixed_order(batch: int) -> None:
    hot = HotObjects({"Cart"}, 0.0)
    names = ["hot" if at % 4 == 0 else f"cold-{at % 64}" for at in range(64)]
    for window in range(4):  # By the second it is known how fast it goes.
        for _ in range(100_000 // batch):
            call(hot, *(names * 2)[:batch])
            names = names[batch:] + names[:batch]
        found = rates(hot, window + 1.0)
    assert found["hot"] == pytest.approx(25_000, rel=0.15)
    assert len(found) == SHOWN_MAX


def test_a_sudden_load_of_very_many_objects_takes_bounded_memory() -> None:
    hot = HotObjects({"Cart"}, 0.0)
    random = Random(1)
    for _ in range(300_000):
        call(hot, "hot" if random.random() < 0.2 else str(random.random()))
    assert len(hot._weights) < 8 * SEEN_MAX
    assert rates(hot, 1.0)["hot"] == pytest.approx(60_000, rel=0.2)


def test_few_calls_after_a_burst_are_all_counted() -> None:
    hot = HotObjects({"Cart"}, 0.0)
    for _ in range(1_000):
        call(hot, *(f"cold-{at}" for at in range(1_000)))
    rates(hot, 1.0)
    hot.left = 1_000  # As it may be drawn then.
    assert rates(hot, 2.0) == {}
    for _ in range(4):
        call(hot, "alice")
    assert rates(hot, 3.0) == {"alice": 4.0}


def test_what_is_called_of_classes_that_the_app_does_not_have_is_nobody() -> None:
    hot = HotObjects({"Cart"}, 0.0)
    call(hot, "x", "y", cls="Strange")
    call(hot, "alice")
    assert rates(hot, 1.0) == {"alice": 1.0}


def test_who_asks_again_at_once_gets_the_same() -> None:
    hot = HotObjects({"Cart"}, 0.0)
    call(hot, "alice")
    assert rates(hot, 1.0) == rates(hot, 1.1) == {"alice": 1.0}


def last_minute(hot: HotObjects) -> dict[str, float]:
    return {each.name: each.minute_per_s for each in hot.of_last_minute()}


def test_who_was_called_in_the_last_minute_is_known_until_it_is_over() -> None:
    hot = HotObjects({"Cart"}, 0.0)
    call(hot, *["alice"] * 60)
    rates(hot, 2.0)
    assert last_minute(hot) == {"alice": 30.0}, "of as much as there was"
    for now_s in range(4, 62, 2):
        call(hot, "bob", "bob")
        rates(hot, float(now_s))
    assert last_minute(hot) == {"alice": 1.0, "bob": 1.0}
    assert hot.of_one("Cart", "alice") == HotObject("Cart", "alice", 0.0, 1.0)
    assert hot.newest(60.0) == [hot.of_one("Cart", "bob")] == [HotObject("Cart", "bob", 1.0, 1.0)]
    assert hot.of_one("Cart", "carol") == HotObject("Cart", "carol", 0.0, 0.0)
    rates(hot, 64.0)
    assert set(last_minute(hot)) == {"bob"}
    for now_s in range(66, 130, 2):
        rates(hot, float(now_s))
    assert last_minute(hot) == {}
    assert hot._sums == {}


def test_of_a_minute_with_very_many_objects_memory_is_bounded() -> None:
    hot = HotObjects({"Cart"}, 0.0)
    for second in range(200):
        call(hot, *(f"{second}-{at}" for at in range(1_000)), *["hot"] * 100)
        rates(hot, second + 1.0)
    assert len(hot._windows) <= 62
    assert len(hot._sums) <= 62 * KEPT_MAX
    assert last_minute(hot)["hot"] == pytest.approx(100, rel=0.2)


class Sum(DurableObject):
    async def add(self, other: str) -> None:
        if other:
            await self.stub(Sum, other).add("")


async def test_calls_of_clients_and_of_objects_count() -> None:
    world = World(Sum)
    for _ in range(4):
        await world.ask(Sum, "a", "add", "b")
    found = {each.name: each.calls_per_s for each in world.host.hot.newest(world.host.turn.clock() + 1.0)}
    assert found["a"] == pytest.approx(found["b"])
    assert found["a"] > 0


async def test_an_operator_who_looks_at_an_object_is_no_call_of_it() -> None:
    world = World(Sum)
    await world.ask(Sum, "a", "add", "")
    world.host.hot.newest(world.host.turn.clock() + 1.0)
    calls = world.host.counting.calls
    answered: asyncio.Future[object] = world.loop.create_future()
    world.host.wishes.begin(Show(), "Sum", "a", 5.0, lambda error, result: answered.set_result(result or error))
    await answered
    assert world.host.hot.newest(world.host.turn.clock() + 2.0) == []
    assert world.host.counting.calls == calls
