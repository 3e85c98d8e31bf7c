"""Values of every type that a message carries, and what is said of the others."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from random import Random
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from tidegate.testing.stock.values import NoValue, draw, is_carried, type_of


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    one: int
    two: str = ""


class Told(TypedDict):
    name: str


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


@dataclasses.dataclass
class Order:
    pieces: int
    colour: Colour | None = None

    def __post_init__(self) -> None:
        if self.pieces < 1:
            raise ValueError("at least one")


class Never(msgspec.Struct):
    pieces: int

    def __post_init__(self) -> None:
        raise ValueError("never")


class Line(pydantic.BaseModel):
    article: str = pydantic.Field(min_length=1, max_length=30)
    pieces: Annotated[int, pydantic.Field(gt=0, le=12)]
    price: decimal.Decimal = pydantic.Field(default=decimal.Decimal(1), gt=0)


class Basket(pydantic.BaseModel):
    lines: list[Line] = pydantic.Field(min_length=1)
    owner: pydantic.constr(min_length=4) | None = None  # type: ignore[valid-type]  # as users write it
    paid_by: str = pydantic.Field(alias="paidBy")
    voucher: str = pydantic.Field(default="V000", pattern="^V[0-9]{3}$")
    at: int = pydantic.Field(validation_alias=pydantic.AliasChoices("when", "at"))

    @pydantic.model_validator(mode="after")
    def _somebody(self) -> Basket:
        if not self.paid_by:
            raise ValueError("nobody")
        return self


TYPES: list[Any] = [
    int, str, bool, float, bytes, None, int | None, list[int], set[str], dict[str, int], tuple[int, str], tuple[int, ...], Any,
    Literal["a", "b"], Colour, Pair, Told, Tree, Order, datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    decimal.Decimal, uuid.UUID, frozenset[int], Annotated[int, msgspec.Meta(ge=7, lt=9)], Annotated[float, msgspec.Meta(gt=3)],
    Annotated[str, msgspec.Meta(min_length=4)], Annotated[list[int], msgspec.Meta(min_length=3)], bytearray,
    Annotated[int, msgspec.Meta(multiple_of=7)], Annotated[str, msgspec.Meta(pattern="^[ab]$")],
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_value_is_of_its_type_and_is_carried(kind: Any) -> None:
    for seed in range(30):
        value = draw(type_of(kind), Random(seed))
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_the_same_chance_draws_the_same(kind: Any) -> None:
    assert draw(type_of(kind), Random(3)) == draw(type_of(kind), Random(3))


def test_a_model_of_pydantic_is_filled_in_as_its_fields_and_bounds_say() -> None:
    drawn = [draw(type_of(Basket), Random(seed)) for seed in range(30)]
    assert drawn == [draw(type_of(Basket), Random(seed)) for seed in range(30)]
    lines = [line for basket in drawn for line in basket.lines]
    assert all(isinstance(basket, Basket) and is_carried(basket) and basket.voucher == "V000" for basket in drawn)
    assert len({line.pieces for line in lines}) > 3
    assert {line.article for line in lines} >= {"a", "b"}
    assert isinstance(draw(type_of(list[Line] | None), Random(2)), list | None)


def test_a_type_of_which_no_value_is_known_is_named() -> None:
    class Coded(pydantic.BaseModel):
        code: str = pydantic.Field(pattern="^[0-9]{9}$")

    class Refused(pydantic.BaseModel):
        number: int = pydantic.Field(gt=1, lt=2, multiple_of=7)

    wrong: dict[Any, str] = {
        Coded: "Coded.code: a text like",
        Refused: "Refused.number: a number with its bounds",
        Annotated[str, msgspec.Meta(pattern="^[0-9]{9}$")]: "a text like",
        Annotated[int, msgspec.Meta(gt=1, lt=2)]: "bounds",
        Never: "Never, which refuses every value that was tried: never",
        msgspec.Raw: "raw",
    }
    for kind, text in wrong.items():
        with pytest.raises(NoValue, match=text):
            draw(type_of(kind), Random(1))
