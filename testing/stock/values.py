"""Values of a type, as somebody would try them who knows nothing but the type.

Guarantee: the same chance draws the same values on every Python. They are few and small, so that calls meet: the same name, the
same number of an order, twice.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import inspect

from tidegate.runtime.wire.encoding import encode_value
from tidegate.runtime.wire.models import is_model
from tidegate.testing.stock.models import fields_of

NAMES = ("a", "b")
"""Of objects; texts are often one of them, so that objects name each other."""
TEXTS = ("one", "two", "three", "")
NUMBERS = (1, 2, 10, 3, 5, 0, 100, -1)
FLOATS = (1.0, 0.5, 2.5, 10.0, 0.0, -1.0)
ITEMS_MAX = 2
DEPTH_MAX = 5
TRIES = 20
"""At a value that a class of its own refuses."""


class NoValue(Exception):
    """None is known of that type; the text names it."""


def type_of(kind: Any) -> inspect.Type:
    """Raises NoValue for a type that msgspec does not know."""
    try:
        return inspect.type_info(kind)
    except (TypeError, ValueError) as error:
        raise NoValue(str(error)) from None


def draw(kind: inspect.Type, chance: Random, depth: int = 0) -> Any:
    """Raises NoValue."""
    if depth > DEPTH_MAX:
        raise NoValue("a type that contains itself")
    match kind:
        case inspect.NoneType():
            return None
        case inspect.BoolType():
            return chance.random() < 0.5
        case inspect.IntType() | inspect.FloatType():
            return _number(kind, chance)
        case inspect.StrType():
            return _text(kind, chance)
        case inspect.BytesType() | inspect.ByteArrayType():
            return chance.choice((b"", b"bytes"))
        case inspect.AnyType():
            return chance.choice((1, "a", None))
        case inspect.LiteralType(values=values):
            return chance.choice(values)
        case inspect.EnumType(cls=cls):
            return chance.choice(list(cls))
        case inspect.DateTimeType(tz=tz):
            zone = None if tz is False else datetime.UTC
            return datetime.datetime(2026, 1, chance.choice((1, 2)), 12, tzinfo=zone)
        case inspect.DateType():
            return datetime.date(2026, 1, chance.choice((1, 2)))
        case inspect.TimeType():
            return datetime.time(12)
        case inspect.TimeDeltaType():
            return datetime.timedelta(seconds=chance.choice((1, 60)))
        case inspect.DecimalType():
            return decimal.Decimal(chance.choice(("1", "2.5", "10")))
        case inspect.UUIDType():
            return uuid.UUID(int=chance.choice((1, 2)))
        case inspect.UnionType(types=types):
            return draw(chance.choice(types if depth < DEPTH_MAX else types[-1:]), chance, depth + 1)
    return _made_of_others(kind, chance, depth)


def _made_of_others(kind: inspect.Type, chance: Random, depth: int) -> Any:
    def several(item: inspect.Type, at_least: int | None) -> list[Any]:
        return [draw(item, chance, depth + 1) for _ in range(max(at_least or 0, chance.randrange(ITEMS_MAX + 1)))]

    match kind:
        case inspect.ListType() | inspect.VarTupleType() | inspect.CollectionType():
            return several(kind.item_type, kind.min_length)
        case inspect.SetType() | inspect.FrozenSetType():
            return set(several(kind.item_type, kind.min_length))
        case inspect.TupleType(item_types=items):
            return tuple(draw(item, chance, depth + 1) for item in items)
        case inspect.DictType():
            return {key: draw(kind.value_type, chance, depth + 1) for key in several(kind.key_type, kind.min_length)}
        case inspect.TypedDictType(fields=fields):
            return _fields(fields, chance, depth)
        case inspect.StructType(cls=cls, fields=fields) | inspect.DataclassType(cls=cls, fields=fields):
            return _instance(cls, lambda: cls(**_fields(fields, chance, depth)))
        case inspect.NamedTupleType(cls=cls, fields=fields):
            return _instance(cls, lambda: cls(**_fields(fields, chance, depth)))
        case inspect.CustomType(cls=cls) if is_model(cls):
            return _instance(cls, lambda: _model(cls, chance, depth))
    raise NoValue(str(getattr(kind, "cls", type(kind).__name__.removesuffix("Type").lower())))


def _instance(cls: type, make: Callable[[], Any]) -> Any:
    """A class may refuse what it is made of."""
    problem = ""
    for _ in range(TRIES):
        try:
            return make()
        except NoValue:
            raise
        except Exception as error:
            problem = f"{cls.__name__}, which refuses every value that was tried: {_in_a_line(error)}"
    raise NoValue(problem)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _model(model: Any, chance: Random, depth: int) -> Any:
    found: dict[str, Any] = {}
    for name, (kind, required) in fields_of(model).items():
        if required or (depth < 2 and chance.random() < 0.5):
            try:
                found[name] = draw(type_of(kind), chance, depth + 1)
            except NoValue as error:
                if required:
                    raise NoValue(f"{model.__name__}.{name}: {error}") from None
    return model.model_validate(found)


def _fields(fields: Any, chance: Random, depth: int) -> dict[str, Any]:
    return {
        field.name: draw(field.type, chance, depth + 1)
        for field in fields
        if field.required or (depth < 2 and chance.random() < 0.5)
    }


def _number(kind: inspect.IntType | inspect.FloatType, chance: Random) -> Any:
    numbers: tuple[Any, ...] = NUMBERS if isinstance(kind, inspect.IntType) else FLOATS
    low = kind.ge if kind.ge is not None else kind.gt
    high = kind.le if kind.le is not None else kind.lt
    near = [each + step for each in (low, high) if each is not None for step in (0, 1, -1)]
    step = kind.multiple_of
    every = [*numbers, *near] if step is None else [each * step for each in numbers]
    return chance.choice(_allowed(every, kind))


def _text(kind: inspect.StrType, chance: Random) -> str:
    found: list[str] = _allowed([*NAMES, *NAMES, *TEXTS], kind)
    shortest = kind.min_length or 0
    found += [] if found else [text for text in (each.ljust(shortest, "x") for each in NAMES) if _fits(text, kind)]
    if not found:
        raise NoValue(f"a text like {kind.pattern!r}" if kind.pattern else "a text of that length")
    return chance.choice(found)


def _allowed(values: list[Any], kind: inspect.Type) -> list[Any]:
    found = [value for value in values if _fits(value, kind)]
    if not found and not isinstance(kind, inspect.StrType):
        raise NoValue("a number with its bounds")
    return found


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, inspect.StrType):
        return (
            (kind.min_length is None or len(value) >= kind.min_length)
            and (kind.max_length is None or len(value) <= kind.max_length)
            and (kind.pattern is None or re.search(kind.pattern, value) is not None)
        )
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def is_carried(value: Any) -> bool:
    """A message can have it."""
    try:
        encode_value(value)
    except Exception:
        return False
    return True
