"""shard/host/call.py: one record of a call, wherever it waits."""

from __future__ import annotations

import collections
from typing import Any

import pytest

import tidegate.shard.host.call
import tidegate.shard.host.host
from tests.support.cold_world import Actor, ColdWorld
from tests.support.host_world import World
from tests.support.objects import CONTROL, Thing, control
from tidegate.shard.host.call import Call
from tidegate.shard.objects.object import DurableObject


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """How often options are read, slots are computed and records are made."""
    counts: collections.Counter[str] = collections.Counter()
    CONTROL.clear()

    def count(where: Any, name: str) -> None:
        original = getattr(where, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(where, name, counting)

    count(tidegate.shard.host.host, "parse_options")
    count(Call, "__init__")
    count(tidegate.shard.host.call, "slot_of")
    return counts


async def test_a_call_that_waits_in_two_places_is_read_and_hashed_once(
    counted: collections.Counter[str],
) -> None:
    world = ColdWorld()
    world.cool()
    hold = control("hold")

    async def held(actor: Actor) -> None:
        async with actor.block_concurrency():
            await hold

    holds = world.act("x", held)
    waits = world.call(Actor, "x", "ping", deadline_ms=60_000)
    await world.settle()
    world.reader.release()
    await world.settle()
    assert world.activation(Actor, "x").queued_calls == 1
    assert not waits.answered
    hold.set_result(None)
    await world.ask_all([holds, waits])
    assert counted == {"parse_options": 1, "__init__": 2, "slot_of": 2}


async def test_a_call_of_an_object_to_one_that_is_not_in_memory_is_hashed_once(counted: collections.Counter[str]) -> None:
    class Asks(DurableObject):
        async def ask(self) -> None:
            await self.stub(Thing, "cold").put_nothing()

    world = World(Asks, Thing)
    await world.ask(Asks, "a", "ask")
    assert counted == {"__init__": 1, "slot_of": 1}, "of the call within: that from outside takes the shortest way"


async def test_a_call_that_starts_at_once_is_no_record(counted: collections.Counter[str]) -> None:
    world = World(Thing)
    await world.ask(Thing, "a", "put_nothing")
    counted.clear()
    await world.ask_all(world.batch(*[(Thing, "a", "put_nothing")] * 10))
    assert not counted
