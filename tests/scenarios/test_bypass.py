"""`no_cache` (scenarios 277 to 280, what tests/shard does not have)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cold_world import HeldReader
from tests.support.stage import asked, durable_and_evicted
from tests.support.storage_world import StorageWorld, finish


def test_two_reads_that_bypass_the_cache_ask_the_store_twice() -> None:
    """Scenario 277."""
    world = durable_and_evicted(foo=1)
    with asked(world) as keys:
        assert [world.get("foo", no_cache=True) for _ in range(2)] == [1, 1]
    assert keys == ["foo", "foo"]


async def put_in_a_transaction(world: StorageWorld) -> None:
    async with world.storage.transaction() as txn:
        await txn.put("foo", 2, no_cache=True)


WRITES: dict[str, Callable[[StorageWorld], Any]] = {
    "put": lambda world: world.storage.put("foo", 2, no_cache=True),
    "put of a list": lambda world: world.storage.put("foo", [2], no_cache=True),
    "put_many": lambda world: world.storage.put_many({"foo": 2}, no_cache=True),
    "delete": lambda world: world.storage.delete("foo", no_cache=True),
    "delete_many": lambda world: world.storage.delete_many(["foo"], no_cache=True),
    "put in a transaction": put_in_a_transaction,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("cached", [False, True], ids=["not cached before", "cached before"])
def test_what_is_written_bypassing_the_cache_is_visible_and_leaves_memory_once_it_is_durable(
    write: Callable[[StorageWorld], Any], cached: bool
) -> None:
    """Scenario 278."""
    world = durable_and_evicted(foo=1)
    if cached:
        assert world.get("foo") == 1
    finish(write(world))
    written = world.get("foo", no_cache=True)
    assert written in (2, [2], None)
    with asked(world) as keys:
        world.cut()
        assert world.get("foo", no_cache=True) == written
    assert keys == [], "it is never looked for where it is not yet"
    world.committed()
    assert world.cache.values == {}
    assert world.budget.used_bytes == 0
    with asked(world) as keys:
        assert world.get("foo") == written
    assert keys == ["foo"]


def test_a_value_that_is_written_again_while_it_is_being_committed_leaves_memory_with_the_second_commit() -> None:
    world = durable_and_evicted(foo=1)
    world.put("foo", 2, no_cache=True)
    world.cut()
    world.put("foo", 3, no_cache=True)
    world.committed()
    assert world.get("foo", no_cache=True) == 3
    assert "foo" in world.cache.values
    world.commit()
    assert world.cache.values == {}
    assert world.get("foo") == 3


def test_a_value_that_is_written_again_without_bypassing_stays_cached() -> None:
    world = durable_and_evicted(foo=1)
    world.put("foo", 2, no_cache=True)
    world.put("foo", 2)
    world.cut()
    world.put("foo", 2, no_cache=True)
    world.committed()
    assert not world.output_gate.can_cut, "it was written already"
    with asked(world) as keys:
        assert world.get("foo") == 2
    assert keys == []


def test_an_object_of_which_values_have_left_memory_still_knows_all_of_them() -> None:
    world = StorageWorld()
    world.put("kept", 1)
    world.put("passed", 2, no_cache=True)
    world.commit()
    assert sorted(world.cache.values) == ["kept"]
    assert world.list() == {"kept": 1, "passed": 2}
    assert (world.get("passed"), world.get("never")) == (2, None)


def test_what_is_dropped_by_a_reset_or_by_delete_all_is_not_looked_for_when_a_later_commit_ends() -> None:
    world = durable_and_evicted(foo=1)
    world.put("foo", 2, no_cache=True)
    world.reset()
    assert world.output_gate.passing == {}
    world.put("foo", 3, no_cache=True)
    finish(world.storage.delete_all())
    world.put("bar", 1)
    world.commit()
    assert world.output_gate.passing == {}
    assert world.list() == {"bar": 1}


def test_an_older_value_that_was_being_fetched_does_not_replace_one_that_has_left_memory() -> None:
    world = durable_and_evicted(foo=1)
    world.store.reader = HeldReader()
    world.store.fetch(world.cache.key, ["foo"], lambda *_: None)
    entries = world.cache.values
    world.put("foo", 2, no_cache=True)
    world.commit()
    assert world.cache.learn(entries, "foo", b"\x01") == 1, "what it was when it was asked"
    assert world.get("foo") == 2


def test_what_is_read_without_bypassing_while_it_is_dirty_stays_cached_after_the_commit() -> None:
    """Scenario 279."""
    world = durable_and_evicted(foo=1)
    world.put("foo", 2, no_cache=True)
    assert world.get("foo") == 2
    world.commit()
    with asked(world) as keys:
        assert world.get("foo") == 2
    assert keys == []


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_list_that_bypasses_the_cache_shows_what_is_cached_and_caches_nothing_else(reverse: bool) -> None:
    """Scenario 280."""
    world = durable_and_evicted(bar=1, foo=2, qux=3)
    world.put("foo", 20)
    assert world.list(no_cache=True, reverse=reverse) == {"bar": 1, "foo": 20, "qux": 3}
    assert world.get("foo") == 20
    with asked(world) as keys:
        assert world.get("bar") == 1
    assert keys == ["bar"]
