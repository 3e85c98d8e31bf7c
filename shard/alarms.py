"""Alarms: one durable wake-up per object, delivered at least once.

Guarantee: an alarm that was confirmed fires, whatever is killed; it is removed only when its handler has succeeded and that is
durable. A handler that raises is retried with growing delays, then recorded as abandoned, never silently.

An object's alarm is part of its header, so that it commits, rolls back and is deleted with everything else. Beside it stands one
row in the shard's *alarm index*, a pseudo-object whose keys begin with the due time: the rows due next are one short range,
whatever the number of alarms. Both change in the same commit.

Rule: pure. The time and the randomness are arguments.
"""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from runtime.limits import ALARM_DEATHS_ALONE
from shard.cold_reads import Done, Reader
from shard.memtable import Unknown

INDEX_KEY = b"\xfe" * 16
"""Object key of the alarm index. Object keys begin with a slot, so with a byte below 0x40."""
ABANDONED_KEY = b"\xfd" * 16
"""Object key of the alarms that were given up, the newest of each object."""

BEGUN_KEY = b"\xfc" * 16
"""Object key of the runs of handlers that have begun and not ended; see `deaths_of`."""

RETRIES_MAX = 6
RETRY_FIRST_US = 2_000_000
RETRY_JITTER = 0.25
WINDOW_ROWS = 1_000
"""Rows of the index that are read at a time; at most twice as many are in memory."""
ERROR_CHARACTERS_MAX = 1_000
"""What is kept of the text of an error."""


class Alarm(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`scheduled_us` is what the object asked for, `due_us` when the handler runs next (both Unix microseconds)."""

    scheduled_us: int
    due_us: int
    retry_count: int = 0


class Header(msgspec.Struct, array_like=True, gc=False):
    """What the runtime stores about an object, under its empty key."""

    class_name: str
    name: str
    alarm: Alarm | None = None


encode_header = msgspec.msgpack.Encoder().encode
decode_header = msgspec.msgpack.Decoder(Header).decode


@dataclass(frozen=True)
class AlarmInfo:
    """What an alarm handler is told."""

    scheduled_for: datetime.datetime
    """The time that was set, in UTC. The handler never runs before it."""
    retry_count: int
    """How many earlier runs of this alarm raised."""


def info_of(alarm: Alarm) -> AlarmInfo:
    return AlarmInfo(to_datetime(alarm.scheduled_us), alarm.retry_count)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


def to_datetime(unix_us: int) -> datetime.datetime:
    return _EPOCH + unix_us * _MICROSECOND


def to_unix_us(when: datetime.datetime | datetime.timedelta | float, now_us: int) -> int:
    """Raises TypeError or ValueError for what is no time."""
    try:
        if isinstance(when, datetime.timedelta):
            unix_us = now_us + when // _MICROSECOND
        elif isinstance(when, datetime.datetime):
            if when.utcoffset() is None:
                raise ValueError("an alarm needs a datetime with a time zone, for instance datetime.now(UTC) + ...")
            unix_us = (when - _EPOCH) // _MICROSECOND
        elif isinstance(when, int | float) and not isinstance(when, bool):
            unix_us = round(when * 1_000_000)  # Raises for nan and inf.
        else:
            raise TypeError(f"an alarm is set for a datetime, a timedelta or Unix seconds, not {type(when).__name__}")
        to_datetime(unix_us)
    except OverflowError:
        raise ValueError(f"an alarm cannot be set for {when}: it is not between the years 1 and 9999") from None
    return unix_us


def retried(alarm: Alarm, now_us: int, jitter: float) -> Alarm | None:
    """The alarm after one more failure: 2·2ⁿ s later, plus 0 to 25 % (`jitter` from 0 to 1); None when it is given up."""
    if alarm.retry_count >= RETRIES_MAX:
        return None
    delay_us = (RETRY_FIRST_US << alarm.retry_count) * (1 + RETRY_JITTER * jitter)
    return Alarm(alarm.scheduled_us, now_us + int(delay_us), alarm.retry_count + 1)


# The index


class Due(NamedTuple):
    """One row of the index. Sorts by time."""

    due_us: int
    object_key: bytes
    class_name: str
    name: str

    @property
    def row_key(self) -> str:
        return index_row_key(self.due_us, self.object_key)


def index_row_key(due_us: int, object_key: bytes) -> str:
    return f"{max(due_us, 0):016x}{object_key.hex()}"


def index_writes(
    object_key: bytes, before_us: int | None, after_us: int | None, class_name: str, name: str
) -> dict[str, bytes | None]:
    """What changes in the index when an object's alarm moves."""
    writes: dict[str, bytes | None] = {}
    if before_us is not None:
        writes[index_row_key(before_us, object_key)] = None
    if after_us is not None:
        writes[index_row_key(after_us, object_key)] = msgspec.msgpack.encode((class_name, name))
    return writes


class IndexStore(Protocol):
    reader: Reader | None

    def get(self, object_key: bytes, key: str) -> bytes | None: ...

    def recall(self, object_key: bytes, key: str) -> bytes | Unknown | None: ...

    def scan(
        self, object_key: bytes, start: str | None, end: str | None, *, reverse: bool, limit: int | None
    ) -> list[tuple[str, bytes]]: ...

    def fetch_range(
        self, object_key: bytes, start: str | None, end: str | None, reverse: bool, limit: int | None, done: Done
    ) -> None: ...


class ShardAlarms:
    """The pending alarms of one shard: the next ones in memory, all of them in the index.

    Every row of the index before `_horizon` is in the heap. What else is there is stale: `take_due` asks the index again.
    The first window is read at once; later ones may be on disk only, and then wait until a reader has touched them."""

    def __init__(self, store: IndexStore, touched: Callable[[], object]) -> None:
        """`touched`: what could not be told before can be told now."""
        self._store = store
        self._tell_touched = touched
        self._touching = False
        self._in_memory = True
        self._heap: list[Due] = []
        self._horizon: str | None = ""
        """None: the heap has every row there is."""

    def note(self, due: Due) -> None:
        """An alarm that has become durable."""
        if self._horizon is None or due.row_key < self._horizon:
            heapq.heappush(self._heap, due)
            if len(self._heap) > 2 * WINDOW_ROWS:
                self._heap = heapq.nsmallest(WINDOW_ROWS, self._heap)
                self._horizon = self._heap[-1].row_key + "\0"

    def next_due_us(self) -> int | None:
        """None: no alarm is pending, or it is being fetched."""
        if not self._heap and self._horizon is not None:
            self._load()
        return self._heap[0].due_us if self._heap else None

    def _load(self) -> None:
        """Reads the next window of the index, once it is in memory."""
        if self._store.reader is not None and not self._in_memory:
            if not self._touching:
                self._touching = True
                self._store.fetch_range(INDEX_KEY, self._horizon or None, None, False, WINDOW_ROWS, self._touched)
            return
        self._in_memory = False
        rows = self._store.scan(INDEX_KEY, self._horizon or None, None, reverse=False, limit=WINDOW_ROWS)
        self._heap = [Due(int(key[:16], 16), bytes.fromhex(key[16:]), *msgspec.msgpack.decode(raw)) for key, raw in rows]
        self._horizon = rows[-1][0] + "\0" if len(rows) == WINDOW_ROWS else None

    def _touched(self, *_: Any) -> None:
        """What was read is thrown away: it is as of when it was asked, and alarms have been noted since."""
        self._touching, self._in_memory = False, True
        self._tell_touched()

    def take_due(self, now_us: int, most: int) -> list[Due]:
        """Removes and returns at most so many alarms that are due, the oldest first; they are in the index still. An alarm
        that was noted more than once may come more than once."""
        taken: list[Due] = []
        while len(taken) < most and (due_us := self.next_due_us()) is not None and due_us <= now_us:
            due = heapq.heappop(self._heap)
            if is_pending(self._store, due):
                taken.append(due)
        return taken


def is_pending(store: IndexStore, due: Due) -> bool:
    """Whether the alarm stands in the index, unmoved. Where only the disk knows, it may: its object will find out."""
    ask = store.get if store.reader is None else store.recall
    return ask(INDEX_KEY, due.row_key) is not None


def pending_alarm(store: IndexStore, object_key: bytes) -> Alarm | None:
    """The object's alarm, as far as it is durable."""
    header = store.get(object_key, "")
    return None if header is None else decode_header(header).alarm


def object_name(store: IndexStore, object_key: bytes) -> str:
    header = store.get(object_key, "")
    return "?" if header is None else "{0.class_name}/{0.name}".format(decode_header(header))


# Runs that have begun
#
# Before a handler runs it is marked here: by its object, with the number of processes that have died while it ran if this one
# does. Whatever ends the run, even a failure, takes the mark back. So what a new process finds are the runs that died.


def begun_row(object_key: bytes, deaths: int) -> tuple[str, bytes | None]:
    return object_key.hex(), bytes([deaths]) if deaths else None


def deaths_of(store: IndexStore) -> dict[bytes, int]:
    """By object: how many processes have died while the handler of its alarm ran, one after another."""
    return {bytes.fromhex(key): raw[0] for key, raw in store.scan(BEGUN_KEY, None, None, reverse=False, limit=None)}


def pause_after_us(deaths: int) -> int:
    return RETRY_FIRST_US << max(0, deaths - ALARM_DEATHS_ALONE)


# Alarms that were given up


class Abandoned(msgspec.Struct, frozen=True, gc=False):
    class_name: str
    name: str
    scheduled_for: datetime.datetime
    abandoned_at: datetime.datetime
    error: str
    deaths: int = 0
    """Processes that have died while the handler ran."""


def abandoned_now(class_name: str, name: str, alarm: Alarm, error: str, now_us: int, deaths: int = 0) -> Abandoned:
    times = to_datetime(alarm.scheduled_us), to_datetime(now_us)
    return Abandoned(class_name, name, *times, error[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode(), deaths)


def set_again(abandoned: Abandoned, now_us: int) -> Alarm:
    """The same alarm, for now."""
    return Alarm((abandoned.scheduled_for - _EPOCH) // _MICROSECOND, now_us)


def abandoned_row(object_key: bytes, abandoned: Abandoned) -> tuple[str, bytes]:
    """Key and value under which an alarm is recorded that was given up."""
    return object_key.hex(), msgspec.msgpack.encode(abandoned)


def abandoned_alarm(store: IndexStore, object_key: bytes) -> Abandoned | None:
    raw = store.get(ABANDONED_KEY, object_key.hex())
    return None if raw is None else msgspec.msgpack.decode(raw, type=Abandoned)


def abandoned_alarms(store: IndexStore, limit: int) -> list[Abandoned]:
    rows = store.scan(ABANDONED_KEY, None, None, reverse=False, limit=limit)
    return [msgspec.msgpack.decode(raw, type=Abandoned) for _, raw in rows]
