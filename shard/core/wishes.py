"""What operators wish of one object's storage, carried out on its cache.

Guarantee: a condition is looked at and the edit made in one step, with nothing in between; an edit that is refused has changed
nothing. What is shown is what the object's own code would read at this instant, durable or not. Looking creates nothing.

Rule 1: nothing here waits. What may be on disk only is brought into memory before (`reads_of`), by whoever calls.
Rule 2: no key of the object stays in its cache because an operator has looked at it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from tidegate.runtime.errors import BadRequest, CallError
from tidegate.runtime.wire.plain_json import to_plain
from tidegate.runtime.wire.wishes import (
    NO_CONDITION,
    SHOWN_BYTES_MAX,
    SHOWN_ROWS_MAX,
    SHOWN_VALUE_BYTES_MAX,
    Condition,
    Delete,
    Get,
    Load,
    Put,
    Show,
    TurnAlarm,
    digest_of,
)
from tidegate.shard.core.alarms import Alarm
from tidegate.shard.core.cache import WRITE_BYTES, ObjectCache, Unread
from tidegate.shard.core.codec import after_prefix, check_key, decode, encode_value
from tidegate.shard.core.values import ABSENT, MISS, restore, to_raw
from tidegate.shard.store.interface import HEADER

StorageWish = Get | Show | Put | Delete | Load | TurnAlarm
_ROWS_FIRST = 16
"""Of a page, which is read in steps, since each value may be large; while they are small, twice as many at a time."""
_ROWS_MAX = 64
_STEP_BYTES = 64 << 10


class Reads(NamedTuple):
    """What of the object's rows is needed: some keys, or a range with at most so many."""

    keys: tuple[str, ...]
    start: str | None = None
    end: str | None = None
    limit: int = 0


def refused(text: str, **details: Any) -> CallError:
    return BadRequest(text, details=details)


def reads_of(wish: StorageWish) -> Reads:
    if isinstance(wish, Load | TurnAlarm):
        return Reads((HEADER,))
    if isinstance(wish, Get | Put):
        return Reads((HEADER, wish.key))
    if isinstance(wish, Delete):
        return Reads((HEADER, wish.key) if wish.key else (HEADER,))
    start, end = _range(wish)
    return Reads((HEADER,), start, end, min(wish.limit, SHOWN_ROWS_MAX) + 1)


class Clocks(NamedTuple):
    """Of a shard, now."""

    wall_us: int
    ahead_us: int
    """How far its steady time is ahead of the wall clock."""


def carry_out(wish: StorageWish, cache: ObjectCache, clocks: Clocks) -> dict[str, Any]:
    """What came of it, as msgspec makes JSON of it; values are as they are stored. Raises CallError where it is refused."""
    object_name = f"{cache.class_name}/{cache.name}"
    if isinstance(wish, Put):
        return _put(wish, cache, object_name)
    if isinstance(wish, Load):
        return _load(wish, cache, object_name, clocks)
    if not cache.has_header:
        if isinstance(wish, Delete) and wish.condition.missing:
            return {"deleted": 0}
        raise refused(f"there is no object {object_name}", missing=True)
    if isinstance(wish, Get):
        raw = _read(cache, wish.key)
        if raw is None:
            raise refused(f"{object_name} has no key {wish.key!r}", missing=True)
        return _shown(wish.key, raw, whole=True)
    if isinstance(wish, TurnAlarm):
        return _turn_alarm(wish, cache, object_name, clocks)
    return _show(wish, cache, clocks.ahead_us) if isinstance(wish, Show) else _delete(wish, cache, object_name)


# Reading


def _read(cache: ObjectCache, key: str) -> bytes | None:
    """The bytes of a value, None if there is no such key."""
    try:
        check_key(key)
    except (TypeError, ValueError) as error:
        raise refused(str(error)) from None
    value = cache.peek(key)
    if value is MISS:
        return cache.store.get(cache.key, key)
    return None if value is ABSENT else to_raw(value)


def rows_of(cache: ObjectCache, start: str | None, end: str | None, limit: int) -> list[tuple[str, bytes]]:
    """Keys of [start, end) with the bytes of their values, at most so many."""
    rows = cache.scan(start, end, limit=limit)
    if isinstance(rows, Unread):
        rows = rows.finish(cache.store.scan(cache.key, start, end, reverse=False, limit=rows.limit))
    return [(key, to_raw(value)) for key, value in rows]


def _range(wish: Show) -> tuple[str | None, str | None]:
    start = max(wish.prefix, f"{wish.after}\0" if wish.after else "") or None
    return start, after_prefix(wish.prefix)


def _shown(key: str, raw: bytes, *, whole: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key, "bytes": len(raw), "digest": digest_of(raw)}
    if whole or len(raw) <= SHOWN_VALUE_BYTES_MAX:
        row["packed"] = raw
    return row


def _show(wish: Show, cache: ObjectCache, ahead_us: int) -> dict[str, Any]:
    limit = max(1, min(wish.limit, SHOWN_ROWS_MAX))
    (start, end), size, more = _range(wish), 0, False
    shown: list[dict[str, Any]] = []
    step = _ROWS_FIRST
    while len(shown) <= limit and not more:
        asked, before = min(step, limit + 1 - len(shown)), size
        rows = rows_of(cache, start, end, asked)
        for key, raw in rows:
            if len(shown) == limit or (shown and size + len(raw) > SHOWN_BYTES_MAX):
                more = True
                break
            shown.append(_shown(key, raw, whole=wish.whole))
            size += len(raw)
        if len(rows) < asked:
            break
        start = f"{rows[-1][0]}\0"
        step = min(2 * step, _ROWS_MAX) if size - before < _STEP_BYTES else _ROWS_FIRST
    undurable = bool(cache.dirty or cache.cleared or cache.committing is not None)
    page = {"rows": shown, "more": more, "alarm": _alarm(cache, ahead_us), "undurable": undurable}
    if wish.whole and (more or wish.after):
        page["unchanged_since"] = None if undurable else cache.store.unchanged_since(cache.key)
    return page


def _alarm(cache: ObjectCache, ahead_us: int) -> dict[str, Any] | None:
    alarm = cache.alarm
    return None if alarm is None else {"due_ms": due_ms(alarm, ahead_us), "retries": alarm.retry_count}


def due_ms(alarm: Alarm, ahead_us: int) -> int:
    """When it rings next, in Unix time."""
    return (alarm.due_us - ahead_us * alarm.is_steady) // 1_000


# Editing


def _put(wish: Put, cache: ObjectCache, object_name: str) -> dict[str, Any]:
    if not cache.has_header and not wish.create:
        raise refused(f"there is no object {object_name}; make it with `--create`, if it is meant", missing=True)
    before = _read(cache, wish.key)
    _check(wish.condition, wish.key, before, object_name)
    try:
        raw = _checked(wish.packed)
        cache.write(wish.key, raw, restore(raw))
    except (TypeError, ValueError) as error:
        raise refused(f"{wish.key!r} of {object_name} cannot have this value: {error}") from None
    return {"before": _told(before), "after": _told(raw)}


def _checked(packed: bytes, root: str = "value") -> bytes:
    """What an object could have stored. Raises TypeError, ValueError."""
    try:
        return encode_value(decode(packed), root)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{root}: {error}") from None


def _load(wish: Load, cache: ObjectCache, object_name: str, clocks: Clocks) -> dict[str, Any]:
    if cache.has_header and not wish.goes_on and not wish.replace:
        raise refused(f"{object_name} exists; nothing was changed (`--replace` puts this in its place)", conflict=True)
    if wish.goes_on and not cache.has_header:
        raise refused(f"{object_name} was deleted meanwhile", conflict=True)
    checked = []
    try:
        for key, packed in wish.rows:
            check_key(key)
            checked.append((key, _checked(packed, key)))
        cache.check_room(sum(WRITE_BYTES + len(key) + len(raw) for key, raw in checked))
    except (TypeError, ValueError) as error:
        raise refused(f"{object_name} cannot have this: {error}") from None
    if wish.replace and not wish.goes_on:
        cache.clear()
    for key, raw in checked:
        cache.write(key, raw, restore(raw))
    if wish.alarm_ms is not None:
        due_us = wish.alarm_ms * 1_000
        cache.set_alarm(Alarm(due_us, max(due_us, clocks.wall_us)))
    return {"rows": len(checked)}


def _turn_alarm(wish: TurnAlarm, cache: ObjectCache, object_name: str, clocks: Clocks) -> dict[str, Any]:
    alarm = cache.alarm
    if alarm is None:
        text = f"{object_name} has no alarm that is scheduled (of one that was abandoned: tidegate alarms {wish.do})"
        raise refused(text, missing=True)
    if wish.due_ms is not None and wish.due_ms != (now_ms := due_ms(alarm, clocks.ahead_us)):
        text = f"{object_name} has another alarm now, or it has been put off: it is due at {now_ms}; nothing was changed"
        raise refused(text, conflict=True, due_ms=now_ms)
    steady_us = clocks.wall_us + clocks.ahead_us
    cache.set_alarm(None if wish.do == "drop" else Alarm(alarm.scheduled_us, steady_us, 0, steady_us, alarm.relative))
    return {"alarm": wish.do}


def _delete(wish: Delete, cache: ObjectCache, object_name: str) -> dict[str, Any]:
    if not wish.key:
        if wish.condition != NO_CONDITION:
            raise refused("a condition is about a key; name one")
        cache.clear()
        return {"deleted": 1}
    before = _read(cache, wish.key)
    _check(wish.condition, wish.key, before, object_name)
    if before is not None:
        cache.delete(wish.key)
    return {"before": _told(before), "after": None, "deleted": int(before is not None)}


def _told(raw: bytes | None) -> dict[str, Any] | None:
    """A value before or after an edit."""
    return None if raw is None else {"bytes": len(raw), "digest": digest_of(raw), "packed": raw}


def _check(condition: Condition, key: str, raw: bytes | None, object_name: str) -> None:
    """Raises CallError unless all is as the condition says."""
    digest = None if raw is None else digest_of(raw)
    problem = ""
    if condition.missing and raw is not None:
        problem = "it exists"
    elif condition.digest and condition.digest != digest:
        problem = f"it does not have the digest {condition.digest}"
    elif condition.value is not UNSET and (raw is None or not _is(raw, condition.value)):
        problem = "it has another value"
    if problem:
        now = "does not exist" if raw is None else f"has the digest {digest}"
        text = f"{problem}: {key!r} of {object_name} {now} now; nothing was changed"
        raise refused(text, conflict=True, digest=digest)


def _is(raw: bytes, plain: Any) -> bool:
    """Whether these are the bytes of that value. (The order in a dict does not count.)"""
    return _ordered(to_plain(decode(raw))) == _ordered(plain)


_ordered = msgspec.json.Encoder(order="sorted").encode
