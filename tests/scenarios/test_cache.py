"""What is answered from memory and what from the store (scenarios 34 to 59, what tests/shard does not have)."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.host_world import World
from tests.support.stage import Actor, act, asked, durable_and_evicted
from tests.support.storage_world import StorageWorld, finish


def test_a_cached_key_is_deleted_without_asking_the_store_and_then_known_to_be_absent() -> None:
    """Scenario 37."""
    world = durable_and_evicted(foo="bar")
    assert world.get("foo") == "bar"
    with asked(world) as keys:
        assert finish(world.storage.delete("foo")) is True
        assert world.get("foo") is None
    assert keys == []
    world.commit()
    assert world.durable() == {}


def test_put_many_is_one_commit_and_its_pairs_are_read_in_key_order() -> None:
    """Scenario 39."""
    world = StorageWorld()
    finish(world.storage.put_many({"foo": 1, "bar": 2}))
    assert list(finish(world.storage.get_many(["foo", "bar"]))) == ["bar", "foo"]
    assert list(world.list()) == ["bar", "foo"]
    world.commit()
    assert (world.done, sorted(world.durable())) == (1, ["bar", "foo"])


def test_delete_many_commits_only_the_keys_that_existed() -> None:
    """Scenario 40."""
    world = durable_and_evicted(foo=1, bar=2)
    assert world.get("baz") is None
    assert finish(world.storage.delete_many(["foo", "bar", "baz", "qux"])) == 2
    (writes,) = world.cut()
    assert writes.writes == {"foo": None, "bar": None}
    world.committed()


def test_get_many_asks_the_store_only_for_what_is_not_in_memory() -> None:
    """Scenario 44."""
    world = durable_and_evicted(foo=1, bar=2, grault=3)
    assert world.get("foo") == 1
    world.put("bar", 20)
    finish(world.storage.delete("baz"))
    assert world.get("absent") is None
    with asked(world) as keys:
        found = finish(world.storage.get_many(["foo", "bar", "baz", "absent", "grault"]))
    assert found == {"bar": 20, "foo": 1, "grault": 3}
    assert keys == ["grault"]


def test_get_many_returns_what_was_there_when_it_was_asked() -> None:
    """Scenario 45."""
    world = durable_and_evicted(foo=1, bar=2)
    before = world.storage.get_many(["foo", "bar", "baz"])
    world.put("foo", 10)
    finish(world.storage.delete("bar"))
    assert finish(before) == {"bar": 2, "foo": 1}
    assert finish(world.storage.get_many(["foo", "bar", "baz"])) == {"foo": 10}


def test_a_value_read_earlier_never_overwrites_a_newer_one_in_memory() -> None:
    """Scenario 49."""
    world = durable_and_evicted(foo=1)
    earlier = world.storage.get("foo")
    world.put("foo", 2)
    assert (finish(earlier), world.get("foo")) == (1, 2)
    world.commit()
    world.cache.evict()
    assert world.get("foo") == 2


async def test_a_read_answered_from_memory_or_from_the_store_lets_no_event_in_between() -> None:
    """Scenario 19, for reads of what is not in memory."""
    world = World(Actor)
    await world.ask(Actor, "one", "put", "n", 0)
    world.evict_idle()

    async def count(actor: Actor) -> Any:
        value = await actor.storage.get("n")
        many = await actor.storage.get_many(["n"])
        listed = await actor.storage.list()
        assert many["n"] == listed["n"] == value
        await actor.storage.put("n", value + 1)
        await asyncio.sleep(0)
        return value

    assert sorted(await world.ask_all([act(world, count) for _ in range(50)])) == list(range(50))
