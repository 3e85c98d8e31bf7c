"""Objects of rows, in the form in which objects travel between services (see `tidegate.runtime.wire.object_records`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.runtime.wire.object_records import Head, ObjectEnd, Pair, Record
from tidegate.runtime.wire.plain_json import to_plain
from tidegate.shard.core.alarms import AHEAD, STEADY_KEY, Header, decode_header
from tidegate.shard.core.codec import decode
from tidegate.shard.offline.open_shards import open_shards
from tidegate.shard.offline.rows import OWN_FIRST, Row

STEADY_ROW = STEADY_KEY + AHEAD.encode()


def ahead_us_of(row: bytes | None) -> int:
    """How far the steady time of a shard is ahead of the wall clock, by its `STEADY_ROW`."""
    return 0 if row is None else msgspec.msgpack.decode(row, type=int)


def records_of(rows: Iterable[Row], wanted: Callable[[Header], bool], ahead_us: int) -> Iterator[Record]:
    """`rows`: of one shard, in order. Alarms are told in the time of the wall clock."""
    header: Header | None = None
    keys = 0
    for key, value in rows:
        if key >= OWN_FIRST:
            break
        if len(key) == OBJECT_KEY_BYTES:
            if header is not None:
                yield ObjectEnd(f"{header.class_name}/{header.name}", keys)
            found = decode_header(value)
            header, keys = found if wanted(found) else None, 0
            if header is not None:
                alarm = header.alarm
                due_ms = None if alarm is None else (alarm.due_us - ahead_us * alarm.is_steady) // 1_000
                yield Head(f"{header.class_name}/{header.name}", due_ms)
        elif header is not None:
            keys += 1
            yield Pair(key[OBJECT_KEY_BYTES:].decode(), to_plain(decode(value)))
    if header is not None:
        yield ObjectEnd(f"{header.class_name}/{header.name}", keys)


def exported(data: Path, shards: int, wanted: Callable[[Header], bool]) -> Iterator[Record]:
    """Objects of a directory that no service uses, one after another, with what the logs have. Raises OperatorError, ValueError
    and lmdb.Error for what is damaged: look with `tidegate check` before."""
    with contextlib.ExitStack() as stack:
        for opened in open_shards("export", data, shards, stack):
            memtable = opened.memtable
            held = memtable.objects.get(STEADY_KEY)
            steady = held.writes.get(AHEAD) if held is not None else None
            ahead_us = ahead_us_of(opened.state.get(STEADY_ROW) if steady is None else steady)
            yield from records_of(opened.rows(), wanted, ahead_us)
