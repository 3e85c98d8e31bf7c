"""What an open transaction has written, over the cache or over the transaction around it.

Guarantee: nothing of a layer is visible outside the transaction, or committed, before it is merged; merging takes one step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tidegate.runtime.limits import OBJECT_DIRTY_BYTES_MAX
from tidegate.shard.core.alarms import Alarm
from tidegate.shard.core.cache import WRITE_BYTES, ObjectCache, Rows, Unread
from tidegate.shard.core.values import ABSENT, MISS, Sentinel


class Layer:
    __slots__ = ("alarm", "alarm_confirmed", "below", "cleared", "cleared_confirmed", "dropped", "writes")

    def __init__(self, below: Layer | None) -> None:
        self.below = below
        self.dropped = False
        """Rolled back."""
        self.cleared = False
        """Everything below is deleted."""
        self.cleared_confirmed = False
        self.alarm: Alarm | Sentinel | None = MISS
        """MISS while the transaction has not changed it."""
        self.alarm_confirmed = False
        self.writes: dict[str, tuple[bytes | None, Any, bool, bool]] = {}
        """By key: bytes (None: deleted), the value as the cache keeps it, whether messages wait for it, whether the cache is to
        forget it once it is durable."""

    def find(self, key: str) -> Any:
        """The value written here, ABSENT, or MISS when a lower layer has to answer."""
        entry = self.writes.get(key)
        if entry is not None:
            return entry[1]
        return ABSENT if self.cleared else MISS

    def write(self, key: str, raw: bytes, value: Any, confirmed: bool) -> None:
        self.writes[key] = (raw, value, confirmed, False)

    def write_passing(self, key: str, raw: bytes, value: Any, confirmed: bool) -> None:
        self.writes[key] = (raw, value, confirmed, True)

    def delete(self, key: str, *, confirmed: bool, no_cache: bool = False) -> None:
        self.writes[key] = (None, ABSENT, confirmed, no_cache)

    def clear(self, *, confirmed: bool) -> None:
        self.writes = {}
        self.cleared = True
        self.cleared_confirmed |= confirmed
        self.alarm = None

    def set_alarm(self, alarm: Alarm | None, *, confirmed: bool) -> None:
        self.alarm = alarm
        self.alarm_confirmed |= confirmed

    def scan(self, cache: ObjectCache, start: str | None, end: str | None, *, reverse: bool, limit: int | None) -> Rows | Unread:
        """The range as the transaction sees it. Unread: what is below has to be fetched."""
        merged: dict[str, Any] = {}
        layer: Layer | None = self
        while layer is not None:
            for key, (_, value, _, _) in layer.writes.items():
                if (start is None or key >= start) and (end is None or key < end):
                    merged.setdefault(key, value)
            if layer.cleared:
                break
            layer = layer.below
        else:
            asked = None if limit is None else limit + len(merged)
            below = cache.scan(start, end, reverse=reverse, limit=asked)
            if isinstance(below, Unread):
                return Unread(below.limit, partial(_over_fetched, merged, reverse, limit, below))
            return _over(merged, below, reverse, limit)
        return _over(merged, [], reverse, limit)

    def merge_into(self, below: Layer | ObjectCache) -> None:
        """Raises ValueError, and changes nothing, when it is too much for one commit."""
        if isinstance(below, ObjectCache):
            size = sum(WRITE_BYTES + len(key) + len(raw or b"") for key, (raw, *_) in self.writes.items())
            try:
                below.check_room(size)
            except ValueError:
                mib = OBJECT_DIRTY_BYTES_MAX >> 20
                text = f"the transaction writes {size} bytes; at most {mib} MiB can be committed at once, so it was rolled back"
                raise ValueError(text) from None
        if self.cleared:
            below.clear(confirmed=self.cleared_confirmed)
        for key, (raw, value, confirmed, no_cache) in self.writes.items():
            if raw is None:
                below.delete(key, confirmed=confirmed, no_cache=no_cache)
            elif no_cache:
                below.write_passing(key, raw, value, confirmed)
            else:
                below.write(key, raw, value, confirmed)
        if not isinstance(self.alarm, Sentinel):
            below.set_alarm(self.alarm, confirmed=self.alarm_confirmed)


def _over_fetched(
    written: dict[str, Any], reverse: bool, limit: int | None, below: Unread, rows: list[tuple[str, bytes]]
) -> Rows:
    return _over(written, below.finish(rows), reverse, limit)


def _over(written: dict[str, Any], below: Rows, reverse: bool, limit: int | None) -> Rows:
    merged = {**dict(below), **written}
    keys = sorted((key for key, value in merged.items() if value is not ABSENT), reverse=reverse)
    return [(key, merged[key]) for key in keys[:limit]]
