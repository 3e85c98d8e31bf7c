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

from tidegate.testing.stock.values import NoValue, draw, type_of


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


def test_a_type_of_which_no_value_is_known_is_named() -> None:
    class Model(pydantic.BaseModel):
        name: str

    wrong: dict[Any, str] = {
        Model: "Model",
        Annotated[str, msgspec.Meta(pattern="^[0-9]{9}$")]: "a text like",
        Annotated[int, msgspec.Meta(gt=1, lt=2)]: "bounds",
        Never: "Never, which refuses every value that was tried: never",
        msgspec.Raw: "raw",
    }
    for kind, text in wrong.items():
        with pytest.raises(NoValue, match=text):
            draw(type_of(kind), Random(1))
