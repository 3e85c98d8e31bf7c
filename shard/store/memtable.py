"""Durable writes of one shard which its LMDB environment has not got yet.

Rule 1: pure; it knows neither log nor LMDB.
Rule 2: it says "unknown" (`UNKNOWN`) where something older must be asked, and never guesses.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from tidegate.shard.store.interface import HEADER, UNKNOWN, ObjectWrites, Unknown
from tidegate.shard.store.names import FreshNames

ENTRY_OVERHEAD_BYTES = 120
"""Estimate of what a dict entry with its two Python objects takes beyond the bytes of key and value."""
OBJECT_OVERHEAD_BYTES = 300


class Memtable:
    """The newest value of every key written since the memtable was new. Only one thread touches it."""

    __slots__ = ("_sorted", "entries", "fresh", "named", "objects", "size_bytes")

    def __init__(self) -> None:
        self.objects: dict[bytes, ObjectWrites] = {}
        """By object key, in no particular order. To be changed by this class only."""
        self._sorted: dict[bytes, list[str]] = {}  # Keys in order, of the objects that were scanned.
        self.entries = 0
        self.size_bytes = 0
        """Estimate of the memory held."""
        self.named: list[bytes] = []
        """Objects that may have come into being since the memtable was new, in the order in which they did. Very many are written
        and few are made; who asks for names does not look at the others."""
        self.fresh: FreshNames | None = None
        """Once somebody has asked for names."""

    def __bool__(self) -> bool:
        return bool(self.objects)

    def apply(self, objects: Iterable[ObjectWrites]) -> None:
        """Takes over `objects` and their dicts: the caller must not touch them again (no copy, this is the hot path)."""
        held_by_key = self.objects
        for change in objects:
            key = change.key
            held = held_by_key.get(key)
            if held is None:
                held_by_key[key] = change
                writes = change.writes
                if len(writes) == 1:  # What `_count_object` does, for what most calls write.
                    ((name, value),) = writes.items()
                    size = OBJECT_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES + len(name)
                    self.size_bytes += size if value is None else size + len(value)
                    self.entries += 1
                else:
                    self._count_object(change, 1)
                if change.cleared or HEADER in writes:
                    self.named.append(key)
            elif change.cleared:
                if not held.cleared and HEADER not in held.writes:
                    self.named.append(key)
                self._count_object(held, -1)
                held_by_key[key] = change
                self._count_object(change, 1)
                self._sorted.pop(key, None)
            elif len(change.writes) == 1:  # One value in the place of another: what most commits bring.
                ((name, value),) = change.writes.items()
                old = held.writes.get(name)
                if old is None or value is None:
                    self._merge(held.writes, change)
                else:
                    self.size_bytes += len(value) - len(old)
                    held.writes[name] = value
            else:
                self._merge(held.writes, change)

    def _merge(self, writes: dict[str, bytes | None], change: ObjectWrites) -> None:
        grown = 0
        for key, value in change.writes.items():
            old = writes.get(key, UNKNOWN)
            if old is UNKNOWN:
                grown += ENTRY_OVERHEAD_BYTES + len(key)
                self.entries += 1
                if key == HEADER:
                    self.named.append(change.key)
                if self._sorted and (ordered := self._sorted.get(change.key)) is not None:
                    insort(ordered, key)
            elif old is not None:
                grown -= len(old)
            if value is not None:
                grown += len(value)
            writes[key] = value
        if grown:
            self.size_bytes += grown

    def _count_object(self, change: ObjectWrites, sign: int) -> None:
        size = OBJECT_OVERHEAD_BYTES
        for key, value in change.writes.items():
            size += ENTRY_OVERHEAD_BYTES + len(key)
            if value is not None:
                size += len(value)
        self.size_bytes += sign * size
        self.entries += sign * len(change.writes)

    def get(self, object_key: bytes, key: str) -> bytes | Unknown | None:
        """The value, None if the key is known to be absent, `UNKNOWN` if this memtable does not say."""
        held = self.objects.get(object_key)
        if held is None:
            return UNKNOWN
        return held.writes.get(key, None if held.cleared else UNKNOWN)

    def has(self, object_key: bytes) -> bool:
        return object_key in self.objects

    def hides_older(self, object_key: bytes) -> bool:
        """Whether the object was cleared here, so that nothing older counts."""
        held = self.objects.get(object_key)
        return held is not None and held.cleared

    def rows(self, object_key: bytes, start: str, end: str | None, reverse: bool) -> Iterator[tuple[str, bytes | None]]:
        """The written keys in [start, end) in order, deleted ones too. Sorting is paid once per object, then kept up."""
        held = self.objects.get(object_key)
        if held is None:
            return
        ordered = self._sorted.get(object_key)
        if ordered is None:
            ordered = self._sorted[object_key] = sorted(held.writes)  # By code point, which is UTF-8 byte order.
        low = bisect_left(ordered, start)
        high = len(ordered) if end is None else bisect_left(ordered, end)
        writes = held.writes
        for index in range(high - 1, low - 1, -1) if reverse else range(low, high):
            key = ordered[index]
            yield key, writes[key]

    def discard_some(self, entries_max: int) -> bool:
        """Frees at most so many entries, or as many names; whether any are left. A million at once would stop the loop for a
        third of a second. The memtable is useless afterwards."""
        self._sorted.clear()
        objects = self.objects
        while objects and entries_max > 0:
            object_key, held = objects.popitem()
            writes = held.writes
            if len(writes) > entries_max:
                for _ in range(entries_max):
                    writes.popitem()
                objects[object_key] = held
                return True
            entries_max -= 1 + len(writes)
        if not objects and entries_max > 0:
            if self.named:
                del self.named[-entries_max:]
            elif self.fresh is not None and not self.fresh.discard_some(entries_max):
                self.fresh = None
        return bool(objects or self.named or self.fresh)

    def pour(self, upper: Memtable, objects_max: int) -> bool:
        """Takes over at most so many objects of `upper`, which counts over this one; whether any are left there."""
        while upper.objects and objects_max > 0:
            key, held = upper.objects.popitem()
            upper._count_object(held, -1)
            upper._sorted.pop(key, None)
            self.apply([held])
            objects_max -= 1
        if upper.objects:
            return True
        upper.named.clear()
        upper.fresh = None  # Not before: some of what it has seen was here, where nobody may have looked since.
        return False

    def check_invariants(self) -> None:
        """Recomputes what is kept up incrementally."""
        probe = Memtable()
        for held in self.objects.values():
            probe._count_object(held, 1)
        assert (probe.entries, probe.size_bytes) == (self.entries, self.size_bytes), (probe.size_bytes, self.size_bytes)
        for object_key, ordered in self._sorted.items():
            assert ordered == sorted(self.objects[object_key].writes), object_key


def merge_over(
    upper: Iterator[tuple[str, bytes | None]], lower: Iterator[tuple[str, bytes | None]], reverse: bool
) -> Iterator[tuple[str, bytes | None]]:
    """The rows of both, in order; where both have a key, the upper one's row."""
    above, below = next(upper, None), next(lower, None)
    while above is not None and below is not None:
        if above[0] == below[0]:
            yield above
            above, below = next(upper, None), next(lower, None)
        elif (above[0] < below[0]) is not reverse:
            yield above
            above = next(upper, None)
        else:
            yield below
            below = next(lower, None)
    if above is not None:
        yield above
        yield from upper
    if below is not None:
        yield below
        yield from lower
