"""Saves what is good of one shard's damaged data file, and says what is not.

Guarantee: a row that is taken over has its checksum, so it is one that was written there. Rows in pages to which nothing points
any longer are taken only where the lists of free pages are whole: else they may be old ones. Whatever is not taken over is named,
as far as its name can be read. The damaged file stays beside the new one.

A row in which flipping one bit makes the checksum right is one in which one bit was flipped; it is flipped back. A header that is
damaged otherwise is made again if the name in it is that of its object; rows of an object without one would come back to life
when somebody uses its name, and are left out. The indexes of alarms are made anew, from the headers.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES, object_key
from tidegate.shard.core.alarms import INDEX_KEY, STEADY_INDEX_KEY, Header, decode_header, encode_header, index_changes
from tidegate.shard.log.commit_log import sync_directory
from tidegate.shard.offline.check import ReadState, objects, state_path
from tidegate.shard.offline.rows import OWN_FIRST, name_of_object, name_of_row
from tidegate.shard.store.interface import NAMES_KEY
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.names import NAMES_HEAD_KEY, IndexHead, Named, head_row, index_row
from tidegate.shard.store.recovery import Recovery, salvaged
from tidegate.shard.store.state.data_file import (
    DATA_FILE,
    FORMAT_WITHOUT_CHECKSUMS,
    META_KEY,
    format_of,
    new_data,
    pack_meta,
    put_in_place,
    unpack_meta,
    write_rows,
)
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.pages import (
    CRC_BYTES,
    CRC_RESIDUE,
    MAP_BYTES_MAX,
    Damage,
    Meta,
    PageFile,
    Row,
    Verifier,
    is_whole,
)
from tidegate.shard.store.store import ABOVE_KEYS

MENDED_BYTES_MAX = 4 << 10
"""Up to 11 kB no two bits have the same effect on the checksum; trying takes its time."""
DAMAGES_MAX = 10_000
"""So many are looked at, and named."""
_INDEXES = (INDEX_KEY, STEADY_INDEX_KEY, NAMES_KEY)

Pair = tuple[bytes, bytes]


class Repair(NamedTuple):
    """What can be done for a data file."""

    damages: list[Damage]
    losses: list[str]
    """What is not saved, by name as far as that is known."""
    rows: int
    """Those that are saved."""
    lost_rows: int | None
    """As the file counts them, if that can be read."""
    found_again: int
    """Of the saved ones, those in pages to which nothing points."""
    bits_flipped_back: int
    headers_made: int
    applied_seq: int
    """The last commit that the saved state counts as part of it; the logs have what comes after."""


def with_one_bit_flipped(row: Row) -> Row | None:
    """So that its checksum is right: the row as it was written, but with a probability of one in a million."""
    if len(row.key) + len(row.value) > MENDED_BYTES_MAX:
        return None
    data = bytearray(row.key + row.value)
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            if crc32(data) == CRC_RESIDUE:
                return Row(row.page, bytes(data[: len(row.key)]), bytes(data[len(row.key) :]))
            data[at] ^= 1 << bit
    return None


def missing_in_logs(data: Path, shard: int) -> list[str]:
    """What the logs should have of a shard whose data file is whole, and do not have: a line each. Nothing is written. Raises
    OperatorError, OSError, ValueError and lmdb.Error."""
    place = state_path(data, shard)
    with PageFile(place / DATA_FILE) as pages:
        checksums = format_of(pages) != FORMAT_WITHOUT_CHECKSUMS
    state = ReadState(place, shard, checksums=checksums)
    try:
        recovery = Recovery(data, [state], 0, 0, salvage=True)  # type: ignore[list-item]  # It begins no batch.
        recovery.read(writing=False)
        lost = recovery.lost(shard)
        _, memtable = recovery.memtables()[shard]
        return [*lost, *map(_headless, *_without_header(state.rows(), memtable))] if lost else []
    finally:
        state.close()


def take_from_logs(data: Path, shard: int) -> list[str]:
    """Takes what the logs have of a shard whose data file is whole; what is missing all the same. Raises OperatorError."""
    state = LmdbState(state_path(data, shard), shard)
    try:
        lost = salvaged(data, state)
        keys, counts = _without_header(state.scan(b"", OWN_FIRST, False), Memtable()) if lost else ((), ())
        batch = state.begin()
        for key in keys:  # Else they would come back to life when somebody uses its name.
            batch.delete_range(key, key + ABOVE_KEYS, sys.maxsize)
        batch.commit()
        return [*lost, *map(_headless, keys, counts)]
    finally:
        state.close()


def _without_header(rows: Iterable[Pair], memtable: Memtable) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """Objects whose header is lost, and how many rows are left of each."""
    found = [(key, names.count) for key, names, header in objects(rows, memtable) if key < OWN_FIRST and header is None]
    left = [(key, count) for key, count in found if count]
    return tuple(key for key, _ in left), tuple(count for _, count in left)


def _headless(key: bytes, rows: int) -> str:
    return f"what was left of {name_of_object(key, lambda _: None)}: {rows} rows"


def salvage_of(data: Path, shard: int) -> Salvage | NothingLeft:
    """Raises OSError for a file that cannot be read now."""
    try:
        return Salvage(data, shard)
    except FileNotFoundError:
        return NothingLeft(data, shard, f"{DATA_FILE} is missing")
    except ValueError as error:
        return NothingLeft(data, shard, f"{DATA_FILE}: {error}")


class NothingLeft:
    """In the place of a `Salvage` where the data file is gone, or too short for a row: the shard goes on with what the logs
    have."""

    def __init__(self, data: Path, shard: int, problem: str) -> None:
        self._place = state_path(data, shard)
        self._problem = problem

    def plan(self) -> Repair:
        losses = ["what the data file had and the logs have not"]
        return Repair([Damage(0, self._problem)], losses, 0, None, 0, 0, 0, 0)

    def write(self, applied_seq: int) -> Path | None:
        """Puts aside what is there, durably; where that is now. Raises OSError."""
        file, aside = self._place / DATA_FILE, _aside(self._place)
        if not file.exists():
            return None
        file.rename(aside)
        sync_directory(self._place)
        return aside

    def close(self) -> None:
        pass


def _aside(place: Path) -> Path:
    """Where a damaged file is kept."""
    return place / f"{DATA_FILE}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"


class Salvage:
    """The good rows of a shard's data file. To be closed."""

    def __init__(self, data: Path, shard: int) -> None:
        """Raises OSError, and ValueError for a file of which nothing can be read."""
        self._shard = shard
        self._place = state_path(data, shard)
        self._file = PageFile(self._place / DATA_FILE)
        self._has_checksums = format_of(self._file) != FORMAT_WITHOUT_CHECKSUMS
        self._verifier = Verifier(self._file, checksums=self._has_checksums, meta=self._whole_meta())
        self._damages = list(islice(self._verifier.run(), DAMAGES_MAX))
        self._mended = dict(self._mend()) if self._has_checksums else {}
        """By page and the key as it was read."""
        self._strays = self._find_strays()
        self._headers: dict[bytes, Header] = {}
        """By object key; those that are made again, too."""
        self._made: dict[bytes, Header] = {}
        self._homeless: dict[bytes, int] = {}
        """Objects without a header, and how many rows they have."""
        self._applied_seq = 0
        self._rows_saved = 0

    def _whole_meta(self) -> Meta | None:
        """Where a meta page is damaged: that from which everything else is whole and newest."""
        if next(Verifier(self._file).check_metas(), None) is None:
            return None
        whole = []
        for meta in map(self._file.meta_like, (0, 1)):
            verifier = Verifier(self._file, checksums=self._has_checksums, meta=meta)
            row = self._file.last_row(meta)
            if row is not None and row.key == META_KEY and all(damage.page < 2 for damage in verifier.run()):
                whole.append((unpack_meta(self._value(row))[2], meta.txn, meta))
        return max(whole)[2] if whole else None

    def close(self) -> None:
        self._file.close()

    def plan(self) -> Repair:
        """Reads everything once. Raises OperatorError for the file of another shard."""
        for key, value in self._good():
            if key == META_KEY:
                _, held, self._applied_seq = unpack_meta(value)
                if held != self._shard:
                    hint = "put the directories back in their places"
                    raise OperatorError("repair", self._place, f"it holds shard {held}", hint)
            elif len(key) == OBJECT_KEY_BYTES and key < OWN_FIRST:
                self._headers[key] = decode_header(value)
        self._make_headers()
        if self._applied_seq == 0:
            self._applied_seq = max(self._older_seqs(), default=0)
        self._rows_saved = sum(1 for _ in self._saved())
        meta = self._verifier.meta
        lost = None if meta is None else max(0, meta.main.entries - 1 - self._rows_saved)
        named = [self._loss(damage) for damage in self._damages if damage.loses_rows and (damage.low == damage.high or lost)]
        losses = [loss for loss in named if loss is not None]
        losses += [f"{name_of_object(key, self._raw_header)}: {rows} rows" for key, rows in self._homeless.items()]
        return Repair(
            self._damages,
            losses,
            self._rows_saved,
            lost,
            len(self._strays),
            len(self._mended),
            len(self._made),
            self._applied_seq,
        )

    def write(self, applied_seq: int) -> Path:
        """Puts a file with the good rows in the place of the damaged one, durably; returns where that is now. Raises OSError and
        lmdb.Error; then nothing is changed."""
        aside = _aside(self._place)
        with new_data(self._place) as new:
            meta = [(META_KEY, pack_meta(self._shard, applied_seq))]
            write_rows(new, merge(self._saved(), meta), MAP_BYTES_MAX)
            aside.hardlink_to(self._place / DATA_FILE)
            put_in_place(new, self._place)
        return aside

    # Rows

    def _good(self) -> Iterator[Pair]:
        """All good rows in the order of their keys. What is out of order is not where it belongs, and left out."""
        last = b""
        for row in merge(self._tree_rows(), self._strays, key=lambda row: row.key):
            if row.key > last:
                last = row.key
                yield row.key, self._value(row)

    def _saved(self) -> Iterator[Pair]:
        """The rows of the new file, but for the one that says what it is."""
        made = [(key, encode_header(header)) for key, header in self._made.items()]
        self._homeless = {}
        for key, value in merge(self._good(), sorted(made), self._index_rows()):
            owner = key[:OBJECT_KEY_BYTES]
            if owner < OWN_FIRST and owner not in self._headers:
                self._homeless[owner] = self._homeless.get(owner, 0) + 1
            elif key != META_KEY:
                yield key, value

    def _index_rows(self) -> Iterator[Pair]:
        rows: dict[bytes, bytes] = {}
        for key, header in self._headers.items():
            for index, writes in index_changes(key, None, header.alarm, header.class_name, header.name).items():
                rows |= {index + name.encode(): value for name, value in writes.items() if value is not None}
        rows |= dict(index_row(Named(header.class_name, header.name)) for header in self._headers.values())
        counts = Counter(header.class_name for header in self._headers.values())
        rows |= dict([head_row(IndexHead(self._applied_seq, dict(counts)))])
        yield from sorted(rows.items())

    def _value(self, row: Row) -> bytes:
        return row.value[:-CRC_BYTES] if self._has_checksums else row.value

    def _is_good(self, row: Row) -> bool:
        return bool(row.key) and (is_whole(row.key, row.value) or not self._has_checksums)

    def _leaf_rows(self, number: int) -> Iterator[Row]:
        """Indexes are made anew."""
        for found in self._file.rows_of(number, self._file.page(number)):
            row = self._mended.get((number, found.key), found)
            if self._is_good(row) and row.key[:OBJECT_KEY_BYTES] not in _INDEXES and row.key != NAMES_HEAD_KEY:
                yield row

    def _mend(self) -> Iterator[tuple[tuple[int, bytes], Row]]:
        for damage in self._damages:
            if damage.loses_rows and damage.low == damage.high:
                for row in self._file.rows_of(damage.page, self._file.page(damage.page)):
                    if row.key == damage.low and (mended := with_one_bit_flipped(row)) is not None:
                        yield (damage.page, row.key), mended

    def _tree_rows(self) -> Iterator[Row]:
        for number in self._verifier.leaves:
            yield from self._leaf_rows(number)

    def _find_strays(self) -> list[Row]:
        """Good rows in pages that are neither free nor reached, or not what they should be."""
        if not (self._damages and self._has_checksums and self._verifier.free_is_known):
            return []
        found: dict[bytes, Row] = {}
        for number in range(2, self._file.pages):
            lost = not self._verifier.reached(number) and number not in self._verifier.free
            if lost or number in self._verifier.misshapen:
                found |= {row.key: row for row in self._leaf_rows(number)}
        for row in self._tree_rows():
            found.pop(row.key, None)
        return [found[key] for key in sorted(found)]

    def _make_headers(self) -> None:
        """From what is left of them: the object's key proves the name."""
        for damage in self._damages:
            key = damage.low
            if key == damage.high and len(key) == OBJECT_KEY_BYTES and key < OWN_FIRST and key not in self._headers:
                header = self._damaged_header(damage.page, key)
                if header is not None:
                    self._headers[key] = self._made[key] = Header(header.class_name, header.name)

    def _damaged_header(self, page: int, key: bytes) -> Header | None:
        for row in self._file.rows_of(page, self._file.page(page)):
            if row.key == key:
                try:
                    header = decode_header(self._value(row))
                except ValueError:
                    return None
                return header if object_key(header.class_name, header.name) == key else None
        return None

    def _older_seqs(self) -> Iterator[int]:
        """Of the row that says what the file is, as it stands in pages of older commits."""
        for number in filter(self._file.is_leaf, range(2, self._file.pages)):
            for row in self._leaf_rows(number):
                if row.key == META_KEY:
                    yield unpack_meta(self._value(row))[2]

    # Names

    def _raw_header(self, key: bytes) -> bytes | None:
        header = self._headers.get(key)
        return None if header is None else encode_header(header)

    def _loss(self, damage: Damage) -> str | None:
        low, high, get = damage.low, damage.high, self._raw_header
        if low == high:
            if (damage.page, low) in self._mended:
                return None
            if low in self._made:
                return f"{name_of_object(low, get)}: its alarm, if it had one"
            if low[:OBJECT_KEY_BYTES] in _INDEXES:
                return None
            return "which commits are in the file" if low == META_KEY else name_of_row(low, get)
        first = "the first row" if not low else name_of_object(low[:OBJECT_KEY_BYTES], get)
        last = "the last row" if high is None else name_of_object(high[:OBJECT_KEY_BYTES], get)
        return f"rows from {first} to {last}"
