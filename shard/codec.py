"""Values as they are stored: MessagePack, and only what comes back equal.

What `get` returns equals what was `put`, or `put` refuses (contract, section 4). Stored values are snapshots: nothing that
user code mutates is shared with the cache.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

import msgspec

from runtime.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX, VALUE_DEPTH_MAX

SCALARS = frozenset({type(None), bool, int, float, str, bytes})
"""Immutable, and carried by MessagePack without loss: kept in the cache as they are."""

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


def encode_value(value: Any) -> bytes:
    """The bytes of a value that is not a scalar. Raises TypeError for what would come back as something else, ValueError
    for what is too large or too deep."""
    try:
        _check(value, VALUE_DEPTH_MAX)
        raw = encode(value)
    except RecursionError:
        raise ValueError("the value is nested too deeply, or contains itself") from None
    except (OverflowError, UnicodeEncodeError) as exc:
        raise ValueError(f"the value cannot be stored: {exc}") from None
    check_size(raw)
    return raw


def check_size(raw: bytes) -> None:
    if len(raw) > VALUE_BYTES_MAX:
        raise ValueError(f"the value has {len(raw)} bytes encoded; the limit is {VALUE_BYTES_MAX}")


def _check(value: Any, levels: int) -> None:
    kind = value.__class__
    if kind in SCALARS:
        return
    if levels == 0:
        raise ValueError(f"the value is nested too deeply (limit {VALUE_DEPTH_MAX}), or contains itself")
    if kind is list:
        for item in value:
            if item.__class__ not in SCALARS:
                _check(item, levels - 1)
    elif kind is dict:
        for key, item in value.items():
            if key.__class__ not in SCALARS:
                raise TypeError(f"a dict key of type {key.__class__.__name__} would not come back as it is")
            if item.__class__ not in SCALARS:
                _check(item, levels - 1)
    elif kind is datetime.datetime:
        if value.utcoffset() is None:
            raise TypeError("a datetime without a time zone would come back as text; give it one, for instance tzinfo=UTC")
    elif not (isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(kind)):
        raise TypeError(
            f"a {kind.__name__} would not come back as it is; store None, bool, int, float, str, bytes, an aware datetime, "
            "a list or dict of these, or a dataclass or Struct (read it back with type=)"
        )


_typed_decoders: dict[Any, Callable[[bytes], Any]] = {}


def decode_as(raw: bytes, type: Any) -> Any:
    """Converts and validates. Raises msgspec.ValidationError when the stored value does not fit the type."""
    decoder = _typed_decoders.get(type)
    if decoder is None:
        decoder = _typed_decoders[type] = msgspec.msgpack.Decoder(type).decode
    return decoder(raw)


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
