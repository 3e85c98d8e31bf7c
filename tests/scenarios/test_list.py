"""`list` over what is durable, cached, being committed and dirty at once (scenarios 77 to 122).

The reference tracks which gaps between keys are known to be empty; ours need not. What a caller sees must be the same, so each
of its cases is run for its result: in every state of the cache, both ways, with every limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.support.stage import asked, durable_and_evicted
from tests.support.storage_world import StorageWorld, finish, run

Prepare = Callable[[StorageWorld], object]

BASE = {"abc": 1, "bar": 2, "baz": 3, "foo": 4, "qux": 5, "xyz": 6}


def nothing(world: StorageWorld) -> None:
    """82, 107: nothing is in memory."""


def one_key(world: StorageWorld) -> None:
    """85, 114: only the low bound is in memory."""
    world.get("bar")


def middle_key(world: StorageWorld) -> None:
    """114."""
    world.get("baz")


def absences(world: StorageWorld) -> None:
    """82: keys known not to exist."""
    for key in ("bara", "corge", "grault"):
        world.get(key)


def listed_before(world: StorageWorld) -> None:
    """77, 87, 112: adjacent and disjoint ranges were listed before."""
    world.list(start="bar", end="corge")
    world.list(start="corge", end="qux")
    world.list(start="x", reverse=True)


def listed_with_limits(world: StorageWorld) -> None:
    """79, 80, 109: parts of ranges were listed before."""
    world.list(start="bar", end="qux", limit=3)
    world.list(start="abc", end="qux", limit=3, reverse=True)


def dirty(world: StorageWorld) -> None:
    """84, 117: written and deleted, in no commit yet."""
    world.put("corge", "new")
    world.put("bar", "changed")
    world.get("foo")
    finish(world.storage.delete("baz"))


def deleted(world: StorageWorld) -> None:
    """94, 110: more deletes than rows are asked for."""
    finish(world.storage.delete_many(["abc", "bar", "baz", "foo"]))
    world.put("grault", "new")


def emptied(world: StorageWorld) -> None:
    """94: the first range is empty."""
    finish(world.storage.delete_many(list(BASE)))


def being_committed(world: StorageWorld) -> None:
    """97, 119: what is being committed is not in the store yet."""
    world.put("corge", "new")
    finish(world.storage.delete("foo"))
    world.cut()
    finish(world.storage.delete("corge"))
    world.put("baz", "newer")


def cleared_and_being_committed(world: StorageWorld) -> None:
    """132: everything was deleted, which is being committed."""
    finish(world.storage.delete_all())
    world.cut()
    world.put("corge", "new")


def end_key_written(world: StorageWorld) -> None:
    """92: the key at the end of a range that was listed is written."""
    world.list(start="bar", end="qux")
    world.put("qux", "new")


STATES: dict[Prepare, Mapping[str, object]] = {
    nothing: BASE,
    one_key: BASE,
    middle_key: BASE,
    absences: BASE,
    listed_before: BASE,
    listed_with_limits: BASE,
    dirty: {"abc": 1, "bar": "changed", "corge": "new", "foo": 4, "qux": 5, "xyz": 6},
    deleted: {"grault": "new", "qux": 5, "xyz": 6},
    emptied: {},
    being_committed: {"abc": 1, "bar": 2, "baz": "newer", "qux": 5, "xyz": 6},
    cleared_and_being_committed: {"corge": "new"},
    end_key_written: {**BASE, "qux": "new"},
}
BOUNDS = [None, "abc", "bar", "baz", "corge", "foo", "grault", "qux", "xyzzy", "foo\0"]


@pytest.mark.parametrize("prepare", STATES, ids=lambda prepare: prepare.__name__)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_list_is_the_same_whatever_is_in_memory_dirty_or_being_committed(prepare: Prepare, reverse: bool) -> None:
    """Scenarios 77 to 92, 94, 97, 107 to 119, each range and limit asked twice: the second time of what the first left."""
    world = durable_and_evicted(**BASE)
    prepare(world)
    expected = STATES[prepare]
    for start in BOUNDS:
        for end in BOUNDS:
            inside = [key for key in sorted(expected) if (start is None or key >= start) and (end is None or key < end)]
            for limit in (None, 1, 2, 3, 4, 1_000):
                keys = (inside[::-1] if reverse else inside)[:limit]
                for _ in range(2):
                    listed = world.list(start=start, end=end, limit=limit, reverse=reverse)
                    assert list(listed.items()) == [(key, expected[key]) for key in keys], (start, end, limit)


def test_listing_again_asks_for_no_single_key_and_keeps_absences_apart() -> None:
    """Scenarios 82, 87 and 99: what `get` says after a list agrees with it."""
    world = durable_and_evicted(**BASE)
    assert world.list(start="c", end="d") == {}
    with asked(world) as keys:
        world.list(start="bar", end="qux")
        assert keys == []
    assert [world.get(key) for key in ("c", "corge", "d", "baz")] == [None, None, None, 3]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_list_shows_the_state_at_its_call_and_the_next_one_what_was_written_since(reverse: bool) -> None:
    """Scenarios 95 and 120."""
    world = durable_and_evicted(**BASE)
    listed = world.storage.list(reverse=reverse)
    world.put("corge", "new")
    finish(world.storage.delete("bar"))
    assert dict(finish(listed)) == BASE
    assert world.list() == {"abc": 1, "baz": 3, "corge": "new", "foo": 4, "qux": 5, "xyz": 6}
    world.cut()
    world.put("corge", "newer")
    world.committed()
    assert world.list()["corge"] == "newer"


def test_a_start_within_a_prefix_with_a_limit_in_reverse_takes_the_greatest_keys_of_the_range() -> None:
    """Scenario 102."""
    names = ["section1", "section2", "section2a", "section3", "section4", "other", "tail"]
    world = durable_and_evicted(**dict.fromkeys(names, 1))
    listed = world.list(start="section2", prefix="section", limit=2, reverse=True)
    assert list(listed) == ["section4", "section3"]


def test_keys_are_in_the_order_of_code_points() -> None:
    """Scenario 105."""
    keys = ["!", ", ", "Z", "\uff3a", "\U0001d655"]
    for world in (StorageWorld(), durable_and_evicted(**dict.fromkeys(reversed(keys), 0))):
        for key in reversed(keys):
            world.put(key, 1)
        assert list(world.list()) == keys
        assert list(world.list(reverse=True)) == keys[::-1]
        assert list(world.list(start="\uff3a")) == keys[3:]
        assert list(world.list(prefix="\uff3a")) == keys[3:4]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_range_that_ends_before_it_starts_is_empty_also_in_a_transaction(reverse: bool) -> None:
    """Scenario 162."""
    world = durable_and_evicted(**BASE)

    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            await txn.put("rst", 1)
            assert await txn.list(start="qux", end="bar", reverse=reverse) == {}
            assert await txn.list(start="rst", end="rst", reverse=reverse) == {}

    run(scenario())
    assert world.list(start="qux", end="bar", reverse=reverse) == {}
