"""Whether what was read is what was written: equal, and of the same types all the way down.

Rule: nothing of the user's code decides it. A record is compared by its fields, whatever its `==` says.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec

from tidegate.runtime.limits import VALUE_DEPTH_MAX
from tidegate.runtime.wire.models import is_model

_SURE = frozenset({type(None), bool, int, str, bytes})
"""Of one type and equal: the same."""

_SCALARS = _SURE | {float}
"""Likewise, but for the zeros of floats: 0.0 equals -0.0."""

_MISSING = object()


class Different(Exception):
    """Something would not come back as it is. `error` is what the user is told by, `steps` lead to the place, innermost first."""

    def __init__(self, reason: str, error: type[Exception] = TypeError) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error
        self.steps: list[str] = []

    def to_error(self, root: str) -> Exception:
        if not self.steps and root == "value":
            return self.error(self.reason)
        return self.error(f"{root}{''.join(reversed(self.steps))}: {self.reason}")


def too_deep() -> Different:
    return Different(f"the value is nested too deeply (limit {VALUE_DEPTH_MAX}), or contains itself", ValueError)


def named(kind: Any) -> str:
    """With its article."""
    name: str = kind.__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def check_same(value: Any, read: Any, levels: int) -> None:
    """Raises Different."""
    kind: Any = type(value)
    if kind is not type(read):
        raise Different(
            f"{named(kind)} would come back as {named(type(read))}; give the field its type, or store what does not change"
        )
    if levels == 0:
        raise too_deep()
    if kind not in _SURE:
        _comparison(kind)(value, read, levels - 1)
    elif value != read:
        raise _another()


def _make_comparison(kind: Any) -> Callable[[Any, Any, int], None]:
    if kind is float:
        return _check_float
    if kind in _SURE:
        return _check_equal
    if issubclass(kind, (list, tuple, collections.deque)):
        return _check_sequence
    if issubclass(kind, (set, frozenset)):
        return _check_set
    if issubclass(kind, Mapping):
        return _check_mapping
    if issubclass(kind, enum.Enum):
        return _check_identical
    if issubclass(kind, decimal.Decimal):
        return _check_decimal
    if issubclass(kind, (datetime.datetime, datetime.time)):
        return _check_time
    if issubclass(kind, msgspec.Raw):
        return _check_raw
    if is_model(kind):
        return _check_model
    names = field_names(kind)
    return _check_equal if names is None else _record_comparison(names)


_comparison: Callable[[Any], Callable[[Any, Any, int], None]] = functools.lru_cache(maxsize=4_096)(_make_comparison)


def field_names(kind: Any) -> tuple[str, ...] | None:
    """Of a Struct, a dataclass or an attrs class."""
    if issubclass(kind, msgspec.Struct):
        names: tuple[str, ...] = kind.__struct_fields__
        return names
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else tuple(attribute.name for attribute in attributes)


def _record_comparison(names: tuple[str, ...]) -> Callable[[Any, Any, int], None]:
    get: Callable[[Any], tuple[Any, ...]] = (
        operator.attrgetter(*names) if len(names) > 1 else lambda record: tuple(getattr(record, name) for name in names)
    )
    known = frozenset(names)

    def check_record(value: Any, read: Any, levels: int) -> None:
        try:
            mine, theirs = get(value), get(read)
        except AttributeError:  # A field without a default that nothing has set.
            mine, theirs = (tuple(getattr(record, name, _MISSING) for name in names) for record in (value, read))
        kinds = [*map(type, mine)]
        if kinds != [*map(type, theirs)] or not _SCALARS.issuperset(kinds) or mine != theirs or (float in kinds and 0.0 in mine):
            for name, kind, one, other in zip(names, kinds, mine, theirs, strict=True):
                if kind in _SURE and kind is type(other) and one == other:
                    continue
                try:
                    check_same(one, other, levels)
                except Different as problem:
                    problem.steps.append(f".{name}")
                    raise
        others = getattr(value, "__dict__", None)
        if others and not known.issuperset(others):
            _check_no_field(value, read, known)

    return check_record


def _check_no_field(value: Any, read: Any, known: frozenset[str]) -> None:
    """Attributes beside the fields are lost, unless what reads the value makes them anew."""
    kept = read.__dict__
    for name in value.__dict__.keys() - known - kept.keys() - {"__orig_class__"}:
        if not isinstance(getattr(type(value), name, None), functools.cached_property):
            problem = Different(f"it is no field of {type(value).__name__} and would be lost")
            problem.steps.append(f".{name}")
            raise problem


def _another() -> Different:
    return Different("it would come back with another value", ValueError)


def _check_equal(value: Any, read: Any, levels: int) -> None:
    try:
        same = bool(value == read)
    except Exception:  # Of a type that a model may hold.
        same = False
    if not same:
        raise _another()


def _check_identical(value: Any, read: Any, levels: int) -> None:
    if value is not read:
        raise _another()


def _check_float(value: float, read: float, levels: int) -> None:
    if value.hex() != read.hex():  # nan is itself, and -0.0 is not 0.0.
        raise _another()


def _check_decimal(value: decimal.Decimal, read: decimal.Decimal, levels: int) -> None:
    if value.as_tuple() != read.as_tuple():
        raise _another()


def _check_time(value: Any, read: Any, levels: int) -> None:
    """Aware times are the same when their instants are, naive ones with their fold."""
    if value != read or (value.tzinfo is None) is not (read.tzinfo is None) or (value.tzinfo is None and value.fold != read.fold):
        raise _another()


def _check_raw(value: msgspec.Raw, read: msgspec.Raw, levels: int) -> None:
    if bytes(value) != bytes(read):
        raise _another()


def _plainly_same(values: Collection[Any], read: Collection[Any]) -> bool:
    """Nothing but scalars, and the same ones. Most lists and dicts are."""
    kinds = [*map(type, values)]
    return _SURE.issuperset(kinds) and kinds == [*map(type, read)] and [*values] == [*read]


def _check_sequence(value: Any, read: Any, levels: int) -> None:
    if levels and type(value) in (list, tuple) and _plainly_same(value, read):
        return
    if len(value) != len(read):
        raise _another()
    for index, (one, other) in enumerate(zip(value, read, strict=True)):
        try:
            check_same(one, other, levels)
        except Different as problem:
            problem.steps.append(f"[{index}]")
            raise


def _check_set(value: Any, read: Any, levels: int) -> None:
    found = {item: item for item in read}
    if len(value) != len(read):
        raise _another()
    for item in value:
        if item not in found:
            raise _another()
        check_same(item, found[item], levels)


def _check_mapping(value: Any, read: Any, levels: int) -> None:
    if levels and type(value) is dict and _plainly_same(value, read) and _plainly_same(value.values(), read.values()):
        return
    if len(value) != len(read):
        lost = next((key for key in value if key not in read), None)
        raise Different(f"its key {lost!r:.80} would be lost", ValueError)
    for (key, item), (read_key, read_item) in zip(value.items(), read.items(), strict=True):
        try:
            check_same(key, read_key, levels)
            check_same(item, read_item, levels)
        except Different as problem:
            problem.steps.append(key_step(key))
            raise


def key_step(key: Any) -> str:
    return f"[{key!r:.80}]" if type(key) in _SURE else f"[a {type(key).__name__}]"


def _check_model(value: Any, read: Any, levels: int) -> None:
    """As `==` of Pydantic, with types: fields, extra ones and private attributes."""
    for mine, theirs, step in (
        (value.__dict__, read.__dict__, ".{}"),
        (value.__pydantic_extra__ or {}, read.__pydantic_extra__ or {}, ".{}"),
        (value.__pydantic_private__ or {}, read.__pydantic_private__ or {}, ".{}"),
    ):
        for name, item in mine.items():
            try:
                if name not in theirs:
                    if not isinstance(getattr(type(value), name, None), functools.cached_property):
                        raise Different("it would be lost")
                else:
                    check_same(item, theirs[name], levels)
            except Different as problem:
                problem.steps.append(step.format(name))
                raise
        if theirs.keys() - mine.keys():
            raise _another()


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, and the step to it."""
    kind: Any = type(value)
    if issubclass(kind, Mapping):
        for key, item in value.items():
            yield key_step(key), key
            yield key_step(key), item
    elif issubclass(kind, (list, tuple, collections.deque)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif issubclass(kind, (set, frozenset)):
        yield from (("", item) for item in value)
    elif not hasattr(kind, "__await__"):
        names = tuple(kind.model_fields) if is_model(kind) else field_names(kind) or ()
        for name in names:
            item = getattr(value, name, _MISSING)
            if item is not _MISSING:
                yield f".{name}", item
