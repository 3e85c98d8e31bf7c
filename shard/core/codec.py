"""Values as they are stored: MessagePack, and only what comes back equal.

What `get` returns equals what was `put`, or `put` refuses (contract, section 4). Of a dataclass, Struct or model that is made
sure by reading it back with its class and comparing: no list of rules could know what classes do when they are read. Stored
values are snapshots: nothing that user code mutates is shared with the cache.
"""

from __future__ import annotations

import datetime
import functools
import re
import typing
from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from tidegate.runtime.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX, VALUE_DEPTH_MAX
from tidegate.runtime.wire.encoding import encode_value as encode_foreign
from tidegate.runtime.wire.encoding import result_decoder
from tidegate.runtime.wire.exceptions import name_of, text_of
from tidegate.runtime.wire.models import is_model
from tidegate.runtime.wire.unawaited import not_awaited
from tidegate.shard.core.likeness import Different, check_same, field_names, key_step, named, parts, too_deep

NUMBERS: frozenset[type] = frozenset({type(None), bool, int, float})
TEXTS: frozenset[type] = frozenset({str, bytes})
SCALARS = NUMBERS | TEXTS
"""Immutable, and carried by MessagePack without loss: kept in the cache as they are."""

_NO_RECORDS = SCALARS | {list, dict, datetime.datetime}

encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode


class Encoded:
    """A value that user code could mutate, kept as its bytes."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and self.raw == other.raw

    __hash__ = None  # type: ignore[assignment]  # mutable-like: compared, never a key


def encode_value(value: Any, root: str = "value") -> bytes:
    """The bytes of a value. Raises TypeError for what would come back as something else, ValueError for what is too large or
    too deep; they name the place, from `root`."""
    try:
        if _is_plain(value, VALUE_DEPTH_MAX):
            raw = encode_foreign(value)
        elif value.__class__ in _NO_RECORDS:
            _check(value, VALUE_DEPTH_MAX)
            raw = encode_foreign(value)
        else:
            raw = _check_record(value, VALUE_DEPTH_MAX)
    except RecursionError:
        raise too_deep().to_error(root) from None
    except Different as problem:
        raise problem.to_error(root) from None
    except (OverflowError, UnicodeEncodeError) as exc:
        raise _blame(value, encode_foreign, exc, "cannot be stored").to_error(root) from None
    check_size(raw)
    return raw


def is_plain(value: Any, bytes_max: int) -> bool:
    """Whether a value comes back as it is without a type, and is not larger."""
    try:
        return _is_plain(value, VALUE_DEPTH_MAX) and len(encode(value)) <= bytes_max
    except (ValueError, OverflowError):
        return False


def check_size(raw: bytes) -> None:
    if len(raw) > VALUE_BYTES_MAX:
        raise ValueError(f"the value has {len(raw)} bytes encoded; the limit is {VALUE_BYTES_MAX}")


def _is_plain(value: Any, levels: int) -> bool:
    """Whether it certainly comes back as it is, whatever reads it. Most values; the others are looked at by `_check`."""
    kind = value.__class__
    if levels == 0:
        return kind in SCALARS
    if kind is list:
        for item in value:
            if item.__class__ not in SCALARS and not _is_plain(item, levels - 1):
                return False
    elif kind is dict:
        for key, item in value.items():
            if key.__class__ not in SCALARS or (item.__class__ not in SCALARS and not _is_plain(item, levels - 1)):
                return False
    else:
        return kind in SCALARS or (kind is datetime.datetime and value.tzinfo.__class__ is datetime.timezone)
    return True


def _check(value: Any, levels: int) -> bool:
    """Raises Different for what does not come back as it is. Whether there is a record in it: that does with a type only."""
    kind = value.__class__
    if kind in SCALARS:
        return False
    if levels == 0:
        raise too_deep()
    records = False
    if kind is list:
        item = None
        try:
            for item in value:
                if item.__class__ not in SCALARS and _check(item, levels - 1):
                    records = True
        except Different as problem:
            problem.steps.append(f"[{next(index for index, other in enumerate(value) if other is item)}]")
            raise
        if records:
            _check_alternatives([value])
    elif kind is dict:
        key = None
        try:
            for key, item in value.items():
                if key.__class__ not in SCALARS:
                    raise Different(f"a dict key of type {key.__class__.__name__} would not come back as it is")
                if item.__class__ not in SCALARS and _check(item, levels - 1):
                    records = True
        except Different as problem:
            problem.steps.append(key_step(key))
            raise
        if records:
            _check_alternatives([value])
    elif kind is datetime.datetime:
        _check_datetime(value)
    else:
        _check_record(value, levels)
        return True
    return records


def _check_datetime(value: datetime.datetime) -> None:
    if value.utcoffset() is None:
        raise Different("a datetime without a time zone would come back as text; give it one, for instance tzinfo=UTC")
    if value.tzinfo.__class__ is not datetime.timezone and value != value.astimezone(datetime.UTC):
        raise Different(
            "a datetime in an hour that its time zone repeats or skips equals none in UTC, as which it would come back; "
            "store value.astimezone(UTC)", ValueError
        )  # fmt: skip


@functools.lru_cache(maxsize=4_096)
def _is_record(kind: Hashable) -> bool:
    return field_names(kind) is not None or is_model(kind)


@functools.lru_cache(maxsize=4_096)
def _reader(kind: Hashable) -> Callable[[bytes], Any] | None:
    """Of a class that is not generic: what reads it is the same each time."""
    return None if getattr(kind, "__parameters__", ()) and not is_model(kind) else result_decoder(kind)


def _check_record(value: Any, levels: int) -> bytes:
    """A dataclass, Struct or model comes back as itself when it is read with its class: tried, and compared. Returns what was
    read."""
    kind: Any = type(value)
    if not _is_record(kind):
        raise Different(
            not_awaited(named(kind)) if hasattr(kind, "__await__") else
            f"{named(kind)} would not come back as it is; store None, bool, int, float, str, bytes, an aware datetime, "
            "a list or dict of these, or a dataclass, Struct or Pydantic model (read it back with type=)"
        )  # fmt: skip
    try:
        raw = encode_foreign(value)
    except RecursionError:
        raise
    except Exception as exc:
        raise _blame(value, encode_foreign, exc, "cannot be stored") from None
    try:
        reader = _reader(kind)
        read = _read_back(value, raw) if reader is None else reader(raw)
    except RecursionError:
        raise
    except Exception as exc:
        raise _blame(value, _read_back, exc, "like this cannot be read back") from None
    check_same(value, read, levels)
    return raw


def _read_back(value: Any, raw: bytes | None = None) -> Any:
    """What reads a record, or the records in a container; anything else is read already."""
    kind: Any = type(value)
    if kind in SCALARS:
        return value
    if not _is_record(kind):
        if issubclass(kind, list | dict | tuple):
            for _, part in parts(value):
                _read_back(part)
        return value
    return decode_as(encode_foreign(value) if raw is None else raw, _reading_type(value))


def _reading_type(value: Any) -> Any:
    """The type that reads a record: its class, of a generic one with what its fields hold."""
    kind = type(value)
    parameters = getattr(kind, "__parameters__", ())
    if not parameters or is_model(kind):
        return kind
    made = getattr(value, "__orig_class__", None)
    if made is not None:
        return made
    hints = typing.get_type_hints(kind)
    held = {hint: getattr(value, name) for name, hint in hints.items() if hint in parameters and hasattr(value, name)}
    arguments = tuple(
        _reading_type(held[parameter]) if parameter in held and field_names(type(held[parameter])) is not None else Any
        for parameter in parameters
    )
    return kind[arguments]


def _check_alternatives(values: list[Any]) -> None:
    """Values of one place, of which some are or hold records. One type must be able to read them all: a list of two untagged
    classes has none. (A dict may be read as a TypedDict: its values are places of their own.)"""
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        try:
            result_decoder(typing.Union[tuple(kinds)])  # noqa: UP007  # made at run time
        except TypeError as exc:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise Different(f"no type= can read {names} in one list: {exc}; tagged Structs can be told apart") from None
    items = [item for value in values if type(value) is list for item in value]
    if items:
        _check_alternatives(items)
    places: dict[Any, list[Any]] = {}
    for value in values:
        if type(value) is dict:
            for key, item in value.items():
                places.setdefault(key if type(key) is str else None, []).append(item)
    for place in places.values():
        _check_alternatives(place)


def _blame(value: Any, test: Callable[[Any], object], error: Exception, problem: str) -> Different:
    """Which part of a value fails the test, and why."""
    for step, part in parts(value):
        try:
            test(part)
        except Exception as exc:
            found = _blame(part, test, exc, problem)
            found.steps.append(step)
            return found
    kind = TypeError if isinstance(error, TypeError | msgspec.ValidationError) else ValueError
    match = _PLACE.fullmatch(text := text_of(error) or name_of(error))
    found = Different(f"{named(type(value))} {problem}: {text if match is None else match[1]}", kind)
    if match is not None:
        found.steps.append(match[2])
    return found


_PLACE = re.compile(r"(.*) - at (?:`key` in )?`\$([^`]*)`", re.DOTALL)
"""Where msgspec says that something does not fit."""


def decode_as(raw: bytes, type: Any) -> Any:
    """Converts and validates. Raises msgspec.ValidationError when the stored value does not fit the type."""
    return result_decoder(type)(raw)


def check_key(key: object) -> None:
    """Raises TypeError or ValueError for what cannot be a key."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {type(key).__name__}")
    if len(key) <= KEY_BYTES_MAX // 4 and key.isascii():
        if key:
            return
        raise ValueError("a key has at least one byte")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError("a key must be valid Unicode") from None
    if size > KEY_BYTES_MAX:
        raise ValueError(f"a key has at most {KEY_BYTES_MAX} bytes of UTF-8; this one has {size}")


def after_prefix(prefix: str) -> str | None:
    """The smallest str above every str with this prefix, or None when there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < 0x10FFFF:
            following = 0xE000 if code + 1 == 0xD800 else code + 1  # Surrogates are no characters.
            return prefix[:at] + chr(following)
    return None
