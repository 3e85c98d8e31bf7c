"""What is stored comes back equal, or is refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.runtime.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX, VALUE_DEPTH_MAX
from tidegate.shard.core.codec import SCALARS, Encoded, check_key, check_size, decode, decode_as, encode, encode_value

ZONES = st.integers(-1_439, 1_439).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime.datetime(2, 1, 1), datetime.datetime(9_998, 12, 31), timezones=ZONES)
SCALAR_VALUES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
)
KEYS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    SCALAR_VALUES | TIMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal and of equal types all the way down; nan is itself, -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(same, a, b)) and all(map(same, a.values(), b.values()))
    if isinstance(a, float):
        return math.isnan(b) if math.isnan(a) else a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


def round_trip(value: Any) -> Any:
    return decode(encode(value) if type(value) in SCALARS else encode_value(value))


@given(VALUES)
def test_every_value_that_is_taken_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert same(value, round_trip(value)), (value, round_trip(value))


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, -(2**63), -0.0, math.nan, math.inf, 5e-324, b"\xff", "\0", "😀"])
def test_the_edges_of_every_scalar_type_come_back_exactly(value: Any) -> None:
    assert same(value, round_trip(value))


class Colour(enum.IntEnum):
    RED = 1


class Named(str):
    __slots__ = ()


class Numbers(list[int]):
    pass


NAIVE = datetime.datetime(2026, 1, 2, 3, 4)
REFUSED = [
    (1, 2), {1, 2}, frozenset(), decimal.Decimal("1.0"), uuid.UUID(int=1), NAIVE, NAIVE.date(), NAIVE.time(),
    datetime.timedelta(1), Colour.RED, Named("x"), Numbers(), collections.OrderedDict(), collections.defaultdict(int),
    bytearray(b"x"), memoryview(b"x"), 1j, object(), int, lambda: None, msgspec.UNSET, ..., collections.Counter("a"),
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: [{"k": [v]}]], ids="0123")
def test_a_value_that_would_come_back_as_something_else_is_refused_at_every_depth(value: Any, wrap: Any) -> None:
    with pytest.raises(TypeError):
        encode_value(wrap(value))


@pytest.mark.parametrize("key", [(1,), Colour.RED, Named("x"), NAIVE, decimal.Decimal(1)], ids=lambda key: type(key).__name__)
def test_a_dict_key_that_would_come_back_as_something_else_is_refused(key: Any) -> None:
    with pytest.raises(TypeError):
        encode_value({key: 1})


@pytest.mark.parametrize("value", [[2**64], [-(2**63) - 1], ["\ud800"], {"\udfff": 1}])
def test_numbers_and_texts_that_messagepack_cannot_carry_are_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        encode_value(value)


NESTED = [(lambda value: [value], 1), (lambda value: {"k": value}, 1), (lambda value: {"k": [value], "l": 1}, 2)]


@pytest.mark.parametrize(("wrap", "levels"), NESTED, ids=["lists", "dicts", "both"])
def test_values_are_nested_at_most_a_hundred_deep(wrap: Callable[[Any], Any], levels: int) -> None:
    value: Any = 1
    for _ in range(VALUE_DEPTH_MAX // levels):
        value = wrap(value)
    assert decode(encode_value(value)) == value
    for _ in range(50):  # However much deeper.
        value = wrap(value)
        with pytest.raises(ValueError, match="nested too deeply"):
            encode_value(value)


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="nested"):
        encode_value(value)


@pytest.mark.parametrize("levels", [90, 500, 900, 5_000])
def test_a_value_that_was_taken_can_be_read_from_much_deeper_in_the_stack(levels: int) -> None:
    try:
        raw = encode_value(deep(levels))
    except ValueError:
        assert levels > 100, "what people write is taken"
        return

    def read(frames: int) -> Any:
        return read(frames - 1) if frames else decode(raw)

    assert isinstance(read(500), list)


@dataclasses.dataclass
class Point:
    x: int
    y: tuple[int, ...] = ()


class Order(msgspec.Struct):
    number: int
    price: decimal.Decimal
    points: list[Point] = []


def test_a_dataclass_and_a_struct_come_back_as_themselves_with_their_type() -> None:
    order = Order(7, decimal.Decimal("1.50"), [Point(1, (2, 3))])
    assert decode_as(encode_value(order), Order) == order
    assert decode_as(encode_value([Point(1)]), list[Point]) == [Point(1)]


def test_a_stored_value_that_does_not_fit_the_type_is_an_error_that_says_where() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.number"):
        decode_as(encode_value({"number": "seven", "price": "1"}), Order)


def test_a_value_may_have_exactly_two_mebibytes_encoded_and_not_one_byte_more() -> None:
    head = len(encode(b"x" * VALUE_BYTES_MAX)) - VALUE_BYTES_MAX
    check_size(encode(b"x" * (VALUE_BYTES_MAX - head)))
    with pytest.raises(ValueError, match="limit"):
        check_size(encode(b"x" * (VALUE_BYTES_MAX - head + 1)))
    with pytest.raises(ValueError, match="limit"):
        encode_value([b"x" * VALUE_BYTES_MAX])


@pytest.mark.parametrize("key", ["k" * KEY_BYTES_MAX, "é" * (KEY_BYTES_MAX // 2), "😀" * (KEY_BYTES_MAX // 4), "\0", "a"])
def test_a_key_may_have_up_to_480_bytes_of_utf8(key: str) -> None:
    check_key(key)


@pytest.mark.parametrize("key", ["", "k" * (KEY_BYTES_MAX + 1), "é" * 241, "😀" * 121, "\ud800", "a\udfff"])
def test_an_empty_too_long_or_invalid_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        check_key(key)


@pytest.mark.parametrize("key", [None, 1, b"k", ("a",), ["a"]])
def test_a_key_that_is_no_text_is_refused(key: object) -> None:
    with pytest.raises(TypeError):
        check_key(key)


def test_encoded_values_are_equal_when_their_bytes_are() -> None:
    assert Encoded(b"\x90") == Encoded(b"\x90")
    assert Encoded(b"\x90") != Encoded(b"\x80")
    assert Encoded(b"\x90") != b"\x90"
