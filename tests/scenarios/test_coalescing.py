"""How the writes of a turn become one commit (scenarios 60 to 75, what tests/shard does not have)."""

from __future__ import annotations

import msgspec

from tests.support.host_world import World
from tests.support.stage import Actor, act, durable_and_evicted
from tests.support.storage_world import StorageWorld, finish
from tidegate.shard.store.interface import HEADER


def committed(world: StorageWorld) -> dict[str, object]:
    """Cuts, makes durable, and tells what was in the commit."""
    (writes,) = world.cut()
    world.committed()
    return {key: None if raw is None else msgspec.msgpack.decode(raw) for key, raw in writes.writes.items() if key != HEADER}


def test_each_delete_of_one_turn_counts_what_existed_when_it_was_called() -> None:
    """Scenario 62."""
    world = durable_and_evicted(bar=1, corge=2, grault=3)
    assert world.get("bar") == 1
    first = world.storage.delete_many(["bar", "grault2"])
    muted = world.storage.delete("corge")
    second = world.storage.delete_many(["corge", "grault", "bar"])
    del muted
    assert (finish(first), finish(second)) == (1, 1)
    assert committed(world) == {"bar": None, "corge": None, "grault": None}


def test_deletes_nobody_awaits_and_a_later_put_of_one_of_their_keys_are_one_commit_with_the_put() -> None:
    """Scenario 64."""
    world = durable_and_evicted(a=1, b=2, c=3, d=4)
    for key in "abcd":
        world.storage.delete(key)
    world.storage.put("b", 20)
    assert committed(world) == {"a": None, "b": 20, "c": None, "d": None}
    world.activate()
    assert world.list() == {"b": 20}


async def test_the_reply_with_the_count_of_a_delete_waits_for_its_commit() -> None:
    """Scenario 69."""
    world = World(Actor, auto=False)
    filled = world.call(Actor, "one", "put", "a", 1)
    await world.settle()
    world.commit()
    await filled.reply

    async def delete(actor: Actor) -> list[bool]:
        return [await actor.storage.delete("a"), await actor.storage.delete("unknown")]

    call = act(world, delete)
    await world.settle()
    assert not call.answered
    world.commit()
    assert await call.reply == [True, False]


async def test_after_a_failed_commit_the_object_writes_what_it_is_told_then_and_nothing_of_before() -> None:
    """Scenario 70: a commit is not tried again, its object starts anew."""
    world = World(Actor, auto=False)
    lost = world.call(Actor, "one", "put", "a", 1)
    await world.settle()
    world.fail_commit()
    assert lost.error.outcome == "unknown"
    written = world.call(Actor, "one", "put", "b", 2)
    await world.settle()
    world.commit()
    await written.reply
    assert world.durable(Actor, "one") == {"b": 2}


def test_puts_and_deletes_of_one_turn_end_in_one_commit_with_the_last_word_on_each_key() -> None:
    """Scenario 75."""
    world = durable_and_evicted(key2=2, key4=4, key5=5)
    storage = world.storage
    storage.put("key1", 1)
    many = storage.delete_many(["key1", "key2", "key4", "key6"])
    one = storage.delete("key5")
    for key in ("key4", "key5", "key1"):
        storage.put(key, "new")
    assert (finish(many), finish(one)) == (3, True)
    assert committed(world) == {"key1": "new", "key2": None, "key4": "new", "key5": "new"}
    assert world.durable().keys() == {"key1", "key4", "key5"}
