"""Arguments on their way from the wire into a method: whatever they are, the answer is arguments or BadArguments."""

import datetime
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tidegate import DurableObject
from tidegate.runtime.errors import BadArguments
from tidegate.shard.objects.methods import FIRST_KEYS_MAX, ObjectClass


class Lookup(msgspec.Struct):
    key: str

    def __post_init__(self) -> None:
        dict[str, int]()[self.key]


@dataclass
class Picky:
    key: str

    def __post_init__(self) -> None:
        raise RuntimeError("never")


class Strange:
    pass


class Taker(DurableObject):
    async def take(self, anything: object) -> None: ...
    async def lookup(self, lookup: Lookup) -> None: ...
    async def picky(self, picky: Picky) -> None: ...
    async def strange(self, strange: Strange) -> None: ...


METHODS = ObjectClass(Taker).methods
CODECS = [(msgspec.msgpack.encode, False), (msgspec.json.encode, True)]


def test_what_objects_are_asked_for_first_is_remembered_the_newest_and_no_more_than_a_few() -> None:
    taker = ObjectClass(Taker)
    remembered = [list(taker.first_keys)]
    for keys in ("a", "b", "a", "cde"):
        taker.asked_first(list(keys))
        remembered.append(list(taker.first_keys))
    assert remembered == [[], ["a"], ["b", "a"], ["a", "b"], ["c", "d"]]
    assert len(taker.first_keys) == FIRST_KEYS_MAX


@pytest.mark.parametrize(("encode", "json"), CODECS, ids=["MessagePack", "JSON"])
@pytest.mark.parametrize("value", [None, 1, "x", [1, [2]], {"a": {"b": 1}}])
def test_an_argument_annotated_as_object_may_be_anything(encode: Any, json: bool, value: Any) -> None:
    assert METHODS["take"].arguments(msgspec.Raw(encode([value])), json=json) == ((value,), {})
    assert METHODS["take"].arguments(msgspec.Raw(encode({"anything": value})), json=json) == ((), {"anything": value})


@pytest.mark.parametrize(("encode", "json"), CODECS, ids=["MessagePack", "JSON"])
@pytest.mark.parametrize("method", ["lookup", "picky", "strange"])
def test_whatever_the_conversion_of_an_argument_raises_is_bad_arguments(encode: Any, json: bool, method: str) -> None:
    for given in ([{"key": "x"}], {method: {"key": "x"}}):
        with pytest.raises(BadArguments) as caught:
            METHODS[method].arguments(msgspec.Raw(encode(given)), json=json)
        assert caught.value.details == {"argument": method}
        assert str(caught.value).startswith(f"{method}: argument '{method}': ")


# What can be called


@dataclass
class Point:
    x: int
    y: int = 0


class Base(DurableObject):
    async def inherited(self) -> str:
        return "inherited"


class Mixin:
    async def mixed_in(self) -> None: ...


class Shapes(Base, Mixin):
    constant = 1

    class Inner: ...

    async def nothing(self) -> None: ...
    async def two(self, a: int, b: str = "b") -> None: ...
    async def variable(self, first: int, *rest: float) -> None: ...
    async def keyword(self, a: int, *, k: str) -> None: ...
    async def optional_keyword(self, a: int = 1, *, k: str = "k") -> None: ...
    async def anything(self, **others: int) -> None: ...
    async def positional(self, a: int, /) -> None: ...
    async def typed(self, point: Point, when: datetime.datetime, items: list[Point] | None = None) -> None: ...
    async def untyped(self, a, b=2):  # type: ignore[no-untyped-def]  # untyped on purpose
        ...

    async def _private(self) -> None: ...
    def _plain_private(self) -> None: ...
    async def on_start(self) -> None: ...

    @property
    def shown(self) -> int:
        return 1


SHAPES = ObjectClass(Shapes).methods
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def bind(method: str, given: Any, json: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    codec: Any = msgspec.json if json else msgspec.msgpack
    return SHAPES[method].arguments(msgspec.Raw(codec.encode(given)), json=json)


def test_public_coroutine_methods_of_the_class_and_its_bases_can_be_called_and_nothing_else() -> None:
    assert set(SHAPES) == {
        "inherited", "mixed_in", "nothing", "two", "variable", "keyword", "optional_keyword", "anything", "positional", "typed",
        "untyped",
    }  # fmt: skip


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize(
    ("method", "given", "args", "kwargs"),
    [
        ("nothing", [], (), {}),
        ("nothing", {}, (), {}),
        ("nothing", None, (), {}),
        ("two", [1], (1,), {}),
        ("two", [1, "x"], (1, "x"), {}),
        ("two", {"a": 1}, (), {"a": 1}),
        ("two", {"b": "x", "a": 1}, (), {"a": 1, "b": "x"}),
        ("variable", [1], (1,), {}),
        ("variable", [1, 2, 3.5], (1, 2.0, 3.5), {}),
        ("keyword", {"a": 1, "k": "x"}, (), {"a": 1, "k": "x"}),
        ("optional_keyword", None, (), {}),
        ("optional_keyword", [5], (5,), {}),
        ("optional_keyword", {"k": "x"}, (), {"k": "x"}),
        ("anything", {"x": 1, "y": 2}, (), {"x": 1, "y": 2}),
        ("positional", [1], (1,), {}),
        ("typed", [{"x": 1}, NOON], (Point(1), NOON), {}),
        ("typed", [{"x": 1}, NOON, [{"x": 2, "y": 3}]], (Point(1), NOON, [Point(2, 3)]), {}),
        ("typed", {"point": {"x": 1}, "when": NOON}, (), {"point": Point(1), "when": NOON}),
        ("untyped", [None, [1]], (None, [1]), {}),
        ("untyped", [{"k": 1}], ({"k": 1},), {}),
    ],
)
def test_arguments_are_bound_as_python_binds_them_and_converted_to_their_annotations(
    method: str, given: Any, args: Any, kwargs: Any, json: bool
) -> None:
    bound = bind(method, given, json)
    assert bound == (args, kwargs)
    assert [type(value) for value in bound[0]] == [type(value) for value in args]


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize(
    ("method", "given", "says"),
    [
        ("nothing", [1], "too many positional arguments; it takes ()"),
        ("nothing", {"x": 1}, "unexpected keyword argument 'x'"),
        ("two", [], "missing a required argument: 'a'; it takes (a: "),
        ("two", None, "missing a required argument: 'a'"),
        ("two", [1, "x", 3], "too many positional arguments"),
        ("two", ["1"], "argument 'a': Expected `int`, got `str`"),
        ("two", [1.5], "argument 'a'"),
        ("two", [True], "argument 'a': Expected `int`, got `bool`"),
        ("two", {"a": 1, "b": 2}, "argument 'b': Expected `str`, got `int`"),
        ("two", {"a": 1, "self": 2}, "self"),
        ("variable", [1, 2, "x"], "argument '*[2]': Expected `float`, got `str`"),
        ("keyword", [1], "'k'"),
        ("keyword", {"a": 1}, "'k'"),
        ("positional", {"a": 1}, "'a'"),
        ("anything", {"x": "y"}, "argument 'x': Expected `int`, got `str`"),
        ("typed", [{"x": "1"}, NOON], "argument 'point': Expected `int`, got `str` - at `$.x`"),
        ("typed", [{"x": 1}, NOON, [{"x": 1}, {}]], "argument 'items': Object missing required field `x` - at `$[1]`"),
        ("typed", [{"x": 1}, "noon"], "argument 'when': "),
        ("two", 5, "neither an array nor a map"),
        ("two", "text", "neither an array nor a map"),
    ],
)
def test_a_mismatch_is_bad_arguments_with_the_place_of_the_offending_value(
    method: str, given: Any, says: str, json: bool
) -> None:
    with pytest.raises(BadArguments) as caught:
        bind(method, given, json)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{method}: ")
    assert caught.value.outcome == "not_executed"


@pytest.mark.parametrize(
    "raw", [b"\x91", b"\x92\x01", b"\xc1", b"\x81\xa1a", b"\x81\x01\x01", b"\x91" * 2_000 + b"\x01", b"\xd9\xff"]
)
def test_damaged_arguments_are_bad_arguments(raw: bytes) -> None:
    with pytest.raises(BadArguments):
        SHAPES["two"].arguments(msgspec.Raw(raw), json=False)


@pytest.mark.parametrize("method", SHAPES)
def test_every_method_is_described_with_a_schema_that_can_be_sent(method: str) -> None:
    described = SHAPES[method].describe()
    assert described["signature"].startswith("(")
    assert set(described["arguments"]["required"]) <= set(described["arguments"]["properties"])
    assert msgspec.json.encode(described)


def test_a_class_tells_whether_it_starts_and_has_an_alarm() -> None:
    assert ObjectClass(Shapes).starts
    assert not ObjectClass(Base).starts
    assert ObjectClass(Base).alarm is None
