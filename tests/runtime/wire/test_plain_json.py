"""What is stored, as JSON and back: nothing is lost, and what is no form of a value is named."""

from __future__ import annotations

import base64
import datetime
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.runtime.wire.plain_json import GROWTH_MAX, from_plain, pack, to_plain, with_values

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=20),
    st.datetimes(
        min_value=datetime.datetime(1970, 1, 2),  # the zone comes beside
        max_value=datetime.datetime(9999, 1, 1),
        timezones=st.just(datetime.UTC),
    ),
)
KEYS = st.one_of(st.text(max_size=3), st.sampled_from(["$bytes", "$map", "$"]), st.integers(-5, 5), st.binary(max_size=3))
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)), max_leaves=6
)


@given(VALUES)
def test_what_is_stored_comes_back_byte_for_byte_through_json(value: Any) -> None:
    raw = msgspec.msgpack.encode(value)
    text = msgspec.json.encode(to_plain(msgspec.msgpack.decode(raw)))
    assert msgspec.msgpack.encode(from_plain(msgspec.json.decode(text))) == raw


def test_what_people_write_most_is_plain() -> None:
    value = {"name": "alice", "n": 1, "tags": ["a", None, True, 1.5], "inner": {"$": 1, "b": 2}}
    assert to_plain(value) == value
    assert from_plain(value) == value


def test_an_extension_keeps_its_code() -> None:
    ext = msgspec.msgpack.Ext(5, b"\0\1")
    assert to_plain(ext) == {"$ext": [5, "AAE="]}
    back = from_plain(to_plain(ext))
    assert (back.code, back.data) == (5, b"\0\1")


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ({"$nothing": 1}, "begins no form"),
        ({"$bytes": "?"}, "$bytes"),
        ({"$bytes": 1}, "base64 is a text"),
        ({"$time": "2026-01-01T00:00:00"}, "zone"),
        ({"$time": 3}, "a time is a text"),
        ({"$float": "1.5"}, "nan"),
        ({"$ext": [300, ""]}, "code from -128"),
        ({"$map": [1]}, "key, value"),
        ([{"$map": [[[1], 2]]}], "$map"),
    ],
)
def test_what_is_no_form_of_a_value_is_named(plain: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("$", r"\$")):
        from_plain(plain)


def test_what_is_not_finite_is_a_text() -> None:
    assert to_plain([math.inf, -math.inf]) == [{"$float": "inf"}, {"$float": "-inf"}]
    assert math.isnan(from_plain({"$float": "nan"}))


def test_a_value_is_packed_as_it_is_stored_or_refused_by_name() -> None:
    assert pack({"k": {"$bytes": "eQ=="}}) == msgspec.msgpack.encode({"k": b"y"})
    for plain, problem in (({"$nothing": 1}, "begins no form"), (2**70, "serialize ints"), ("\ud800", "surrogate")):
        with pytest.raises(ValueError, match=problem):
            pack(plain)
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nests too deeply"):
        pack(deep)


def test_what_is_told_of_values_has_them_for_people_wherever_they_are() -> None:
    told = {"packed": base64.b64encode(pack([1])).decode()}
    assert with_values({"key": "k", **told}) == {"key": "k", "value": [1]}
    assert with_values({"before": told, "after": None}) == {"before": {"value": [1]}, "after": None}
    assert with_values({"rows": [told, {"bytes": 9}], "more": False}) == {"rows": [{"value": [1]}, {"bytes": 9}], "more": False}
    assert with_values({"result": told}) == {"result": told}, "what a method has returned is its own"


def nested(key: Any, depth: int) -> Any:
    value = key
    for _ in range(depth):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    "value",
    ["\x01" * 99, '"' * 99, [False] * 99, [None, True] * 50, *(nested(key, 99) for key in (False, True, None, b"", "", "$", 1.5)),
     [b""] * 99, [{b"": b""}] * 99, [math.nan] * 99, [{"$": 1}] * 99, [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)] * 99],
)  # fmt: skip
def test_json_of_a_value_grows_no_more_than_is_said(value: Any) -> None:
    raw = msgspec.msgpack.encode(value)
    assert len(msgspec.json.encode(to_plain(value))) <= GROWTH_MAX * len(raw)


@given(VALUES)
def test_json_of_any_value_grows_no_more_than_is_said(value: Any) -> None:
    raw = msgspec.msgpack.encode([value])
    assert len(msgspec.json.encode(to_plain(msgspec.msgpack.decode(raw)))) <= GROWTH_MAX * len(raw)
