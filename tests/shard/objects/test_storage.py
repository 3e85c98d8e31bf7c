"""`self.storage`: what each operation returns, refuses and leaves behind; random programs against a dict."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.storage_world import StorageWorld, finish, run
from tidegate.runtime.limits import KEYS_PER_READ_MAX, VALUE_BYTES_MAX
from tidegate.shard.objects.storage import Transaction, TransactionOver


@pytest.fixture
def world() -> StorageWorld:
    return StorageWorld()


def filled(*keys: str) -> StorageWorld:
    """Half of the keys durable and not in memory, half only in memory."""
    world = StorageWorld()
    for key in keys[::2]:
        world.put(key, key)
    world.commit()
    world.activate()
    for key in keys[1::2]:
        world.put(key, key)
    return world


# Reading


def test_get_returns_the_default_for_what_does_not_exist_and_the_value_for_what_does(world: StorageWorld) -> None:
    assert world.get("key") is None
    assert world.get("key", 7) == 7
    world.put("key", None)
    assert world.get("key", 7) is None


def test_a_read_that_was_asked_before_a_write_returns_the_older_value(world: StorageWorld) -> None:
    world.put("key", 1)
    asked, listed, many = world.storage.get("key"), world.storage.list(), world.storage.get_many(["key"])
    world.put("key", 2)
    assert (finish(asked), finish(listed), finish(many)) == (1, {"key": 1}, {"key": 1})


def test_get_with_a_type_converts_and_validates(world: StorageWorld) -> None:
    class Point(msgspec.Struct):
        x: int

    world.put("point", Point(1))
    world.put("n", 1)
    assert world.get("point") == {"x": 1}
    assert world.get("point", type=Point) == Point(1)
    assert world.get("absent", Point(0), type=Point) == Point(0)
    assert repr(world.get("n", type=float)) == "1.0"
    with pytest.raises(msgspec.ValidationError):
        world.storage.get("n", type=str)


def test_get_many_and_list_with_a_type_convert_and_validate_each_value() -> None:
    """Half of them on disk, half only in memory, one in a transaction; one that does not fit is named."""
    world = filled("a", "b", "c", "d")

    async def read() -> tuple[object, object]:
        async with world.storage.transaction() as txn:
            txn.put("e", {"x": 1})
            assert await txn.get_many(["e", "z"], type=Point) == {"e": Point(1)}
            assert await txn.list(start="e", type=Point) == {"e": Point(1)}
            assert await txn.get("e", type=Point) == Point(1)
        return await world.storage.get_many(["d", "a"], type=Text), await world.storage.list(end="e", type=Text)

    assert run(read()) == ({"a": Text.A, "d": Text.D}, {"a": Text.A, "b": Text.B, "c": Text.C, "d": Text.D})
    for ask in (lambda: world.storage.get_many(["a", "e"], type=str), lambda: world.storage.list(type=str)):
        with pytest.raises(msgspec.ValidationError) as raised:
            finish(ask())
        assert raised.value.__notes__ == ["This is the value of 'e'."]


class Point(msgspec.Struct):
    x: int


class Text(enum.Enum):
    A, B, C, D = "a", "b", "c", "d"


def test_get_many_returns_those_that_exist_in_key_order(world: StorageWorld) -> None:
    for key in ("foo", "bar", "é", "Z"):
        world.put(key, key)
    assert list(finish(world.storage.get_many(["é", "foo", "none", "bar", "foo", "Z"])).items()) == [
        ("Z", "Z"), ("bar", "bar"), ("foo", "foo"), ("é", "é"),
    ]  # fmt: skip


def test_get_many_takes_128_keys_and_refuses_more(world: StorageWorld) -> None:
    keys = [str(number) for number in range(KEYS_PER_READ_MAX + 1)]
    assert finish(world.storage.get_many(keys[:-1])) == {}
    with pytest.raises(ValueError, match="128"):
        world.storage.get_many(keys)
    assert finish(world.storage.get_many(keys[:1] * 1_000)) == {}, "each counts once"


@pytest.mark.parametrize("change", [lambda v: v.append(9), lambda v: v[0].update(a=9), lambda v: v.clear()])
def test_values_are_snapshots_at_the_call_and_at_the_read(world: StorageWorld, change: Callable[[Any], Any]) -> None:
    value = [{"a": 1}, 2]
    world.put("key", value)
    change(value)
    assert world.get("key") == [{"a": 1}, 2]
    change(world.get("key"))
    change(world.list()["key"])
    change(finish(world.storage.get_many(["key"]))["key"])
    assert world.get("key") == [{"a": 1}, 2]
    world.commit()
    world.activate()
    assert world.get("key") == [{"a": 1}, 2]


# list

KEYS = ("a", "ab", "abc", "b", "ba", "c", "é", "\U0001d655", "\uff3a", "!", ", ")


def plain_list(data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The contract's words in the order of UTF-8 bytes."""
    keys = sorted(data, key=str.encode)
    low, after, high = (options.get(name) for name in ("start", "start_after", "end"))
    keys = [key for key in keys if low is None or key.encode() >= low.encode()]
    keys = [key for key in keys if after is None or key.encode() > after.encode()]
    keys = [key for key in keys if high is None or key.encode() < high.encode()]
    keys = [key for key in keys if key.startswith(options.get("prefix") or "")]
    if options.get("reverse"):
        keys.reverse()
    return {key: data[key] for key in keys[: options.get("limit")]}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 2, 3, 4, 1_000])
@pytest.mark.parametrize(
    "bounds",
    [
        {}, {"start": "ab"}, {"start_after": "ab"}, {"end": "ba"}, {"start": "ab", "end": "c"}, {"start": "aa", "end": "bb"},
        {"prefix": "a"}, {"prefix": "ab"}, {"prefix": "a", "start": "ab"}, {"prefix": "a", "end": "abc"}, {"prefix": ""},
        {"prefix": "b", "start": "a"}, {"prefix": "a", "end": "b"}, {"prefix": "x"}, {"start": "c", "end": "a"},
        {"start": "a", "end": "a"}, {"prefix": "a", "start_after": "a"}, {"end": ""}, {"start_after": ""}, {"start": ""},
        {"prefix": "\U0010ffff"}, {"prefix": "\ud7ff"}, {"start": "\uff3a"}, {"start_after": "\U0001d655"},
    ],
    ids=str,
)  # fmt: skip
def test_list_returns_the_range_in_byte_order(bounds: dict[str, Any], limit: int | None, reverse: bool) -> None:
    options = {**bounds, "limit": limit, "reverse": reverse}
    expected = list(plain_list({key: key for key in KEYS}, options).items())
    assert list(filled(*KEYS).list(**options).items()) == expected
    once = StorageWorld()
    once.storage.put_many({key: key for key in KEYS})
    assert list(once.list(**options).items()) == expected, "all in memory"
    once.commit()
    once.activate()
    assert list(once.list(**options).items()) == expected, "nothing in memory"


def test_reversed_list_with_a_limit_takes_the_greatest_keys(world: StorageWorld) -> None:
    world.storage.put_many({f"section{n}": n for n in range(5)})
    assert list(world.list(start="section2", prefix="section", limit=2, reverse=True)) == ["section4", "section3"]


@pytest.mark.parametrize(
    "options",
    [
        {"start": "a", "start_after": "a"}, {"limit": 0}, {"limit": -1},
        {"start": "\ud800"}, {"prefix": "\udfff"}, {"end": "\ud800"}, {"start_after": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
def test_list_refuses_contradictions_at_the_call(options: dict[str, Any]) -> None:
    world = filled("a", "b")
    for _ in range(2):
        with pytest.raises(ValueError):
            world.storage.list(**options)
        world.storage.delete_all()  # Also where everything is in memory.
        world.put("a", 1)


@pytest.mark.parametrize("options", [{"start": 1}, {"end": b"a"}, {"prefix": 1}, {"limit": "1"}, {"limit": 1.5}], ids=str)
def test_list_refuses_options_of_a_wrong_type_at_the_call(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        filled("a", "b").storage.list(**options)


def test_a_list_of_many_keys_is_not_bounded_by_the_limit_of_get_many(world: StorageWorld) -> None:
    world.storage.put_many({f"{n:04}": n for n in range(384)})
    assert len(world.list()) == 384


# Writing


@pytest.mark.parametrize("key", ["", "k" * 481, "é" * 241, "\ud800"])
def test_a_bad_key_is_refused_at_the_call_by_every_operation_and_nothing_is_written(world: StorageWorld, key: str) -> None:
    storage = world.storage
    calls: list[Callable[[], object]] = [
        lambda: storage.get(key), lambda: storage.get_many(["a", key]), lambda: storage.put(key, 1),
        lambda: storage.put(key, [1]), lambda: storage.put_many({"a": 1, key: 1}), lambda: storage.delete(key),
        lambda: storage.delete_many(["a", key]),
        lambda: storage.get(key, type=int), lambda: storage.get(key, no_cache=True),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError):
            call()
    assert not world.output_gate.can_cut


@pytest.mark.parametrize("key", [None, 5, b"key", ["a"], ("a",)])
def test_a_key_that_is_no_text_is_refused_by_every_operation(world: StorageWorld, key: Any) -> None:
    storage = world.storage
    for call in (
        lambda: storage.get(key), lambda: storage.get_many([key]), lambda: storage.put(key, 1),
        lambda: storage.delete(key), lambda: storage.delete_many([key]),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            call()
    assert not world.output_gate.can_cut


def test_one_text_is_not_a_list_of_keys(world: StorageWorld) -> None:
    for call in (world.storage.get_many, world.storage.delete_many):
        with pytest.raises(TypeError, match="list of keys"):
            call("abc")


@pytest.mark.parametrize(
    "value", [(1,), {1}, decimal.Decimal(1), datetime.datetime(2026, 1, 1), object()], ids=lambda value: type(value).__name__
)
def test_a_value_that_would_not_come_back_equal_is_refused_at_the_call(world: StorageWorld, value: Any) -> None:
    for call in (lambda: world.storage.put("k", value), lambda: world.storage.put_many({"a": 1, "k": value})):
        with pytest.raises(TypeError):
            call()
    assert not world.output_gate.can_cut
    assert world.list() == {}


@pytest.mark.parametrize(
    "value", ["x" * VALUE_BYTES_MAX, [b"x" * VALUE_BYTES_MAX], 2**64, "\ud800", ["\ud800"]], ids=lambda value: repr(value)[:9]
)
def test_a_value_too_large_or_not_encodable_is_refused_at_the_call(world: StorageWorld, value: Any) -> None:
    world.put("k", 1)
    world.commit()
    for call in (lambda: world.storage.put("k", value), lambda: world.storage.put_many({"a": 1, "k": value})):
        with pytest.raises(ValueError):
            call()
    assert not world.output_gate.can_cut
    assert world.list() == {"k": 1}


def test_a_key_may_be_a_member_of_a_text_enumeration(world: StorageWorld) -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    world.put(Colour.RED, 1)
    assert world.get("red") == 1
    world.commit()
    world.activate()
    assert world.get(Colour.RED) == 1
    assert world.list() == {"red": 1}


def test_delete_tells_whether_the_key_existed_in_program_order(world: StorageWorld) -> None:
    storage = world.storage
    answers = [storage.delete("k"), storage.put("k", 1), storage.delete("k"), storage.delete("k")]
    assert [finish(answer) for answer in answers] == [False, None, True, False]
    world.put("k", 1)
    world.commit()
    world.activate()
    assert finish(world.storage.delete("k")) is True


def test_delete_many_counts_each_key_that_existed_once(world: StorageWorld) -> None:
    filled_world = filled("a", "b", "c")
    assert finish(filled_world.storage.delete_many(["a", "a", "b", "none"])) == 2
    assert filled_world.list() == {"c": "c"}


def test_all_writes_of_one_turn_are_in_one_commit(world: StorageWorld) -> None:
    for number in range(1_000):
        world.put(f"k{number % 10}", number)
        finish(world.storage.delete(f"k{number % 7}"))
    world.commit()
    assert world.done == 1


# Transactions


def test_a_transaction_reads_its_own_writes_and_commits_them_when_it_ends(world: StorageWorld) -> None:
    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            await txn.put("a", 1)
            assert await txn.get("a") == 1
            assert await world.storage.get("a") == 1, "operations on the storage belong to it too"
            assert not world.output_gate.can_cut
        assert world.get("a") == 1

    run(scenario())
    assert world.output_gate.can_cut


def test_a_transaction_that_raises_leaves_no_trace(world: StorageWorld) -> None:
    world.put("a", 1)
    world.commit()

    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            await txn.put("a", 2)
            await txn.delete_all()
            raise KeyError("no")

    with pytest.raises(KeyError):
        run(scenario())
    assert world.list() == {"a": 1}
    assert not world.output_gate.can_cut


def test_a_rollback_undoes_everything_and_the_transaction_takes_no_more_operations(world: StorageWorld) -> None:
    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            await txn.put("a", 1)
            txn.rollback()
            for call in (lambda: txn.put("b", 1), lambda: txn.get("b"), txn.list, txn.rollback, txn.delete_all):
                with pytest.raises(TransactionOver):
                    call()

    run(scenario())
    assert world.list() == {}


def test_a_transaction_used_after_its_end_or_before_its_start_says_so(world: StorageWorld) -> None:
    async def scenario() -> None:
        txn = world.storage.transaction()
        with pytest.raises(TransactionOver, match="async with"):
            txn.put("a", 1)
        async with txn:
            pass
        with pytest.raises(TransactionOver, match="over"):
            txn.put("a", 1)
        with pytest.raises(TransactionOver):
            await txn.__aenter__()

    run(scenario())
    assert world.list() == {}


def test_an_inner_transaction_commits_into_the_outer_one_and_is_lost_with_it(world: StorageWorld) -> None:
    async def scenario() -> None:
        with contextlib.suppress(KeyError):
            async with world.storage.transaction() as outer:
                await outer.put("a", 1)
                async with world.storage.transaction() as inner:
                    await inner.put("b", 1)
                assert await outer.get("b") == 1
                raise KeyError
        assert world.list() == {}
        async with world.storage.transaction() as outer:
            await outer.put("a", 1)
            with contextlib.suppress(KeyError):
                async with world.storage.transaction() as inner:
                    await inner.put("a", 2)
                    raise KeyError
            assert await outer.get("a") == 1
        assert world.list() == {"a": 1}

    run(scenario())


def test_rolling_back_an_outer_transaction_ends_the_inner_ones_too(world: StorageWorld) -> None:
    async def scenario() -> None:
        async with world.storage.transaction() as outer:
            await outer.put("a", 1)
            async with world.storage.transaction() as inner:
                await inner.put("b", 1)
                outer.rollback()
                with pytest.raises(TransactionOver):
                    inner.put("c", 1)
                assert world.list() == {}
        assert world.list() == {}

    run(scenario())
    assert not world.output_gate.can_cut


@pytest.mark.parametrize("bad", [("", 1), ("k", (1,)), ("k", "x" * VALUE_BYTES_MAX)])
def test_a_refused_write_in_a_transaction_leaves_the_others_as_they_are(world: StorageWorld, bad: tuple[str, Any]) -> None:
    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            await txn.put("a", 1)
            with pytest.raises((TypeError, ValueError)):
                txn.put(*bad)
            with pytest.raises((TypeError, ValueError)):
                txn.put_many({"b": 1, bad[0]: bad[1]})

    run(scenario())
    assert world.list() == {"a": 1}


# Random programs

KEY = st.sampled_from(["a", "aa", "b", "é", "\U0001d655", "\uff3a"])
VALUE = st.sampled_from([0, 1, True, 1.0, 0.0, -0.0, math.nan, None, "", "x" * 50, b"", [], [1], [True], {"k": [1]}, 2**63])


def shown(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, repr(data[key])) for key in data]


class StorageProgram(RuleBasedStateMachine):
    """Storage against a dict per transaction, one for the commit in flight, one for what is durable."""

    @initialize()
    def begin(self) -> None:
        self.world = StorageWorld()
        self.layers: list[dict[str, Any]] = [{}]
        self.open: list[Transaction] = []
        self.in_flight: dict[str, Any] | None = None
        self.durable: dict[str, Any] = {}

    @property
    def now(self) -> dict[str, Any]:
        return self.layers[-1]

    def restart(self) -> None:
        self.layers, self.open, self.in_flight = [dict(self.durable)], [], None

    @rule(key=KEY, value=VALUE, unconfirmed=st.booleans(), no_cache=st.booleans())
    def put(self, key: str, value: Any, unconfirmed: bool, no_cache: bool) -> None:
        self.world.put(key, value, allow_unconfirmed=unconfirmed, no_cache=no_cache)
        changes = repr(self.now.get(key, ...)) != repr(value)
        self.now[key] = value
        assert unconfirmed or self.open or not changes or not self.is_dirty or self.world.held

    @property
    def is_dirty(self) -> bool:
        return bool(self.world.cache.dirty) or self.world.cache.cleared

    @rule(pairs=st.dictionaries(KEY, VALUE, max_size=3), no_cache=st.booleans())
    def put_many(self, pairs: dict[str, Any], no_cache: bool) -> None:
        finish(self.world.storage.put_many(pairs, no_cache=no_cache))
        self.now.update(pairs)

    @rule(key=KEY, value=st.sampled_from([(1,), 2**64, {1}, "\ud800"]))
    def put_what_is_refused(self, key: str, value: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            self.world.storage.put_many({key: 1, "z": value})

    @rule(key=KEY, no_cache=st.booleans())
    def delete(self, key: str, no_cache: bool) -> None:
        assert finish(self.world.storage.delete(key, no_cache=no_cache)) is (self.now.pop(key, self) is not self)

    @rule(keys=st.lists(KEY, max_size=4), no_cache=st.booleans())
    def delete_many(self, keys: list[str], no_cache: bool) -> None:
        existed = set(keys) & set(self.now)
        assert finish(self.world.storage.delete_many(keys, no_cache=no_cache)) == len(existed)
        for key in existed:
            del self.now[key]

    @rule()
    def delete_all(self) -> None:
        finish(self.world.storage.delete_all())
        self.now.clear()

    @rule(key=KEY, no_cache=st.booleans())
    def get(self, key: str, no_cache: bool) -> None:
        assert repr(self.world.get(key, ..., no_cache=no_cache)) == repr(self.now.get(key, ...))

    @rule(keys=st.lists(KEY, max_size=4))
    def get_many(self, keys: list[str]) -> None:
        expected = {key: self.now[key] for key in sorted(set(keys)) if key in self.now}
        assert shown(finish(self.world.storage.get_many(keys))) == shown(expected)

    @rule(
        start=KEY | st.none(), after=KEY | st.none(), end=KEY | st.none(), prefix=st.sampled_from([None, "", "a", "é", "x"]),
        reverse=st.booleans(), limit=st.none() | st.integers(1, 4),
    )  # fmt: skip
    def list(self, **options: Any) -> None:
        options["start_after"] = options.pop("after") if options["start"] is None else options.pop("after") and None
        assert shown(self.world.list(**options)) == shown(plain_list(self.now, options)), options

    @precondition(lambda self: len(self.open) < 3)
    @rule()
    def open_transaction(self) -> None:
        self.open.append(finish(self.world.storage.transaction().__aenter__()))
        self.layers.append(dict(self.now))

    @precondition(lambda self: self.open)
    @rule()
    def commit_transaction(self) -> None:
        finish(self.open.pop().__aexit__(None, None, None))
        self.layers[-2:] = [self.layers[-1]]

    @precondition(lambda self: self.open)
    @rule(explicit=st.booleans())
    def roll_back_transaction(self, explicit: bool) -> None:
        txn = self.open.pop()
        if explicit:
            txn.rollback()
        finish(txn.__aexit__(None if explicit else KeyError, None if explicit else KeyError(), None))
        self.layers.pop()

    @rule()
    def evict(self) -> None:
        self.world.cache.evict()

    @precondition(lambda self: self.world.output_gate.can_cut)
    @rule()
    def cut(self) -> None:
        self.world.cut()
        self.in_flight = dict(self.layers[0])

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def committed(self) -> None:
        assert self.in_flight is not None
        self.world.committed()
        self.durable, self.in_flight = self.in_flight, None

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def commit_fails(self) -> None:
        self.world.failed()
        self.restart()

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def reset(self) -> None:
        self.world.reset()
        self.restart()

    @rule()
    def crash(self) -> None:
        self.world.crash()
        self.restart()

    @invariant()
    def what_is_durable_was_once_the_whole_truth(self) -> None:
        durable = {key: msgspec.msgpack.decode(raw) for key, raw in self.world.durable().items()}
        assert sorted(shown(durable)) == sorted(shown(self.durable))
        self.world.cache.check_invariants()
        assert shown(self.world.list()) == shown(plain_list(self.now, {}))


StorageProgram.TestCase.settings = settings(max_examples=200, stateful_step_count=40)


class TestRandomStorageProgramsDoWhatADictWould(StorageProgram.TestCase):  # type: ignore[misc, valid-type]  # made by hypothesis
    pass
