"""The write-back cache: in every small world what it answers is what a dict would, and what is durable is what was written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.support.storage_world import StorageWorld, finish
from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.limits import ABSENT_KEYS_MAX
from tidegate.shard.core.cache import ENTRY_BYTES, SORTED_MAX
from tidegate.shard.core.values import ABSENT
from tidegate.shard.store.interface import HEADER

Data = tuple[tuple[str, int], ...]


class Model(NamedTuple):
    """What a reader sees, what the commit in flight makes durable, what is durable."""

    now: Data = ()
    in_flight: Data | None = None
    durable: Data = ()
    dirty: bool = False


def changed(data: Data, key: str, value: int | None) -> Data:
    rest = {k: v for k, v in data if k != key}
    return tuple(sorted((rest if value is None else {**rest, key: value}).items()))


WRITES = [("put", "a", 1), ("pass", "a", 2), ("put", "b", 1), ("delete", "a", None), ("clear", "", None)]


def steps(model: Model) -> Iterator[tuple[tuple[Any, ...], Model]]:
    for op, key, value in WRITES:
        now = () if op == "clear" else changed(model.now, key, value)
        yield (op, key, value), model._replace(now=now, dirty=model.dirty or now != model.now)
    if model.in_flight is None:
        yield ("evict",), model
        yield ("commit",), model._replace(durable=model.now, dirty=False)
        yield ("reset",), model._replace(now=model.durable, dirty=False)
        if model.dirty:
            yield ("cut",), model._replace(in_flight=model.now, dirty=False)
    else:
        yield ("committed",), model._replace(durable=model.in_flight, in_flight=None)
        yield ("failed",), Model(model.durable, None, model.durable)
        yield ("crash",), Model(model.durable, None, model.durable)


def perform(world: StorageWorld, step: tuple[Any, ...]) -> None:
    op, *rest = step
    if op == "put":
        world.put(*rest)
    elif op == "pass":
        world.put(*rest, no_cache=True)
    elif op == "delete":
        finish(world.storage.delete(rest[0], no_cache=rest[0] in world.cache.values))
    elif op == "clear":
        finish(world.storage.delete_all())
    elif op == "evict":
        world.cache.evict()
    else:
        getattr(world, op)()


def explore(story: list[tuple[Any, ...]], model: Model, left: int) -> int:
    count = 1
    for step, after in steps(model):
        story.append(step)
        if left > 1:
            count += explore(story, after, left - 1)
        else:
            world = StorageWorld()
            for earlier in story:
                if earlier == ("cut",) and not world.output_gate.can_cut:
                    break
                perform(world, earlier)
            else:
                world.cache.check_invariants()
                expected = dict(after.now)
                assert world.list() == expected, story
                assert {key: world.get(key) for key in ("a", "b")} == {key: expected.get(key) for key in ("a", "b")}, story
                durable = {key: msgspec.msgpack.decode(raw) for key, raw in world.durable().items()}
                assert durable == dict(after.durable), story
                count += 1
        story.pop()
    return count


@pytest.mark.parametrize(("absent_keys_max", "length"), [(ABSENT_KEYS_MAX, 5), (0, 4)])
def test_every_sequence_of_cache_operations_reads_and_commits_what_a_dict_would(
    absent_keys_max: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.shard.core.cache.ABSENT_KEYS_MAX", absent_keys_max)
    assert explore([], Model(), length) > 6 * 8 ** (length - 1)


@pytest.mark.parametrize("is_new", [True, False])
def test_keys_that_come_and_go_leave_nothing_in_memory(is_new: bool) -> None:
    """What queues do. Each key stayed as one that is known to be absent, until the caches had used up their budget."""
    world = StorageWorld()
    world.put("head", 0)
    world.commit()
    if not is_new:
        world.activate()
    for number in range(3_000):
        world.put(f"job {number}", number)
        finish(world.storage.delete(f"job {number}"))
        if number % 7 == 0:
            world.commit()
        assert len(world.cache.values) < 2 * ABSENT_KEYS_MAX, number
        assert world.budget.used_bytes == world.cache.bytes == accounted(world)
    world.cache.check_invariants()
    assert world.get("head") == 0
    assert world.list() == {"head": 0}


def test_many_keys_deleted_in_one_turn_stay_until_that_is_durable() -> None:
    world = StorageWorld()
    for number in range(4 * ABSENT_KEYS_MAX):
        world.put(f"job {number}", number)
    world.commit()
    for number in range(4 * ABSENT_KEYS_MAX):
        finish(world.storage.delete(f"job {number}"))
        world.cache.check_invariants()
    assert world.list() == {}
    world.commit()
    assert world.durable() == {}


def test_the_first_read_asks_the_store_and_the_second_does_not() -> None:
    world = StorageWorld()
    world.put("foo", "bar")
    world.commit()
    world.activate()
    asked = []
    ask = world.store.get
    world.store.get = lambda *args: asked.append(args) or ask(*args)
    assert [world.get("foo"), world.get("foo")] == ["bar", "bar"]
    assert [world.get("none"), world.get("none")] == [None, None]
    assert [key for _, key in asked] == ["foo", "none"], "known absence is cached too"


def test_an_object_that_was_never_written_is_not_looked_up() -> None:
    world = StorageWorld()
    world.store.get = world.store.scan = None  # type: ignore[assignment]  # must not be asked
    assert world.get("foo") is None
    assert world.list() == {}
    assert finish(world.storage.delete("foo")) is False


def test_a_read_that_bypasses_the_cache_leaves_no_trace_in_it() -> None:
    world = StorageWorld()
    world.put("foo", "bar")
    world.commit()
    world.activate()
    assert world.get("foo", no_cache=True) == "bar"
    assert world.cache.values == {}
    world.put("foo", "new")
    assert world.get("foo", no_cache=True) == "new"


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "text", b"bytes", [1, {"a": 2}], math.nan, -0.0, "x" * 1_000], ids=repr)
@pytest.mark.parametrize("evicted", [False, True])
def test_writing_the_value_already_stored_causes_no_commit(value: Any, evicted: bool) -> None:
    world = StorageWorld()
    world.put("key", value)
    world.commit()
    if evicted:
        world.cache.evict()
    world.put("key", value)
    finish(world.storage.put_many({"key": value}))
    assert not world.output_gate.can_cut
    assert not world.held


@pytest.mark.parametrize(
    ("old", "new"),
    [(1, True), (True, 1), (1, 1.0), (0, False), (0.0, -0.0), ("1", b"1"), (None, False), ([1], [1.0]), (b"", ""), ([1], [True])],
)
def test_a_value_that_is_merely_equal_in_python_is_written(old: Any, new: Any) -> None:
    world = StorageWorld()
    world.put("key", old)
    world.commit()
    world.put("key", new)
    assert repr(world.get("key")) == repr(new)
    world.commit()
    world.activate()
    assert repr(world.get("key")) == repr(new)


def test_deleting_what_does_not_exist_causes_no_commit() -> None:
    world = StorageWorld()
    world.put("key", 1)
    world.commit()
    assert finish(world.storage.delete("other")) is False
    assert finish(world.storage.delete_many(["x", "y"])) == 0
    assert not world.output_gate.can_cut


def test_deleting_everything_of_an_object_without_anything_causes_no_commit() -> None:
    world = StorageWorld()
    finish(world.storage.delete_all())
    assert not world.output_gate.can_cut


@pytest.mark.parametrize("settled", [False, True])
def test_a_confirmed_write_of_what_an_unconfirmed_write_has_put_there_is_confirmed(settled: bool) -> None:
    world = StorageWorld()
    world.put("key", 1, allow_unconfirmed=True)
    if settled:
        world.cut()
    assert not world.held
    world.put("key", 1)
    assert world.held, "a confirmed write survives, whoever made it first"


def test_a_confirmed_delete_of_what_an_unconfirmed_delete_has_removed_is_confirmed() -> None:
    world = StorageWorld()
    world.put("key", 1)
    world.commit()
    finish(world.storage.delete("key", allow_unconfirmed=True))
    assert not world.held
    finish(world.storage.delete("key"))
    assert world.held


def test_a_confirmed_delete_all_after_an_unconfirmed_one_is_confirmed() -> None:
    world = StorageWorld()
    world.put("key", 1)
    world.commit()
    finish(world.storage.delete_all(allow_unconfirmed=True))
    assert not world.held
    finish(world.storage.delete_all())
    assert world.held


def test_an_unconfirmed_write_holds_nothing_back_and_a_confirmed_one_does() -> None:
    world = StorageWorld()
    world.put("a", 1, allow_unconfirmed=True)
    finish(world.storage.delete("a", allow_unconfirmed=True))
    assert not world.held
    assert world.output_gate.can_cut
    world.put("b", 1)
    assert world.held
    world.commit()
    assert not world.held


def test_intermediate_values_of_a_key_are_never_committed() -> None:
    world = StorageWorld()
    for number in range(100):
        world.put("n", number)
    (writes,) = world.cut()
    assert {key: raw for key, raw in writes.writes.items() if key != HEADER} == {"n": msgspec.msgpack.encode(99)}


def test_what_is_written_during_a_commit_goes_into_the_next_one() -> None:
    world = StorageWorld()
    world.put("foo", 1)
    world.put("bar", 1)
    (first,) = world.cut()
    world.put("bar", 2)
    assert first.writes["bar"] == b"\x01"
    world.committed()
    assert world.durable()["bar"] == b"\x01"
    (second,) = world.cut()
    assert second.writes == {"bar": b"\x02"}


def test_what_is_not_durable_is_not_evicted() -> None:
    world = StorageWorld()
    world.put("a", 1)
    assert world.cache.evict() == 0
    world.cut()
    assert world.cache.evict() == 0
    assert world.get("a") == 1
    world.committed()
    assert world.cache.evict() > 0
    assert world.cache.values == {}
    assert world.get("a") == 1


def accounted(world: StorageWorld) -> int:
    """What the entries cost, computed anew."""
    total = 0
    for value in world.cache.values.values():
        raw = getattr(value, "raw", None)
        total += ENTRY_BYTES + (len(raw) if raw is not None else len(value) if isinstance(value, str | bytes) else 0)
    return total


def test_the_memory_of_a_cache_is_accounted_for_exactly_whatever_was_done() -> None:
    world = StorageWorld()
    values: list[Any] = ["x" * 1_000, [1] * 500, 7, b"y" * 100, None]
    for turn in range(300):
        key = f"k{turn * 7 % 5}"
        world.put(key, values[turn * 11 % 5], no_cache=turn % 6 < 2)
        if turn % 4 == 1:
            world.get("absent")
            finish(world.storage.delete(f"k{turn % 5}", no_cache=turn % 8 == 1))
        if turn % 7 == 0:
            world.get(f"k{turn % 5}")
        if turn % 3 == 0:
            world.commit()
        if turn % 9 == 0:
            world.cache.evict()
        assert world.cache.bytes == accounted(world), turn
        assert world.budget.used_bytes == world.cache.bytes, turn
        world.cache.check_invariants()


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_large_object_lists_nothing_that_was_deleted_with_everything(in_flight: bool) -> None:
    world = StorageWorld()
    world.put("old", 1)
    world.commit()
    finish(world.storage.delete_all())
    expected = {f"k{number:05}": number for number in range(SORTED_MAX + 1)}
    finish(world.storage.put_many(expected))
    if in_flight:
        world.cut()
    assert world.list() == expected
    world.commit()
    assert world.list() == expected
    assert world.list(start="k00001", limit=2, reverse=True) == dict(sorted(expected.items())[:-3:-1])


OPERATIONS = {
    "get": lambda s: s.get("key"),
    "get another": lambda s: s.get("other"),
    "get_many": lambda s: s.get_many(["key"]),
    "list": lambda s: s.list(),
    "put": lambda s: s.put("key", 2),
    "put_many": lambda s: s.put_many({"key": 2}),
    "delete": lambda s: s.delete("key"),
    "delete_all": lambda s: s.delete_all(),
    "delete_alarm": lambda s: s.delete_alarm(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("known", [False, True])
def test_storage_of_an_object_that_was_reset_refuses_and_changes_nothing(operation: str, known: bool) -> None:
    world = StorageWorld()
    world.put("key", 1)
    world.commit()
    if known:
        finish(world.storage.delete_all())
    else:
        world.activate()
    old, old_cache = world.storage, world.cache
    world.reset()
    for _ in range(2):
        with pytest.raises(ObjectReset):
            OPERATIONS[operation](old)
    assert old_cache not in world.output_gate.dirty
    assert world.output_gate.open_bytes == 0
    assert world.get("key") == 1


def test_deleting_everything_also_forgets_what_was_written_just_before() -> None:
    world = StorageWorld()
    world.put("old", 1)
    world.commit()
    world.put("x", 1)
    finish(world.storage.delete_all())
    world.put("y", 1)
    assert world.list() == {"y": 1}
    assert world.cache.read("old") is ABSENT
    (writes,) = world.cut()
    assert writes.cleared
    assert "x" not in writes.writes
    world.committed()
    assert list(world.durable()) == ["y"]
