"""shard/host/call_book.py: which calls a worker still has to answer, wherever they are, and how many wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.host_world import Call, World
from tidegate.runtime.wire.protocol import OK, Origin
from tidegate.shard.host.given_up import Errand
from tidegate.shard.objects.object import DurableObject


class Slow(DurableObject):
    async def on_start(self) -> None:
        await asyncio.sleep(0.05 if self.id.name == "starts" else 0)

    async def wait(self) -> None:
        await asyncio.sleep(0.05)

    async def section(self) -> None:
        async with self.block_concurrency():
            await asyncio.sleep(0.05)

    async def write(self, size: int = 1) -> None:
        for number in range(size):
            self.storage.put(str(number), b"x" * (1 << 20))

    async def nothing(self) -> None:
        pass

    async def vanish(self) -> None:
        task = asyncio.current_task()
        await asyncio.sleep(0)
        task.call = None  # type: ignore[union-attr]  # an ObjectTask


def known(world: World) -> set[int]:
    return world.host.book.known_to(b"test")


def unanswered(*calls: Call) -> None:
    assert not any(call.answered for call in calls)


async def test_a_call_that_runs_waits_or_is_held_is_known_with_a_deadline_or_without_and_to_nobody_else() -> None:
    world = World(Slow, auto=False)
    for _ in range(2):
        await world.settle()
    calls = []
    every: list[dict[str, Any]] = [{}, {"deadline_ms": 60_000}]
    for options in every:
        calls += [
            world.call(Slow, "runs", "wait", **options),
            world.call(Slow, "busy", "section", **options),
            world.call(Slow, "starts", "nothing", **options),
            world.call(Slow, "held", "write", **options),
        ]
        await world.settle()
    calls.append(world.call(Slow, "busy", "nothing"))
    await world.settle()
    unanswered(*calls)
    assert known(world) == set(range(1, len(calls) + 1))
    assert world.host.book.known_to(b"another") == set()
    world.cut()
    assert known(world) == set(range(1, len(calls) + 1)), "also while their commit is on its way"
    world.committed()
    await world.ask_all(calls)
    assert known(world) == set()


async def test_a_call_that_waits_for_the_disk_or_for_the_end_of_a_reset_object_is_known() -> None:
    world = World(Slow, auto=False)
    large = world.call(Slow, "large", "write", 17)
    await world.settle()
    waits = world.call(Slow, "other", "nothing")
    await world.settle()
    unanswered(large, waits)
    assert known(world) == {1, 2}
    world.cut()
    world.activation(Slow, "large").fail("a test")
    after = world.call(Slow, "large", "nothing")
    await world.settle()
    unanswered(after)
    assert 3 in known(world)
    world.committed()
    world.auto = True
    world.host.turn.end_soon()
    await world.ask_all([waits, after])


async def test_a_call_that_code_has_made_vanish_is_not_known() -> None:
    world = World(Slow)
    call = world.call(Slow, "a", "vanish")
    await world.settle(1)
    await world.settle()
    assert known(world) == set()
    unanswered(call)
    world.calls.clear()
    assert world.host.unanswered == 0


async def test_what_an_operator_asked_for_is_known_until_it_is_durable() -> None:
    world = World(Slow, auto=False)
    operator = Origin(b"test", envelope=None, json=False, single=False, requests=1)
    gate = world.host.output_gate
    gate.hold(gate.open_seq, None, Errand(world.host.answer, operator, 7, lambda: None), 0, OK, None)
    assert known(world) == {7}
    world.host.output_gate.held.clear()


async def test_what_is_asked_about_costs_nothing_for_objects_without_calls() -> None:
    world = World(Slow)
    calls = [world.call(Slow, f"idle {number}", "nothing") for number in range(100)]
    await world.ask_all(calls)
    waits = world.call(Slow, "busy", "wait")
    await world.settle()
    assert len(world.host.table) == 101
    assert [task.call[1] for task in world.host.book.running] == [101]
    assert known(world) == {101}
    await world.ask_all([waits])
    assert not world.host.book.running


async def test_a_count_that_is_not_what_the_places_hold_is_noticed() -> None:
    world = World(Slow)
    calls = [world.call(Slow, "busy", "section"), world.call(Slow, "busy", "nothing"), world.call(Slow, "starts", "nothing")]
    await world.settle()
    book, activation = world.host.book, world.activation(Slow, "busy")
    world.check()
    assert len(book.waiting) == 2
    one, runs = next(iter(book.waiting)), next(iter(book.running))
    for spoil, mend in (
        (lambda: book.waiting.discard(one), lambda: book.waiting.add(one)),
        (lambda: book.ended(runs), lambda: book.started(runs)),
        (lambda: setattr(book, "waiting_bytes", 0), lambda: setattr(book, "waiting_bytes", 4)),
        (lambda: setattr(activation, "queued_calls", 0), lambda: setattr(activation, "queued_calls", 1)),
    ):
        spoil()
        with pytest.raises(AssertionError):
            world.check()
        mend()
        world.check()
    await world.ask_all(calls)
    assert (book.unanswered, book.waiting_bytes) == (0, 0)
