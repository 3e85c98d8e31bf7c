"""A dict in parts, for as many entries as there are objects in memory.

A dict that grows is rebuilt by the insertion that finds it full, and where entries come and go also one that does not grow:
170 ms for 500,000 entries, seen while a million objects left memory. Here that insertion rebuilds one part of many.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Final, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

PARTS: Final = 61
"""A prime: the low bits of a hash choose the place inside a part, so all of its bits have to choose the part."""


class SplitDict(MutableMapping[K, V]):
    """In no particular order. A hot path may ask `parts[hash(key) % PARTS]` itself, without the call."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[dict[K, V]] = [{} for _ in range(PARTS)]

    def __getitem__(self, key: K) -> V:
        return self.parts[hash(key) % PARTS][key]

    def __setitem__(self, key: K, value: V) -> None:
        self.parts[hash(key) % PARTS][key] = value

    def __delitem__(self, key: K) -> None:
        del self.parts[hash(key) % PARTS][key]

    def __iter__(self) -> Iterator[K]:
        for part in self.parts:
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    # These two without an exception for what is not there, as MutableMapping has them.

    @overload
    def get(self, key: K, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D, /) -> V | D: ...
    def get(self, key: K, default: object = None, /) -> object:
        return self.parts[hash(key) % PARTS].get(key, default)

    @overload
    def pop(self, key: K, /) -> V: ...
    @overload
    def pop(self, key: K, default: V | D, /) -> V | D: ...
    def pop(self, key: K, /, *default: object) -> object:
        return self.parts[hash(key) % PARTS].pop(key, *default)
