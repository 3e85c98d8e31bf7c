"""Alarms: one durable wake-up per object, delivered at least once.

Guarantee: an alarm that was confirmed fires, whatever is killed; it is removed only when its handler has succeeded and that is
durable. A handler that raises is retried with growing delays, then recorded as abandoned, never silently.

An object's alarm is part of its header, so that it commits, rolls back and is deleted with everything else. Beside it stands one
row in the shard's *alarm index*, a pseudo-object whose keys begin with the due time: the rows due next are one short range,
whatever the number of alarms. Both change in the same commit.

An alarm that is set for a time is due by the wall clock; one that is set relative to now, and every retry, by *steady time* (see
`tidegate.shard.core.steady`), so that it keeps its distance when the wall clock is set. Each kind has an index of its own.

Rule: pure. The time and the randomness are arguments.
"""

from __future__ import annotations

import contextlib
import datetime
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from tidegate.runtime.limits import ALARM_DEATHS_ALONE
from tidegate.shard.store.interface import Done, Reader, ShardDamaged, Unknown

INDEX_KEY = b"\xfe" * 16
"""Object key of the alarm index. Object keys begin with a slot, so with a byte below 0x40."""
STEADY_INDEX_KEY = b"\xfb" * 16
"""The same for those that are due by steady time."""
STEADY_KEY = b"\xfa" * 16
"""Object key of what has to be known of the shard's steady time."""
AHEAD = "ahead"
"""Key of how far it is ahead of the wall clock."""
ABANDONED_KEY = b"\xfd" * 16
"""Object key of the alarms that were given up, the newest of each object."""

BEGUN_KEY = b"\xfc" * 16
"""Object key of the runs of handlers that have begun and not ended; see `deaths_of`."""

RETRIES_MAX = 6
RETRY_FIRST_US = 2_000_000
"""Both as in Cloudflare's: 2 s after the first failure, then twice as long each time."""
RETRY_JITTER = 0.25
WINDOW_ROWS = 1_000
"""Rows of the index that are read at a time; at most twice as many are in memory."""
ERROR_CHARACTERS_MAX = 1_000
"""What is kept of the text of an error."""


class Alarm(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`scheduled_us` is what the object asked for, `due_us` when the handler runs next (both microseconds)."""

    scheduled_us: int
    due_us: int
    retry_count: int = 0
    set_us: int | None = None
    """In steady time, when it was set or last failed: then `due_us` is steady time, too. None: `due_us` is Unix time."""
    relative: bool = False
    """`scheduled_us` is steady time, too."""

    @property
    def is_steady(self) -> bool:
        return self.set_us is not None


class Header(msgspec.Struct, array_like=True, gc=False):
    """What the runtime stores about an object, under its empty key."""

    class_name: str
    name: str
    alarm: Alarm | None = None


encode_header = msgspec.msgpack.Encoder().encode
decode_header = msgspec.msgpack.Decoder(Header).decode


@dataclass(frozen=True)
class AlarmInfo:
    """What an alarm handler is told: `async def alarm(self, info: AlarmInfo)`. One that raises is run again after 2 s, 4 s, 8 s …
    and up to a quarter more, six times, and is then abandoned: `tidegate alarms` lists it."""

    scheduled_for: datetime.datetime
    """The time that was set, in UTC. The handler never runs before it."""
    retry_count: int
    """How many earlier runs of this alarm raised."""


def scheduled_for(alarm: Alarm, ahead_us: int) -> datetime.datetime:
    """What the object asked for. `ahead_us`: how far steady time is ahead of the wall clock."""
    return to_datetime(alarm.scheduled_us - ahead_us * alarm.relative)


def shown_for(alarm: Alarm, ahead_us: int) -> datetime.datetime:
    """What `get_alarm` tells: when it rings or, while a retry is pending, what was asked for."""
    return scheduled_for(alarm, ahead_us) if alarm.retry_count else to_datetime(alarm.due_us - ahead_us * alarm.is_steady)


def info_of(alarm: Alarm, ahead_us: int = 0) -> AlarmInfo:
    return AlarmInfo(scheduled_for(alarm, ahead_us), alarm.retry_count)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


def to_datetime(unix_us: int) -> datetime.datetime:
    return _EPOCH + unix_us * _MICROSECOND


UNIX_S_MIN, UNIX_S_END = 1_000_000_000, 253_402_300_800
"""Numbers from September 2001 to the end of 9999 can be meant as Unix time."""


def alarm_for(when: datetime.datetime | datetime.timedelta | float, now_us: int, steady_us: int) -> Alarm:
    """The alarm that is set for that, now by both clocks. A past time means now. Raises TypeError or ValueError for what is no
    time."""
    asked_us = to_unix_us(when, now_us)
    if not isinstance(when, datetime.timedelta):
        return Alarm(asked_us, max(asked_us, now_us))
    scheduled_us = steady_us + asked_us - now_us
    return Alarm(scheduled_us, max(scheduled_us, steady_us), 0, steady_us, relative=True)


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
            unix_us = _unix_us_of_number(when)
        else:
            kind = type(when).__name__
            hint = "; datetime.fromisoformat makes a datetime of a text" if kind == "str" else ""
            raise TypeError(f"an alarm is set for a datetime, a timedelta or Unix seconds, not {kind}{hint}")
        to_datetime(unix_us)
    except OverflowError:
        raise ValueError(f"an alarm cannot be set for {when}: it is not between the years 1 and 9999") from None
    return unix_us


def _unix_us_of_number(number: float) -> int:
    if UNIX_S_MIN <= number < UNIX_S_END:
        return round(number * 1_000_000)
    ways = "datetime.timedelta(seconds=…) from now, a datetime with a time zone, or Unix seconds as time.time() gives them"
    if isinstance(number, float) and not math.isfinite(number):
        problem = "is no time"
    elif UNIX_S_END <= number < UNIX_S_END * 1_000:
        problem = "as Unix seconds is far beyond the year 9999; milliseconds have to be divided by 1000"
    elif number >= UNIX_S_END:
        problem = "as Unix seconds is beyond the year 9999"
    else:
        problem = "as Unix seconds is long past, before September 2001"
    text = "such a large number" if 1e30 < abs(number) < math.inf else repr(number)
    raise ValueError(f"an alarm cannot be set for {text}, which {problem}; write {ways}")


def retried(alarm: Alarm, now_us: int, jitter: float) -> Alarm | None:
    """The alarm after one more failure: 2·2ⁿ s later in steady time, plus 0 to 25 % (`jitter` from 0 to 1); None when it is
    given up."""
    if alarm.retry_count >= RETRIES_MAX:
        return None
    delay_us = (RETRY_FIRST_US << alarm.retry_count) * (1 + RETRY_JITTER * jitter)
    return Alarm(alarm.scheduled_us, now_us + int(delay_us), alarm.retry_count + 1, now_us, alarm.relative)


# The index


class Due(NamedTuple):
    """One row of an index. Sorts by time."""

    due_us: int
    object_key: bytes
    class_name: str
    name: str
    set_us: int | None = None
    """As in `Alarm`."""

    @property
    def row_key(self) -> str:
        return index_row_key(self.due_us, self.object_key)


def index_row_key(due_us: int, object_key: bytes) -> str:
    return f"{max(due_us, 0):016x}{object_key.hex()}"


def index_changes(
    object_key: bytes, before: Alarm | None, after: Alarm | None, class_name: str, name: str
) -> dict[bytes, dict[str, bytes | None]]:
    """What changes in the indexes when an object's alarm moves."""
    changes = {}
    for steady, index_key in ((False, INDEX_KEY), (True, STEADY_INDEX_KEY)):
        before_us = before.due_us if before is not None and before.is_steady == steady else None
        after_us = after.due_us if after is not None and after.is_steady == steady else None
        if before_us is not None or after_us is not None:
            set_us = None if after is None else after.set_us
            changes[index_key] = index_writes(object_key, before_us, after_us, class_name, name, set_us)
    return changes


def index_writes(
    object_key: bytes, before_us: int | None, after_us: int | None, class_name: str, name: str, set_us: int | None = None
) -> dict[str, bytes | None]:
    """The same in one index."""
    writes: dict[str, bytes | None] = {}
    if before_us is not None:
        writes[index_row_key(before_us, object_key)] = None
    if after_us is not None:
        writes[index_row_key(after_us, object_key)] = msgspec.msgpack.encode(
            (class_name, name) if set_us is None else (class_name, name, set_us)
        )
    return writes


class IndexStore(Protocol):
    reader: Reader | None

    def get(self, object_key: bytes, key: str) -> bytes | None: ...

    def recall(self, object_key: bytes, key: str) -> bytes | Unknown | None: ...

    def scan(
        self, object_key: bytes, start: str | None, end: str | None, *, reverse: bool, limit: int | None
    ) -> list[tuple[str, bytes]]: ...

    def scan_now(
        self, object_key: bytes, start: str | None, end: str | None, *, reverse: bool, limit: int | None
    ) -> list[tuple[str, bytes]] | None: ...

    def fetch_range(
        self, object_key: bytes, start: str | None, end: str | None, reverse: bool, limit: int | None, done: Done
    ) -> None: ...


class ShardAlarms:
    """The pending alarms of one shard and kind: the next ones in memory, all of them in the index.

    Every row of the index before `_horizon` is in the heap. What else is there is stale: `take_due` asks the index again.
    The first window is read at once; later ones may be on disk only, and then wait until a reader has touched them."""

    def __init__(
        self,
        store: IndexStore,
        touched: Callable[[], object],
        index_key: bytes = INDEX_KEY,
        set_at: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`touched`: what could not be told before can be told now. `set_at` is told when the newest of the alarms was set."""
        self._store = store
        self._index_key = index_key
        self._tell_set_at = set_at
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
        scan = self._store.scan if self._in_memory else self._store.scan_now
        rows: list[tuple[str, bytes]] | None
        try:
            rows = scan(self._index_key, self._horizon or None, None, reverse=False, limit=WINDOW_ROWS)
        except ShardDamaged:  # It is about to be stopped: nothing of it rings.
            rows = []
        if rows is None:
            if not self._touching:
                self._touching = True
                self._store.fetch_range(self._index_key, self._horizon or None, None, False, WINDOW_ROWS, self._touched)
            return
        self._in_memory = False
        self._heap = [Due(int(key[:16], 16), bytes.fromhex(key[16:]), *msgspec.msgpack.decode(raw)) for key, raw in rows]
        self._horizon = rows[-1][0] + "\0" if len(rows) == WINDOW_ROWS else None
        if set_at := [due.set_us for due in self._heap if due.set_us is not None]:
            self._tell_set_at(max(set_at))

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
            with contextlib.suppress(ShardDamaged):
                if is_pending(self._store, due, self._index_key):
                    taken.append(due)
        return taken


def is_pending(store: IndexStore, due: Due, index_key: bytes = INDEX_KEY) -> bool:
    """Whether the alarm stands in the index, unmoved. Where only the disk knows, it may: its object will find out."""
    ask = store.get if store.reader is None else store.recall
    return ask(index_key, due.row_key) is not None


def pending_alarm(store: IndexStore, object_key: bytes) -> Alarm | None:
    """The object's alarm, as far as it is durable."""
    header = store.get(object_key, "")
    return None if header is None else decode_header(header).alarm


def stored_ahead_us(store: IndexStore) -> int:
    """How far the shard's steady time is ahead of the wall clock."""
    raw = store.get(STEADY_KEY, AHEAD)
    return 0 if raw is None else msgspec.msgpack.decode(raw, type=int)


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

    @property
    def told_at(self) -> str:
        """`abandoned_at`, as operators are told."""
        return self.abandoned_at.isoformat(timespec="seconds")


def abandoned_now(
    class_name: str, name: str, scheduled: datetime.datetime, error: str, now_us: int, deaths: int = 0
) -> Abandoned:
    times = scheduled, to_datetime(now_us)
    return Abandoned(class_name, name, *times, error[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode(), deaths)


def set_again(abandoned: Abandoned, now_us: int) -> Alarm:
    """The same alarm, for now in steady time."""
    return Alarm((abandoned.scheduled_for - _EPOCH) // _MICROSECOND, now_us, 0, now_us)


def abandoned_row(object_key: bytes, abandoned: Abandoned) -> tuple[str, bytes]:
    """Key and value under which an alarm is recorded that was given up."""
    return object_key.hex(), msgspec.msgpack.encode(abandoned)


def abandoned_alarm(store: IndexStore, object_key: bytes) -> Abandoned | None:
    raw = store.get(ABANDONED_KEY, object_key.hex())
    return None if raw is None else msgspec.msgpack.decode(raw, type=Abandoned)


def abandoned_alarms(store: IndexStore, limit: int) -> list[Abandoned]:
    rows = store.scan(ABANDONED_KEY, None, None, reverse=False, limit=limit)
    return [msgspec.msgpack.decode(raw, type=Abandoned) for _, raw in rows]
