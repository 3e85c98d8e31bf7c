"""Values as the cache keeps them: a scalar, `Encoded`, `Passing`, or ABSENT."""

from __future__ import annotations

from typing import Any, Final

from tidegate.shard.core.codec import SCALARS, Encoded, decode, encode


class Sentinel:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ABSENT: Final = Sentinel("ABSENT")
"""Cached: the key is known not to exist."""
MISS: Final = Sentinel("MISS")
"""Not cached."""


class Passing(Encoded):
    """A value that leaves the cache when it is durable. Never a scalar, so that a read of it takes notice."""

    __slots__ = ()


def restore(raw: bytes) -> Any:
    """A stored value as the cache keeps it."""
    value = decode(raw)
    return value if value.__class__ in SCALARS else Encoded(raw)


def to_raw(value: Any) -> bytes:
    return encode(value) if value.__class__ in SCALARS else value.raw


def size_of(value: Any) -> int:
    """What it takes beside an entry of the cache."""
    kind = value.__class__
    if kind is Encoded:
        return len(value.raw)
    if kind is str or kind is bytes:
        return len(value)
    return len(value.raw) if kind is Passing else 0
