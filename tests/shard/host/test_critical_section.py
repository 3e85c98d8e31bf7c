"""How critical sections begin, and how they are given up, while a read keeps the gate closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.cold_world import Actor, ColdWorld
from tests.support.objects import LOG


@pytest.fixture(autouse=True)
def _forget() -> None:
    LOG.clear()


async def cold_object() -> ColdWorld:
    """Its rows are on disk, its header is in memory."""
    world = ColdWorld()
    await world.fill("x", {"a": 1})
    world.cool()
    await world.loaded("x")
    return world


async def note(actor: Actor) -> None:
    LOG.append("call")


async def test_a_section_that_waits_to_start_goes_before_a_call_that_waits() -> None:
    async def section(actor: Actor) -> Any:
        read = actor.storage.get("a")
        async with actor.block_concurrency():
            LOG.append("section")
        return await read

    world = await cold_object()
    calls = [world.act("x", section), world.act("x", note)]
    await world.settle()
    assert LOG == [], "the gate is closed until the row has come"
    await world.thaw()
    assert [call.result for call in calls] == [1, None]
    assert LOG == ["section", "call"]


async def test_a_section_whose_task_is_cancelled_before_it_starts_gives_back_what_it_is_granted() -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def section(actor: Actor) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        actor.storage.get("a")
        async with actor.block_concurrency():
            LOG.append("section")

    world = await cold_object()
    cancelled = world.act("x", section)
    await world.settle()
    tasks[0].cancel()
    call = world.act("x", note)
    await world.settle()
    assert not cancelled.answered, "the cancellation passes the gate like anything else"
    await world.thaw()
    assert cancelled.error.code == "exception"
    assert call.answered
    assert LOG == ["call"]
    assert world.activation(Actor, "x").gate.open
