"""Arguments, results and errors as the callers' side writes and reads them."""

from __future__ import annotations

import datetime
import decimal
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from tidegate.runtime.errors import BadArguments, Internal, MethodRaised, Overloaded
from tidegate.runtime.wire.encoding import (
    encode_arguments,
    error_from_raw,
    exception_for_caller,
    result_decoder,
)
from tidegate.runtime.wire.protocol import NO_RAW, encode


class Model(pydantic.BaseModel):
    x: int


@dataclass
class Point:
    x: int


def test_positional_arguments_are_an_array_keywords_a_map_and_none_is_nil() -> None:
    assert msgspec.msgpack.decode(encode_arguments((1, "a"), {})) == [1, "a"]
    assert msgspec.msgpack.decode(encode_arguments((), {"a": 1})) == {"a": 1}
    assert encode_arguments((), {}) is NO_RAW
    with pytest.raises(TypeError, match="signature"):
        encode_arguments((1,), {"a": 1})


@pytest.mark.parametrize(
    ("value", "result_type"),
    [
        (Point(1), Point),
        ([Point(1), Point(2)], list[Point]),
        ({"a": Point(1)}, dict[str, Point]),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.datetime),
        (decimal.Decimal("1.50"), decimal.Decimal),
        (uuid.UUID(int=7), uuid.UUID),
        ((1, "x"), tuple[int, str]),
        ({1, 2}, set[int]),
        (None, None),
        (3, Annotated[int, msgspec.Meta(ge=1, extra_json_schema={"x": []})]),
    ],
)
def test_a_value_sent_is_the_value_read_with_its_type(value: Any, result_type: Any) -> None:
    raw = msgspec.msgpack.decode(encode_arguments((value,), {}), type=list[msgspec.Raw])[0]
    assert result_decoder(result_type)(raw) == value


def test_models_with_a_dump_and_a_validation_of_their_own_travel_both_ways() -> None:
    raw = msgspec.msgpack.decode(encode_arguments((Model(x=3),), {}), type=list[msgspec.Raw])[0]
    assert result_decoder(Model)(raw).x == 3


def test_a_decoder_is_made_once_per_type() -> None:
    assert result_decoder(list[int]) is result_decoder(list[int])


def test_what_messagepack_cannot_carry_is_a_bad_argument_before_anything_is_sent() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for value in (object(), 2**64, cyclic, "\ud800", {1, object()}, Model):
        with pytest.raises(BadArguments) as caught:
            encode_arguments((value,), {})
        assert caught.value.outcome == "not_executed"


@pytest.mark.parametrize("wrong", [b"", b"\xc1", b"\x01\x02", b'{"a": 1}', b"\x92\x01"])
def test_a_raw_that_is_not_one_value_is_a_bad_argument_and_takes_no_other_request_along(wrong: bytes) -> None:
    for value in (msgspec.Raw(wrong), [1, {"a": msgspec.Raw(wrong)}]):
        with pytest.raises(BadArguments, match="Raw"):
            encode_arguments((value,), {})
    assert bytes(encode_arguments((msgspec.Raw(b"\x93\x01\x02\x03"),), {})) == b"\x91\x93\x01\x02\x03"


def test_an_error_that_cannot_be_read_is_internal() -> None:
    assert isinstance(error_from_raw(msgspec.Raw(b"\xc0")), Internal)
    assert isinstance(error_from_raw(encode({"code": 7})), Internal)
    year_10000 = b"\xc7\x0c\xff" + bytes(4) + (253_402_300_800).to_bytes(8)
    assert isinstance(error_from_raw(msgspec.Raw(b"\x81\xa1a" + year_10000)), Internal)
    assert isinstance(error_from_raw(encode({"code": "overloaded"})), Overloaded)


def test_a_key_error_comes_back_with_its_key_not_with_the_repr_of_it() -> None:
    raised = exception_for_caller(MethodRaised("'k'", details={"type": "KeyError"}))
    assert raised.args == ("k",)
    assert exception_for_caller(MethodRaised("not a literal", details={"type": "KeyError"})).args == ("not a literal",)
