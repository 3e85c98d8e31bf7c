"""A dict in parts, for as many entries as there are objects in memory.

A dict that grows is rebuilt by the insertion that finds it full, and where entries come and go also one that does not grow:
170 ms for 500,000 entries, seen while a million objects left memory. Here, of many, that insertion rebuilds one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Final, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

WHOLE_MAX: Final = 32_768
"""Up to so many entries it is one dict, which is rebuilt within 3 ms. The next one splits it, once, in 9 ms."""
PARTS: Final = 61
"""A prime: the low bits of a hash choose the place inside a part, so all of its bits have to choose the part."""


class SplitDict(MutableMapping[K, V]):
    """In no particular order. Once split it stays so."""

    __slots__ = ("_parts", "find")

    def __init__(self) -> None:
        whole: dict[K, V] = {}
        self._parts = [whole]
        self.find: Callable[[K], V | None] = whole.get
        """`get` for hot paths: while there are few entries it costs what it costs of a dict."""

    def _split(self) -> None:
        (whole,) = self._parts
        self._parts = [{} for _ in range(PARTS)]
        self.find = self.get
        for key, value in whole.items():
            self._part(key)[key] = value

    def _part(self, key: K) -> dict[K, V]:
        parts = self._parts
        return parts[hash(key) % len(parts)]

    def __getitem__(self, key: K) -> V:
        return self._part(key)[key]

    def __setitem__(self, key: K, value: V) -> None:
        parts = self._parts
        part = parts[hash(key) % len(parts)]
        part[key] = value
        if len(part) > WHOLE_MAX and len(parts) == 1:
            self._split()

    def add(self, key: K, value: V) -> None:
        """One that is not there."""
        parts = self._parts
        part = parts[hash(key) % len(parts)]
        assert key not in part
        part[key] = value
        if len(part) > WHOLE_MAX and len(parts) == 1:
            self._split()

    def __delitem__(self, key: K) -> None:
        parts = self._parts
        del parts[hash(key) % len(parts)][key]

    def __iter__(self) -> Iterator[K]:
        for part in self._parts:
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    # MutableMapping has these two as well, at the price of an exception for what is not there.

    @overload
    def get(self, key: K, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D, /) -> V | D: ...
    def get(self, key: K, default: object = None, /) -> object:
        parts = self._parts  # `_part`, without the call: once split, this is the hot path.
        return parts[hash(key) % len(parts)].get(key, default)

    @overload
    def pop(self, key: K, /) -> V: ...
    @overload
    def pop(self, key: K, default: V | D, /) -> V | D: ...
    def pop(self, key: K, /, *default: object) -> object:
        return self._part(key).pop(key, *default)
