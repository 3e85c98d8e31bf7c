"""What is said of one object: where it is, what keeps its gate closed, who waits, what went wrong; and it is only looked."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from tests.support.host_world import World
from tidegate.runtime.errors import BadRequest, MethodRaised
from tidegate.runtime.wire.supervisor_messages import QuarantinedObject
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.host.inspection import inspect
from tidegate.shard.host.object_log import KEPT_LINES, KEPT_OBJECTS
from tidegate.shard.objects.object import DurableObject

EVENTS: list[asyncio.Event] = []


class Shop(DurableObject):
    async def set(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)

    async def hold(self) -> None:
        async with self.storage.transaction():
            await EVENTS[0].wait()

    async def ask(self, other: str) -> None:
        await self.stub(Shop, other).set("k", 2)

    async def boom(self) -> None:
        raise ValueError("no")

    async def at(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(hours=1))

    async def alarm(self, info: AlarmInfo) -> None:
        pass


def look(world: World, name: str) -> dict[str, Any]:
    return inspect(world.host, "Shop", name, world.shard_of("Shop", name))


def world_of(**settings: Any) -> World:
    EVENTS[:] = [asyncio.Event()]
    return World(Shop, **settings)


async def test_an_object_whose_gate_is_closed_says_by_what_and_who_waits_for_it() -> None:
    world = world_of()
    holding = world.call(Shop, "alice", "hold")
    await world.settle()
    asking = world.call(Shop, "bob", "ask", "alice")
    waiting = world.call(Shop, "alice", "set", "k", 1)
    await world.settle()
    found = look(world, "alice")
    assert (found["state"], found["gate"]["open"], found["gate"]["closed_by"]) == ("awake", False, "an open transaction")
    assert found["gate"]["waits_for"].startswith("test_inspection.py:")
    assert sorted((each["method"], each["called_by"].split()[0]) for each in found["queue"]) == [
        ("set", "Shop/bob"),
        ("set", "client"),
    ]
    assert [(each["method"], each["called_by"].split()[0]) for each in found["running"]] == [("hold", "client")]
    assert "in hold" in found["running"][0]["at"]
    assert [each["method"] for each in look(world, "bob")["running"]] == ["ask"]
    EVENTS[0].set()
    await world.ask_all([holding, asking, waiting])
    found = look(world, "alice")
    assert (found["gate"]["open"], found["gate"]["closed_by"], found["queue"], found["running"]) == (True, None, [], [])
    assert found["cached"]["keys"] == 1


async def test_it_is_only_looked_and_what_is_not_there_is_said() -> None:
    world = world_of()
    with pytest.raises(BadRequest, match="there is no object Shop/alice"):
        look(world, "alice")
    await world.ask(Shop, "alice", "set", "k", 1)
    await world.ask(Shop, "alice", "at")
    world.crash()
    found = look(world, "alice")
    assert (found["state"], found["stored"], found["in_app"], "gate" in found) == ("on disk", True, True, False)
    assert found["alarm"] is not None
    assert len(world.host.table) == 0
    world.classes = []
    world.crash()
    assert look(world, "alice")["in_app"] is False


async def test_what_is_not_durable_is_counted_and_sleep_is_a_state() -> None:
    world = world_of(auto=False)
    world.call(Shop, "alice", "set", "k", 1)
    await world.settle()
    found = look(world, "alice")
    assert (found["undurable_keys"], found["stored"]) == (1, False)
    world.commit()
    assert look(world, "alice")["undurable_keys"] == 0
    world.host.table.evict_idle(world.loop.time() + 20)
    world.host.table.evict_idle(world.loop.time() + 20)
    assert look(world, "alice")["state"] in ("asleep", "resting")


async def test_the_newest_errors_of_an_object_are_kept_and_of_many_objects_those_of_longest_ago_go() -> None:
    world = world_of()
    for number in range(KEPT_LINES + 3):
        with pytest.raises(MethodRaised):
            await world.ask(Shop, "alice", "boom")
        assert len(look(world, "alice")["errors"]) == min(number + 1, KEPT_LINES)
    newest = look(world, "alice")["errors"][0]
    assert (newest["code"], newest["what"]) == ("boom", "raised: ValueError: no")
    assert newest["time_ms"] > 1_600_000_000_000
    for number in range(KEPT_OBJECTS):
        with pytest.raises(MethodRaised):
            await world.ask(Shop, f"other{number}", "boom")
    assert look(world, "alice")["errors"] == []


async def test_an_object_in_quarantine_says_why() -> None:
    world = world_of()
    world.host.activator.quarantine([QuarantinedObject("Shop", "alice", 2, "spin", 60.0)])
    found = look(world, "alice")
    assert found["quarantine"]["because_of"] == "spin"
    assert 59 < found["quarantine"]["for_s"] <= 60
