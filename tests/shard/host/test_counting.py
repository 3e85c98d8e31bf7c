"""What a worker counts of its calls: once each, in the right class, however they come and whatever becomes of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.host_world import World
from tests.support.objects import CONTROL, control, until
from tidegate.runtime.errors import CallError
from tidegate.runtime.wire.counts import Counts
from tidegate.shard.host.counting import UNKNOWN
from tidegate.shard.objects.object import DurableObject


class Shop(DurableObject):
    async def look(self) -> int:
        return int(await self.storage.get("stock", 7))

    async def sell(self) -> int:
        stock = int(await self.storage.get("stock", 7))
        self.storage.put("stock", stock - 1)
        return stock

    async def report(self) -> dict[str, int]:
        return {"stock": 7}

    async def fail(self) -> None:
        raise ValueError("no such thing")

    async def wait(self) -> str:
        await until("door")
        return "came"

    async def section(self) -> None:
        async with self.block_concurrency():
            await until("door")

    async def ask(self, other: str) -> int:
        return await self.stub(Shop, other).look()

    async def end(self) -> None:
        self.abort("enough")


class Other(DurableObject):
    async def look(self) -> int:
        return 1


class Clock:
    """Moves when it is told to, and a little whenever it is looked at."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now_s


def new_world(**settings: Any) -> tuple[World, Clock]:
    control("door")
    world, clock = World(Shop, Other, **settings), Clock()
    world.host.counting._clock = world.host.turn.clock = clock
    return world, clock


def number(counts: Counts, key: str, *labels: str) -> float:
    """Of a counter, or how many things a histogram has seen."""
    for each, value in counts[key]:
        if each == labels:
            return sum(value[:-1]) if isinstance(value, list) else value
    return 0


def total(counts: Counts, key: str, *labels: str) -> float:
    return next((value[-1] for each, value in counts[key] if each == labels and isinstance(value, list)), 0.0)


async def test_each_call_of_a_message_is_counted_once_in_its_class() -> None:
    world, _ = new_world()
    await world.ask(Shop, "a", "look")
    await world.ask(Other, "b", "look")
    calls = world.batch(*[(Shop, "a", "sell"), (Shop, "a", "look"), (Other, "b", "look"), (Shop, "a", "report")] * 5)
    await world.ask_all(calls)
    counts = world.host.counting.counts()
    assert number(counts, "calls", "Shop") == 16
    assert number(counts, "calls", "Other") == 6
    for key in ("call_run_seconds", "call_queue_seconds", "call_answer_seconds"):
        assert number(counts, key, "Shop") == 16, key
        assert number(counts, key, "Other") == 6, key
    assert counts["call_errors"] == []
    assert sum(float(value) for _, value in counts["shard_calls"] if not isinstance(value, list)) == 22
    assert world.host.statistics().calls == 22


async def test_the_clock_is_looked_at_once_for_all_calls_of_a_message_to_one_class() -> None:
    world, clock = new_world(spare_task=True)
    await world.ask(Shop, "a", "look")
    looks = clock.looks
    await world.ask_all(world.batch(*[(Shop, "a", "look")] * 100))
    assert clock.looks - looks <= 3, "the arrival, the end, and the end of the turn"


async def test_a_reply_that_waits_for_its_commit_was_answered_when_that_is_durable() -> None:
    world, clock = new_world(auto=False)
    first = world.call(Shop, "a", "look")
    await world.settle()
    assert first.answered
    call = world.call(Shop, "a", "sell")
    await world.settle()
    clock.now_s += 0.25
    world.commit()
    assert call.answered
    counts = world.host.counting.counts()
    assert number(counts, "call_answer_seconds", "Shop") == 2
    assert total(counts, "call_answer_seconds", "Shop") == pytest.approx(0.25)
    assert total(counts, "call_run_seconds", "Shop") == 0.0


async def test_a_call_that_waits_for_something_has_its_own_time() -> None:
    world, clock = new_world()
    waiting = world.call(Shop, "a", "wait")
    await world.settle()
    counts = world.host.counting.counts()
    assert (number(counts, "calls", "Shop"), number(counts, "call_run_seconds", "Shop")) == (1, 0)
    clock.now_s += 2.0
    CONTROL["door"].set_result(None)
    assert await waiting.reply == "came"
    counts = world.host.counting.counts()
    assert number(counts, "call_run_seconds", "Shop") == number(counts, "call_answer_seconds", "Shop") == 1
    assert total(counts, "call_run_seconds", "Shop") == total(counts, "call_answer_seconds", "Shop") == pytest.approx(2.0)


async def test_a_call_that_waits_at_a_gate_has_queued_and_the_gate_was_closed() -> None:
    world, clock = new_world()
    section = world.call(Shop, "a", "section")
    await world.settle()
    queued = world.call(Shop, "a", "look")
    await world.settle()
    clock.now_s += 3.0
    CONTROL["door"].set_result(None)
    await world.ask_all([section, queued])
    counts = world.host.counting.counts()
    assert total(counts, "call_queue_seconds", "Shop") == pytest.approx(3.0)
    assert number(counts, "gate_closed_seconds", "Shop") == 1
    assert total(counts, "gate_closed_seconds", "Shop") == pytest.approx(3.0)
    assert number(counts, "call_answer_seconds", "Shop") == number(counts, "call_run_seconds", "Shop") == 2


async def test_calls_between_objects_and_with_options_are_counted_like_others() -> None:
    world, _ = new_world()
    assert await world.ask(Shop, "a", "ask", "b") == 7
    assert await world.ask(Shop, "a", "look", deadline_ms=5_000) == 7
    assert await world.ask(Shop, "a", "sell", key="once") == 7
    assert await world.ask(Shop, "a", "sell", key="once") == 7
    counts = world.host.counting.counts()
    assert number(counts, "calls", "Shop") == 4
    for key in ("call_run_seconds", "call_queue_seconds", "call_answer_seconds"):
        assert number(counts, key, "Shop") == 4, key


async def test_errors_are_counted_by_class_and_code_also_of_what_is_no_class() -> None:
    world, _ = new_world()
    for target, name, method in (
        (Shop, "a", "fail"), (Shop, "a", "fail"), (Shop, "a", "nothing"), (Shop, "a", "end"),
        ("Nobody", "a", "look"), ("Nothing", "a", "look"), (Shop, "", "look"),
    ):  # fmt: skip
        with pytest.raises(CallError):
            await world.ask(target, name, method)
    with pytest.raises(CallError):
        await world.ask(Shop, "a", "look", "too", "many")
    with pytest.raises(CallError):
        await world.ask(Shop, "a", "look", deadline_ms="soon")
    assert sorted(world.host.counting.counts()["call_errors"]) == [
        ((UNKNOWN, "unknown_class"), 2),
        (("Shop", "bad_arguments"), 1),
        (("Shop", "bad_request"), 2),
        (("Shop", "exception"), 2),
        (("Shop", "object_reset"), 1),
        (("Shop", "unknown_method"), 1),
    ]


async def test_a_deadline_that_passes_is_one_error_of_its_class() -> None:
    world, _ = new_world()
    with pytest.raises(CallError):
        await world.ask(Shop, "a", "wait", deadline_ms=20)
    CONTROL["door"].set_result(None)
    await asyncio.sleep(0.05)
    assert world.host.counting.counts()["call_errors"] == [(("Shop", "deadline_exceeded"), 1)]


async def test_reads_that_the_cache_answers_are_hits_and_those_from_the_store_are_not() -> None:
    world, _ = new_world()
    await world.ask(Shop, "a", "sell")
    budget = world.host.table.budget
    assert (budget.hits, budget.misses) == (1, 0), "of an object without data it is known that there is none"
    await world.ask(Shop, "a", "look")
    assert (budget.hits, budget.misses) == (2, 0)
    world.evict_idle()
    await world.ask(Shop, "a", "look")
    assert (budget.hits, budget.misses) == (2, 1)
