"""Dataclasses, Structs and models: what `get` returns with their type equals what was `put`, or `put` refuses."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import math
import typing
import uuid
import zoneinfo
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.storage_world import StorageWorld
from tidegate.runtime.limits import VALUE_DEPTH_MAX
from tidegate.shard.core.codec import decode, decode_as, encode_value

NAIVE = datetime.datetime(2026, 1, 2, 3, 4)
AWARE = NAIVE.replace(tzinfo=datetime.UTC)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Pair(NamedTuple):
    left: int
    right: Any = None


class Entry(TypedDict):
    n: int


@dataclasses.dataclass
class Base:
    x: int = 0


@dataclasses.dataclass
class Derived(Base):
    y: int = 0


class BaseStruct(msgspec.Struct):
    x: int = 0


class DerivedStruct(BaseStruct):
    y: int = 0


class Tagged(msgspec.Struct, tag=True):
    x: int = 0


class TaggedMore(Tagged, tag=True):
    y: int = 0


@dataclasses.dataclass
class Loose:
    a: Any = None
    b: object = 0


class LooseStruct(msgspec.Struct):
    a: Any = None


@attrs.define
class LooseAttrs:
    a: Any = None


def same(a: Any, b: Any) -> bool:
    """As an independent witness: equal, and of equal types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(map(type, a)) == list(map(type, b)) and list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, float):
        return a.hex() == b.hex()
    if isinstance(a, decimal.Decimal):
        return str(a) == str(b)
    if isinstance(a, msgspec.Struct):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if dataclasses.is_dataclass(a) or isinstance(a, Loose):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    return bool(a == b)


CHANGED = [
    (1, 2), {1}, frozenset({1}), decimal.Decimal("1.0"), uuid.UUID(int=1), NAIVE, NAIVE.date(), NAIVE.time(),
    datetime.timedelta(1), Colour.RED, Level.LOW, Text("x"), bytearray(b"x"), memoryview(b"x"), Pair(1), Base(1), BaseStruct(1),
    collections.OrderedDict(a=1), 1j, object(), Base, msgspec.UNSET, msgspec.Raw(b"\x01"),
]  # fmt: skip


@pytest.mark.parametrize("value", CHANGED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": [v]}], ids=["bare", "list", "dict"])
@pytest.mark.parametrize("record", [Loose, LooseStruct, LooseAttrs])
def test_what_changes_its_type_in_a_field_typed_any_is_refused_and_its_place_is_named(value: Any, wrap: Any, record: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^value\[1\]\.a"):
        encode_value([record(), record(wrap(value))])


@pytest.mark.parametrize("value", [None, True, 2**63, -0.0, math.nan, "x", b"x", AWARE, [1, [b""]], {"a": {1: None}}])
def test_what_stays_as_it_is_may_be_in_a_field_typed_any(value: Any) -> None:
    assert same(decode_as(encode_value(Loose(value)), Loose), Loose(value))


@dataclasses.dataclass
class Item:
    price: Any


@dataclasses.dataclass
class Order:
    items: list[Item]


def test_a_place_deep_in_a_value_is_named_whole() -> None:
    order = Order([Item(1), Item(2), Item(3), Item(decimal.Decimal("1.5"))])
    with pytest.raises(TypeError, match=r"^value\.items\[3\]\.price: a Decimal would come back as a str"):
        encode_value(order)
    with pytest.raises(TypeError, match=r"^value\['all'\]\[0\]\.items\[3\]\.price: a Decimal"):
        encode_value({"all": [order]})
    with pytest.raises(TypeError, match=r"^second\.items\[3\]\.price: a Decimal"):
        encode_value(order, "second")
    order.items[3] = Item(2**70)
    with pytest.raises(ValueError, match=r"^value\.items\[3\]\.price: an int cannot be stored"):
        encode_value(order)
    order.items[3] = Item(object())
    with pytest.raises(TypeError, match=r"^value\.items\[3\]\.price: an object cannot be stored"):
        encode_value(order)


@pytest.mark.parametrize(
    ("record", "value"),
    [
        (Base, "x"), (Base, 1.5), (Base, True), (Base, Level.LOW), (Base, None), (BaseStruct, "x"), (BaseStruct, True),
        (Tagged, "x"), (BaseStruct, Level.LOW),
    ],
)  # fmt: skip
def test_a_field_that_holds_another_type_than_it_says_is_refused(record: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=r"^value\.x: "):
        encode_value(record(value))
    with pytest.raises(TypeError, match=r"^value\[1\]\.x: "):
        encode_value([record(), record(value)])


@pytest.mark.parametrize(
    ("base", "derived"), [(Base, Derived(1, 2)), (BaseStruct, DerivedStruct(1, 2)), (Tagged, TaggedMore(1, 2))]
)
def test_an_instance_of_a_subclass_where_its_base_is_declared_is_refused(base: Any, derived: Any) -> None:
    holder = msgspec.defstruct("Holder", [("all", list[base], []), ("one", base | None, None)])
    for value in (holder([base(), derived]), holder(one=derived)):
        with pytest.raises(TypeError):
            encode_value(value)
    assert same(decode_as(encode_value(derived), type(derived)), derived)


def test_classes_that_cannot_be_read_are_refused_when_they_are_put() -> None:
    @dataclasses.dataclass
    class WithInitVar:
        x: int
        seed: dataclasses.InitVar[int] = 0

    @dataclasses.dataclass
    class Refusing:
        x: int

        def __post_init__(self) -> None:
            if self.x > 3:
                raise LookupError("too much")

    class RefusingStruct(msgspec.Struct):
        x: int

        def __post_init__(self) -> None:
            if self.x > 3:
                raise ValueError("too much")

    class Changing(msgspec.Struct):
        x: int

        def __post_init__(self) -> None:
            self.x = min(self.x, 3)

    @dataclasses.dataclass
    class Unresolved:
        x: Unknown  # type: ignore[name-defined]  # noqa: F821

    class Mixed(enum.Enum):
        A = 1
        B = "b"

    @dataclasses.dataclass
    class WithMixed:
        e: Mixed

    @dataclasses.dataclass
    class Unknown2:
        x: StorageWorld

    for bad in (WithInitVar(1), Unresolved(1), WithMixed(Mixed.A), Unknown2(typing.cast("Any", 1))):
        with pytest.raises((TypeError, ValueError), match="value"):
            encode_value({"a": [bad]})
    for kind in (Refusing, RefusingStruct, Changing):
        record = kind(2)
        encode_value(record)
        record.x = 5
        with pytest.raises((TypeError, ValueError), match=r"too much|another value"):
            encode_value(record)


def test_attributes_that_are_no_fields_are_refused_where_they_would_be_lost() -> None:
    class Plain(Derived):
        def __init__(self) -> None:
            super().__init__(1, 2)
            self.z = 3

    @dataclasses.dataclass
    class Cached:
        x: int

        def __post_init__(self) -> None:
            self.double = 2 * self.x

        @functools.cached_property
        def triple(self) -> int:
            return 3 * self.x

    with pytest.raises(TypeError, match=r"value\.z: it is no field of Plain"):
        encode_value(Plain())
    record = Cached(1)
    assert record.triple == 3
    assert decode_as(encode_value(record), Cached) == record


T = TypeVar("T")


@dataclasses.dataclass
class Box(Generic[T]):
    held: T


class BoxStruct(msgspec.Struct, Generic[T]):
    held: T


@dataclasses.dataclass(slots=True, frozen=True, kw_only=True, eq=False)
class Odd:
    _private: int
    computed: int = dataclasses.field(init=False, default=3)
    children: list[Odd] = dataclasses.field(default_factory=list)


class Renamed(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True, array_like=False):
    first_name: str = "x"
    number: float = 0.0
    some_list: list[int] = []


class Array(msgspec.Struct, array_like=True, tag="arr"):
    x: int
    when: datetime.datetime | None = None


class All(msgspec.Struct):
    when: datetime.datetime
    day: datetime.date
    hour: datetime.time
    span: datetime.timedelta
    price: decimal.Decimal
    number: uuid.UUID
    colour: Colour
    level: Level
    pair: Pair
    entry: Entry
    several: set[int]
    fixed: tuple[int, str]
    by_key: dict[int, Tagged | TaggedMore]
    unset: int | msgspec.UnsetType = msgspec.UNSET
    raw: bytearray = msgspec.field(default_factory=bytearray)


EVERYTHING = All(
    NAIVE, NAIVE.date(), NAIVE.time(), datetime.timedelta(days=-3, microseconds=7), decimal.Decimal("1.50"), uuid.UUID(int=5),
    Colour.RED, Level.LOW, Pair(1, "x"), {"n": 1}, {3, 1}, (1, "x"), {7: TaggedMore(1, 2), 3: Tagged()},
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (EVERYTHING, All),
        ([EVERYTHING, EVERYTHING], list[All]),
        (Odd(_private=1, children=[Odd(_private=2)]), Odd),
        (Renamed("y", -0.0, [1]), Renamed),
        ([Renamed(), Renamed(number=1.5)], list[Renamed]),
        ([Array(1), Array(2, AWARE)], list[Array]),
        ([Tagged(1), TaggedMore(1, 2), None], list[Tagged | TaggedMore | None]),
        ({"a": [Base(1)], "b": []}, dict[str, list[Base]]),
        ({1: Base(1), 2: Base(2)}, dict[int, Base]),
        ({"a": Base(1), "b": Loose()}, TypedDict("Two", {"a": Base, "b": Loose})),  # type: ignore[operator]  # made in place
        (Box[Base](Base(1)), Box[Base]),
        (Box(Base(1)), Box[Base]),
        (BoxStruct(Base(1)), BoxStruct[Base]),
        (Box(Box(1)), Box[Box[int]]),
        (LooseAttrs([1]), LooseAttrs),
    ],
)  # fmt: skip
def test_what_is_taken_comes_back_with_its_type(value: Any, type: Any) -> None:
    read = decode_as(encode_value(value), type)
    if isinstance(value, Odd):
        assert (read._private, read.computed, read.children[0]._private) == (1, 3, 2)
    else:
        assert same(read, value), read


@pytest.mark.parametrize(
    "value", [[Base(), Loose()], [Base(), {"x": 1}], [[Base()], [Loose()]], {1: Base(), 2: {}}, [{"a": Base()}, {"a": Loose()}]]
)
def test_a_list_that_no_type_could_read_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no type="):
        encode_value(value)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_fields_count_for_the_depth_of_a_value_whatever_their_type() -> None:
    decode(encode_value(Loose(nested(VALUE_DEPTH_MAX - 2))))
    for levels in (VALUE_DEPTH_MAX, 500, 900, 5_000):
        for record in (Loose(nested(levels)), LooseStruct(nested(levels)), {"a": Loose({"b": nested(levels)})}):
            with pytest.raises(ValueError, match="nested too deeply"):
                encode_value(record)
    chain: Any = None
    for _ in range(VALUE_DEPTH_MAX + 1):
        chain = LooseStruct(chain)
    with pytest.raises((ValueError, TypeError)):
        encode_value(chain)
    loop = LooseStruct()
    loop.a = loop
    with pytest.raises(ValueError, match="contains itself"):
        encode_value(loop)


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], Loose, LooseStruct], ids=["bare", "list", "dataclass", "Struct"])
def test_a_time_in_an_hour_that_its_zone_repeats_equals_no_utc_and_is_refused(wrap: Any) -> None:
    summer = datetime.datetime(2026, 7, 1, 12, tzinfo=BERLIN)
    assert decode(encode_value([summer])) == [summer]
    twice = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)
    assert twice != twice.astimezone(datetime.UTC), "that is Python's rule"
    with pytest.raises(ValueError):
        encode_value(wrap(twice))


def test_a_naive_time_with_a_fold_is_refused_because_the_text_has_no_place_for_it() -> None:
    @dataclasses.dataclass
    class Event:
        at: datetime.datetime

    assert decode_as(encode_value(Event(NAIVE)), Event) == Event(NAIVE)
    with pytest.raises(ValueError):
        encode_value(Event(NAIVE.replace(fold=1)))


# Random classes and values

DECLARED: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(),
    str: st.text(max_size=4),
    bytes: st.binary(max_size=4),
    bool: st.booleans(),
    decimal.Decimal: st.decimals(allow_nan=False),
    uuid.UUID: st.uuids(),
    datetime.datetime: st.datetimes(
        datetime.datetime(2, 1, 1), datetime.datetime(9_998, 1, 1), timezones=st.one_of(st.none(), st.just(datetime.UTC))
    ),
    datetime.date: st.dates(),
    datetime.timedelta: st.timedeltas(datetime.timedelta(-10_000), datetime.timedelta(10_000)),
    datetime.time: st.times(),
    Colour: st.just(Colour.RED),
    Level: st.just(Level.LOW),
    Base: st.builds(Base, st.integers(0, 9)) | st.builds(Derived, st.integers(0, 9)),
    BaseStruct: st.builds(BaseStruct, st.integers(0, 9)),
    Tagged | TaggedMore: st.builds(Tagged) | st.builds(TaggedMore),
    Pair: st.builds(Pair, st.integers(0, 9), st.none()),
    tuple[int, str]: st.tuples(st.integers(0, 9), st.text(max_size=2)),
    set[int]: st.sets(st.integers(0, 9)),
    list[Base]: st.lists(st.builds(Base, st.integers(0, 9)), max_size=3),
    dict[str, float]: st.dictionaries(st.text(max_size=2), st.floats(), max_size=3),
    int | None: st.none() | st.integers(0, 9),
}
ANYTHING = st.recursive(
    st.one_of(st.none(), *DECLARED.values(), st.sampled_from([Text("x"), bytearray(b"x")])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 3), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=6,
)


@st.composite
def records(draw: Any) -> Any:
    types = draw(st.lists(st.sampled_from([*DECLARED, Any]), min_size=1, max_size=4))
    values = [draw(ANYTHING) if kind is Any or draw(st.integers(0, 9)) == 0 else draw(DECLARED[kind]) for kind in types]
    fields = [(f"f{index}", kind) for index, kind in enumerate(types)]
    if draw(st.booleans()):
        options = {
            name: draw(st.booleans()) for name in ("frozen", "eq", "array_like", "forbid_unknown_fields", "tag", "kw_only")
        }
        options["eq"] |= options["frozen"]
        made: Any = msgspec.defstruct("Made", fields, rename=draw(st.sampled_from([None, "camel"])), **options)
    else:
        options = {name: draw(st.booleans()) for name in ("frozen", "slots", "kw_only", "eq")}
        made = dataclasses.make_dataclass("Made", fields, **options)
    record = made(**{name: value for (name, _), value in zip(fields, values, strict=True)})
    return draw(st.sampled_from([(made, record), (list[made], [record]), (dict[str, made], {"k": record})]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(records(), st.sampled_from(["put", "put_many", "transaction"]))
def test_a_record_comes_back_equal_with_the_same_types_throughout_or_put_refuses(made: Any, way: str) -> None:
    kind, value = made
    world = StorageWorld()

    async def in_transaction() -> None:
        async with world.storage.transaction() as txn:
            txn.put("k", value)

    try:
        if way == "put":
            world.put("k", value)
        elif way == "put_many":
            world.storage.put_many({"k": value})
        else:
            coro = in_transaction()
            try:
                coro.send(None)
            except StopIteration:
                pass
    except (TypeError, ValueError):
        assert world.get("k") is None
        return
    assert same(world.get("k", type=kind), value)
    world.commit()
    world.crash()
    assert same(world.get("k", type=kind), value), "after a restart"
