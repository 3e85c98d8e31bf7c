"""What a type takes, in words: of an option, of an argument of a command."""

from __future__ import annotations

import datetime
import decimal
from pathlib import PurePath

import msgspec
from msgspec.inspect import Type

from tidegate.runtime.options.secret import Secret

_UNITS = {"_s": "seconds", "_ms": "milliseconds", "_mib": "MiB", "_bytes": "bytes"}


def unit_of(name: str) -> str:
    """What the end of a name says: seconds of `stop_s`. Empty if nothing."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def allowed(kind: Type, unit: str = "") -> str:
    """`unit`: of its numbers."""
    match kind:
        case msgspec.inspect.Metadata():
            return allowed(kind.type, unit)
        case msgspec.inspect.UnionType():
            given = [each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)]
            return " or ".join(allowed(each, unit) for each in sorted(given, key=_is_number))
        case msgspec.inspect.LiteralType(values=(only,)):
            return f'"{only}"'
        case msgspec.inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case msgspec.inspect.EnumType():
            return f"one of {', '.join(str(each.value) for each in kind.cls)}"
        case msgspec.inspect.IntType():
            return f"a whole number{_of(unit)}{_bounds(kind)}"
        case msgspec.inspect.FloatType() | msgspec.inspect.DecimalType():
            return f"a number{_of(unit)}{_bounds(kind) if isinstance(kind, msgspec.inspect.FloatType) else ''}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.DictType():
            return f"a table of names, each with {allowed(kind.value_type, unit)}"
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() | msgspec.inspect.SetType():
            return f"a list of which each is {allowed(kind.item_type, unit)}"
        case msgspec.inspect.StructType() | msgspec.inspect.DataclassType():
            return f"a table with {', '.join(each.encode_name for each in kind.fields)}"
        case msgspec.inspect.StrType(min_length=1):
            return "a text that is not empty"
        case msgspec.inspect.StrType(pattern=str(pattern)):
            return f"a text that matches {pattern}"
        case msgspec.inspect.StrType():
            return "a text"
        case msgspec.inspect.DateTimeType():
            return "a date and time"
        case msgspec.inspect.DateType():
            return "a date"
        case msgspec.inspect.AnyType():
            return "any value"
        case msgspec.inspect.CustomType(cls=cls) if issubclass(cls, Secret | PurePath):
            return "a text" if issubclass(cls, Secret) else "a path"
    return f"a {type(kind).__name__.removesuffix('Type').lower()}"


def _of(unit: str) -> str:
    return f" of {unit}" if unit else ""


def _bounds(kind: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    words = (("from", kind.ge), ("above", kind.gt), ("to" if kind.gt is None else "up to", kind.le), ("below", kind.lt))
    return "".join(f" {word} {bound:.12g}" for word, bound in words if bound is not None)


def _is_number(kind: Type) -> bool:
    return isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType)


def shown(value: object) -> str:
    """As TOML has it, or nearly: what can be shown of any value."""
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case str():
            return msgspec.json.encode(value.encode(errors="backslashreplace").decode()).decode()
        case int() | float() | decimal.Decimal() | datetime.date() | datetime.time():
            return str(value)
        case dict():
            return f"{{{', '.join(f'{key} = {shown(each)}' for key, each in value.items())}}}"
        case list() | tuple() | set() | frozenset():
            return f"[{', '.join(map(shown, value))}]"
    return str(value)
