"""`no_cache` (scenarios 277 to 280, what tests/shard does not have)."""

from __future__ import annotations

import pytest

from tests.scenarios.stage import asked, durable_and_evicted


def test_two_reads_that_bypass_the_cache_ask_the_store_twice() -> None:
    """Scenario 277."""
    world = durable_and_evicted(foo=1)
    with asked(world) as keys:
        assert [world.get("foo", no_cache=True) for _ in range(2)] == [1, 1]
    assert keys == ["foo", "foo"]


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
