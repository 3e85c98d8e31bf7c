"""Deals the objects of a data directory that no service uses to another number of shards, in a new directory.

Objects keep their slots, and shards are ranges of slots, so that the rows of all shards one after the other are in order before
and after. What shards keep beside objects goes along: alarms that were given up or had begun with their object; the indexes of
alarms are made anew from the headers; answers to keys with their object, those to sessions to every shard that has a part of
theirs.

Guarantee: the old directory is only read. What was written was read back and is the same, row by row, and the new directory is
looked through as `tidegate check` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES, SLOT_KEY_BYTES, shard_of_slot
from tidegate.runtime.limits import SLOTS
from tidegate.shard.core.alarms import (
    ABANDONED_KEY,
    AHEAD,
    BEGUN_KEY,
    INDEX_KEY,
    STEADY_INDEX_KEY,
    STEADY_KEY,
    Header,
    decode_header,
    encode_header,
    index_changes,
)
from tidegate.shard.offline.check import Check, Counts, ReadState, state_path
from tidegate.shard.offline.open_shards import open_shards
from tidegate.shard.offline.rows import OWN_FIRST, Row, add_to_digest, laid_over, told
from tidegate.shard.store.answers import ANSWERS_KEY, AnswerTable, is_session
from tidegate.shard.store.logs import LOG_KEY, NO_RUN, LogMark
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.state.data_file import DATA_FILE, META_KEY, pack_meta, sync_file, write_rows
from tidegate.shard.store.state.pages import MAP_BYTES_MAX
from tidegate.shard.store.store import ABOVE_KEYS

Progress = Callable[[str, float], object]


class Resharded(NamedTuple):
    shards_before: int
    shards: int
    counts: Counts


def reshard(data: Path, shards_before: int, new: Path, shards: int, starts: int, progress: Progress) -> Resharded:
    """Fills the directory, which is empty, with everything but its description. Raises OperatorError."""
    for finding in Check(data, shards_before, progress).run():
        hint = f"see `tidegate check {data}`; nothing was changed"
        raise OperatorError("reshard", finding.where, finding.what, hint)
    try:
        (new / "log").mkdir(mode=0o700)
        (new / "shards").mkdir(mode=0o700)
        with contextlib.ExitStack() as stack:
            old = _open(data, shards_before, stack)
            for shard in range(shards):
                _write(old, state_path(new, shard), shard, shards, LogMark(starts, 0, NO_RUN), progress)
    except (OSError, lmdb.Error) as error:
        hint = "make room on this file system; nothing was changed"
        raise OperatorError("reshard into", new, str(error), hint) from error
    check = Check(new, shards, progress)
    for finding in check.run():
        raise _wrong(finding.where, finding.what)
    return Resharded(shards_before, shards, check.counts)


class _Old(NamedTuple):
    """A shard as it is, with what the logs have of it."""

    slots: range
    seq: int
    state: ReadState
    memtable: Memtable
    answers: AnswerTable
    ahead_us: int
    """Of the wall clock, its steady time."""

    def rows(self, slots: range) -> Iterator[Row]:
        """Of the objects in these slots."""
        start, end = (slot.to_bytes(SLOT_KEY_BYTES, "big") for slot in (slots.start, slots.stop))
        written = Memtable()
        written.apply([held for owner, held in self.memtable.objects.items() if start <= owner < end])
        return laid_over(self.state.scan(start, end, False), written)

    def own(self, owner: bytes) -> Iterator[Row]:
        rows = self.state.scan(owner, owner + ABOVE_KEYS, False)
        written = Memtable()
        if owner in self.memtable.objects:
            written.apply([self.memtable.objects[owner]])
        return laid_over(rows, written)


def _open(data: Path, shards: int, stack: contextlib.ExitStack) -> list[_Old]:
    old = []
    for opened in open_shards("reshard", data, shards, stack):
        each = _Old(_slots_of(opened.shard, shards), opened.seq, opened.state, opened.memtable, AnswerTable(), 0)
        each.answers.load((key[OBJECT_KEY_BYTES:].decode(), value) for key, value in each.own(ANSWERS_KEY))
        ahead = dict(each.own(STEADY_KEY)).get(STEADY_KEY + AHEAD.encode())
        old.append(each._replace(ahead_us=0 if ahead is None else msgspec.msgpack.decode(ahead, type=int)))
    return old


def _write(every: list[_Old], place: Path, shard: int, shards: int, mark: LogMark, progress: Progress) -> None:
    """And reads it back."""
    expected = 2 * max(1, sum(each.state.entries for each in every) // shards)

    def tell(what: str, before: float, done: int) -> None:
        progress(f"{what} shard {shard} of {shards}", (shard + before + min(0.5, done / expected)) / shards)

    slots = _slots_of(shard, shards)
    old = [each for each in every if each.slots.start < slots.stop and slots.start < each.slots.stop]
    seq = max(each.seq for each in old)
    written = blake2b()

    def rows() -> Iterator[Row]:
        own = [(LOG_KEY, mark.encode()), (META_KEY, pack_meta(shard, seq))]
        for row in chain(_rows_of(old, shard, shards), own):
            if row[0] < LOG_KEY:
                add_to_digest(written, row)
            yield row

    place.mkdir(mode=0o700)
    write_rows(place, told(rows(), partial(tell, "writing", 0.0)), MAP_BYTES_MAX)
    sync_file(place / DATA_FILE)
    read = blake2b()
    with contextlib.closing(ReadState(place, shard, checksums=True)) as state:
        for row in told(state.rows(), partial(tell, "reading back", 0.5)):
            add_to_digest(read, row)
    if read.digest() != written.digest():
        raise _wrong(place, "rows that were read back are not what was written")


def _slots_of(shard: int, shards: int) -> range:
    """See `shard_of_slot`."""
    return range(shard * SLOTS // shards, (shard + 1) * SLOTS // shards)


def _rows_of(old: list[_Old], shard: int, shards: int) -> Iterator[Row]:
    """What the new shard has of them, in order."""
    ahead_us = max(each.ahead_us for each in old)
    index: dict[bytes, bytes] = {}
    for each in old:
        for key, value in each.rows(_slots_of(shard, shards)):
            yield (key, value) if len(key) > OBJECT_KEY_BYTES else (key, _header(value, ahead_us - each.ahead_us, key, index))
    answers = AnswerTable()
    answers.take_over(
        [each.answers for each in old], lambda name: is_session(name) or _belongs(bytes.fromhex(name), shard, shards)
    )
    kept = {ANSWERS_KEY + key.encode(): value for key, value in answers.take_changes().items() if value is not None}
    steady = {STEADY_KEY + AHEAD.encode(): msgspec.msgpack.encode(ahead_us)} if ahead_us else {}
    beside = merge(*(each.own(owner) for owner in (BEGUN_KEY, ABANDONED_KEY) for each in old))
    mine = (row for row in beside if _belongs(bytes.fromhex(row[0][OBJECT_KEY_BYTES:].decode()), shard, shards))
    yield from merge(sorted((kept | steady | index).items()), mine)


def _belongs(object_key: bytes, shard: int, shards: int) -> bool:
    return shard_of_slot(int.from_bytes(object_key[:SLOT_KEY_BYTES], "big"), shards) == shard


def _header(value: bytes, later_us: int, object_key: bytes, index: dict[bytes, bytes]) -> bytes:
    """That of an object in a shard whose steady time is later by so much; its alarm is put into the index."""
    header = decode_header(value)
    alarm = header.alarm
    if alarm is not None and alarm.is_steady and later_us:
        alarm = msgspec.structs.replace(
            alarm,
            scheduled_us=alarm.scheduled_us + later_us * alarm.relative,
            due_us=alarm.due_us + later_us,
            set_us=(alarm.set_us or 0) + later_us,
        )
        value = encode_header(Header(header.class_name, header.name, alarm))
    for owner, writes in index_changes(object_key, None, alarm, header.class_name, header.name).items():
        index |= {owner + name.encode(): row for name, row in writes.items() if row is not None}
    return value


def _wrong(place: object, problem: str) -> OperatorError:
    return OperatorError("reshard", place, problem, "nothing was changed; check the disk, and tell whoever develops Tidegate")


assert OWN_FIRST < ANSWERS_KEY < STEADY_KEY < STEADY_INDEX_KEY < BEGUN_KEY < ABANDONED_KEY < INDEX_KEY < LOG_KEY < META_KEY
