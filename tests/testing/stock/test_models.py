"""Fields of Pydantic models: under which name each is given, of which type, within which bounds."""

from __future__ import annotations

import decimal
from typing import Annotated

import msgspec
import pydantic

from tidegate.testing.stock.models import fields_of


class Line(pydantic.BaseModel):
    pieces: Annotated[int, pydantic.Field(gt=0, le=12)]
    note: str | None = pydantic.Field(default=None, max_length=5)
    price: decimal.Decimal = pydantic.Field(gt=0)
    paid_by: str = pydantic.Field(alias="paidBy")
    at: int = pydantic.Field(validation_alias=pydantic.AliasChoices("when", "at"))
    first: int = pydantic.Field(validation_alias=pydantic.AliasPath("numbers", 0))


def test_a_field_has_the_name_by_which_it_is_read_and_says_whether_it_must_be_given() -> None:
    found = {name: required for name, (_, required) in fields_of(Line).items()}
    assert found == {"pieces": True, "note": False, "price": True, "paidBy": True, "when": True, "first": True}


def test_bounds_are_followed_where_msgspec_has_them() -> None:
    kinds = {name: kind for name, (kind, _) in fields_of(Line).items()}
    assert kinds["pieces"] == Annotated[int, msgspec.Meta(gt=0, le=12)]
    assert kinds["note"] == Annotated[str, msgspec.Meta(max_length=5)] | None
    assert kinds["price"] is decimal.Decimal
