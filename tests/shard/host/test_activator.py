from __future__ import annotations

import pytest

from tests.support.host_world import World
from tidegate.runtime.errors import BadRequest, ObjectReset, Unavailable, UnknownMethod
from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.shard.core.states import State
from tidegate.shard.objects.object import DurableObject

MADE: list[str] = []
KEPT: list[Plain] = []


class Plain(DurableObject):
    async def count(self) -> int:
        number: int = await self.storage.get("n", 0)
        self.storage.put("n", number + 1)
        return number

    async def keep(self) -> None:
        KEPT.append(self)


class Watched(Plain):
    def __setattr__(self, name: str, value: object) -> None:
        if name == "storage":
            MADE.append(name)
        object.__setattr__(self, name, value)


class Begun(Plain):
    def __init__(self) -> None:
        MADE.append(self.id.name)


@pytest.fixture(autouse=True)
def _empty() -> None:
    MADE.clear()
    KEPT.clear()


async def _counted(world: World, cls: type[Plain], *names: str) -> None:
    await world.ask_all([world.call(cls, name, "count") for name in names])
    await world.settle()


async def test_objects_in_memory_at_rest_and_on_disk_are_called_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Plain, idle_evict_s=10.0)
    table = world.host.table
    await _counted(world, Plain, "rests", "away")
    table.evict(world.activation(Plain, "away"))
    table.evict_idle(world.host.turn.now_s + 11.0)
    await _counted(world, Plain, "awake")
    assert world.activation(Plain, "rests").state is State.RESTING
    monkeypatch.setattr("tidegate.shard.host.host.Call", None)  # What a call becomes that is looked at more closely.
    calls = world.batch(*((Plain, name, "count") for name in ("away", "rests", "awake", "new", "away")))
    assert await world.ask_all(calls) == [1, 1, 1, 0, 2]
    assert {world.activation(Plain, name).state for name in ("away", "rests", "awake", "new")} == {State.AWAKE}


async def test_code_that_a_class_has_for_its_start_runs_once_for_each_instance() -> None:
    world = World(Begun)
    assert await world.ask_all(world.batch((Begun, "a", "count"), (Begun, "a", "count"))) == [0, 1]
    assert MADE == ["a"]
    await world.settle()
    world.host.table.evict(world.activation(Begun, "a"))
    assert await world.ask(Begun, "a", "count") == 2
    assert MADE == ["a", "a"]


async def test_how_a_class_sets_attributes_is_not_asked_for_those_of_the_runtime() -> None:
    world = World(Watched)
    assert await world.ask(Watched, "a", "count") == 0
    assert MADE == []


async def test_beside_calls_that_are_refused_those_of_the_same_message_run() -> None:
    world = World(Plain)
    shards = world.host.settings.shards_total
    damaged = shard_of_slot(slot_of("Plain", "a"), shards)
    other = next(name for name in map(str, range(99)) if shard_of_slot(slot_of("Plain", name), shards) != damaged)
    world.damage(damaged)
    calls = world.batch((Plain, "a", "count"), (Plain, "", "count"), (Plain, other, "none"), (Plain, other, "count"))
    await world.settle()
    assert [type(call.error) for call in calls[:3]] == [Unavailable, BadRequest, UnknownMethod]
    assert await world.ask_all(calls[3:]) == [0]
    assert len(world.host.table) == 1


async def test_who_has_kept_an_object_that_was_evicted_reaches_nothing_of_it() -> None:
    world = World(Plain)
    await world.ask(Plain, "a", "keep")
    await world.settle()
    world.host.table.evict(world.activation(Plain, "a"))
    (kept,) = KEPT
    with pytest.raises(ObjectReset, match="has left memory"):
        kept.storage.put("n", 7)
    with pytest.raises(ObjectReset, match="has left memory"):
        await kept.stub(Plain, "b").count()
    assert await world.ask(Plain, "a", "count") == 0
