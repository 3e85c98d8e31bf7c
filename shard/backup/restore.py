"""Makes a data directory out of a backup, as it was at a moment, beside the one that there is.

Guarantee: what `build` has made was read back: every row after it was written, every row that a record has changed after that,
and in the end all pages, headers and alarms, as `tidegate check` does. It raises, and the directory is not to be used, if
anything of the backup is not as it was put, or anything read is not what was written.

The new directory needs no log of the old one, and counts its starts on from there; answers to calls with keys are in it as they
were, so that a call that is sent again is answered, and not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.depot import Depot
from tidegate.shard.backup.manifest import Manifest
from tidegate.shard.backup.pieces import RecordsHeader, RowsHeader
from tidegate.shard.backup.reading import Lineage, Lineages, read_pieces
from tidegate.shard.offline.check import Check, Counts, ReadState, state_path
from tidegate.shard.offline.rows import add_to_digest, told
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.logs import NO_RUN, LogMark
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.record import UnreadCommitRecord, UnreadShardCommit, decode_unread_record
from tidegate.shard.store.recovery import Recovery
from tidegate.shard.store.state.data_file import DATA_FILE, META_KEY, pack_meta, sync_file, write_rows
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.pages import MAP_BYTES_MAX
from tidegate.shard.store.store import ShardState

Progress = Callable[[str, float], object]
ADDRESS_BYTES_MAX = 32 << 40
"""For the maps of all shards."""


class Restored(NamedTuple):
    lineage: str
    shards: int
    starts: int
    seqs: dict[int, int]
    """By shard, the last commit that is in it."""
    until_ms: int
    """Unix time of the newest commit in it; 0 if none came after the full backup."""
    counts: Counts


class Moment(NamedTuple):
    """Which state of a lineage."""

    lineage: Lineage
    at_ms: int | None
    """None: the newest."""


def span_of(lineage: Lineage) -> tuple[int, int]:
    """The first and the last moment that it can be restored to, in milliseconds of Unix time. Of a full backup that none has
    continued there is the newest moment only, and the first is later than that."""
    return lineage.manifests[0].from_ms, lineage.manifests[-1].ended_ms


def times_of(lineage: Lineage) -> str:
    """The same for people: as `--at` takes them, to the millisecond."""
    first_ms, last_ms = span_of(lineage)
    return f"any time from {shown(first_ms)} to {shown(last_ms)}" if first_ms <= last_ms else f"as of {shown(last_ms)}"


def shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def find_moment(lineages: Lineages, at_ms: int | None, place: str) -> Moment:
    """Raises OperatorError where no backup has that time; also where the newest is asked for, and that one is damaged."""
    if at_ms is None and (problem := lineages.newest_problem()) is not None:
        raise problem
    spans = [(*span_of(lineage), lineage) for lineage in lineages.good]
    if not spans:
        hint = "name the folder that was given to `tidegate backup`"
        raise OperatorError("restore", place, "there is no complete backup", hint)
    if at_ms is None:
        return Moment(max(spans, key=lambda span: span[1])[2], None)
    for first_ms, last_ms, lineage in reversed(spans):
        if first_ms <= at_ms <= last_ms:
            return Moment(lineage, at_ms)
    for _, last_ms, lineage in reversed(spans):
        if at_ms == last_ms:  # All that a full backup has that none has continued.
            return Moment(lineage, None)
    newest = times_of(max(spans, key=lambda span: span[1])[2])
    hint = f"the newest has {newest}; `tidegate restore {place} --list` says what all have"
    raise OperatorError("restore", place, "no backup has that time", hint)


def build(depot: Depot, moment: Moment, new: Path, starts_min: int, progress: Progress) -> Restored:
    """Fills the directory, which is empty, with everything but its description. Raises OperatorError."""
    first, last = moment.lineage.manifests[0], moment.lineage.manifests[-1]
    starts = max(last.starts, starts_min)
    try:
        (new / "log").mkdir(mode=0o700)
        (new / "shards").mkdir(mode=0o700)
        _write_all_rows(depot, first, new, progress)
        seqs, until_ms = _replay(depot, moment, new, starts, progress)
        check = Check(new, first.shards, progress)
        for finding in check.run():
            raise _wrong(finding.where, f"what was restored is damaged: {finding.what}")
    except (OSError, lmdb.Error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            hint = "make room on this file system, or restore elsewhere with --data; nothing was replaced"
            raise OperatorError("restore into", new, error.strerror or str(error), hint) from error
        hint = "make room on this file system if it is full, or check the disk; nothing was replaced"  # LMDB calls both the same.
        raise OperatorError("restore into", new, str(error), hint) from error
    return Restored(moment.lineage.name, first.shards, starts, seqs, until_ms, check.counts)


def _write_all_rows(depot: Depot, full: Manifest, new: Path, progress: Progress) -> None:
    done = 0

    def tell(header: RowsHeader) -> None:
        nonlocal done
        done += 1
        progress(f"rows of shard {header.shard} of {full.shards}", done / max(1, len(full.rows)))

    def tell_back(shard: int) -> None:
        progress(f"reading back shard {shard} of {full.shards}", done / max(1, len(full.rows)))

    by_shard = groupby(read_pieces(depot, full.rows), key=lambda piece: _rows_header(piece[0], full.lineage).shard)
    found = 0
    for shard, pieces in by_shard:
        if shard != found:
            raise _wrong(f"shard {found}", "the backup has no rows of it")
        found += 1
        _write_rows(state_path(new, shard), shard, full.base[shard], (_told(piece, tell) for piece in pieces), tell_back)
    if found != full.shards:
        raise _wrong(f"shard {found}", "the backup has no rows of it")


def _told(piece: tuple[Any, list[Any]], tell: Callable[[RowsHeader], None]) -> list[Any]:
    tell(piece[0])
    return piece[1]


def _rows_header(header: object, lineage: str) -> RowsHeader:
    if not isinstance(header, RowsHeader) or header.lineage != lineage:
        raise _wrong(lineage, "a piece of it is of something else")
    return header


def _write_rows(place: Path, shard: int, seq: int, pieces: Iterator[list[Any]], tell_back: Callable[[int], object]) -> None:
    """And reads them back."""
    written = blake2b()

    def rows() -> Iterator[tuple[bytes, bytes]]:
        for flat in pieces:
            for row in zip(flat[::2], flat[1::2], strict=True):
                add_to_digest(written, row)
                yield row
        yield META_KEY, pack_meta(shard, seq)

    place.mkdir(mode=0o700)
    write_rows(place, rows(), MAP_BYTES_MAX)
    sync_file(place / DATA_FILE)
    read = blake2b()
    state = ReadState(place, shard, checksums=True)
    try:
        for row in told(state.rows(), lambda _: tell_back(shard)):
            add_to_digest(read, row)
    finally:
        state.close()
    if read.digest() != written.digest():
        raise _wrong(place, "rows that were read back are not what was written")


def _replay(depot: Depot, moment: Moment, new: Path, starts: int, progress: Progress) -> tuple[dict[int, int], int]:
    """How far each shard has got, and the time of the newest commit."""
    full = moment.lineage.manifests[0]
    map_bytes = min(MAP_BYTES_MAX, ADDRESS_BYTES_MAX // full.shards)
    states: list[LmdbState] = []
    try:
        for shard in range(full.shards):
            states.append(LmdbState(state_path(new, shard), shard, map_bytes=map_bytes))
        recovery = Recovery(new, states, starts, 0)
        recovery.on_written = _read_back
        cut = HeldBack(moment.at_ms, full.seqs)
        pieces = [piece for manifest in moment.lineage.manifests for piece in manifest.records]
        for number, (header, flat) in enumerate(read_pieces(depot, pieces)):
            if not isinstance(header, RecordsHeader) or header.lineage != full.lineage:
                raise _wrong(full.lineage, "a piece of it is of something else")
            progress("records of the log", number / len(pieces))
            for record in flat[1::2]:
                recovery.take(cut.kept(decode_unread_record(record)), Path(pieces[number].name))
        recovery.write(LogMark(starts, 0, NO_RUN))
        for damage in recovery.damaged.values():
            raise damage
        expected = moment.lineage.manifests[-1].seqs if moment.at_ms is None else full.seqs
        for shard, seq in recovery.seqs.items():
            if seq < expected[shard]:
                raise _wrong(f"shard {shard}", f"the backup ends with commit {seq}, and should have {expected[shard]}")
        return recovery.seqs, cut.newest_ms
    except ShardDamaged as error:
        raise _wrong(f"shard {error.shard}", error.problem) from error
    finally:
        for state in states:
            state.close()


def _read_back(state: ShardState, memtable: Memtable) -> None:
    """What records have changed, after it was written."""
    for object_key, held in memtable.objects.items():
        for key, value in held.writes.items():
            if state.get(object_key + key.encode()) != value:
                raise _wrong(f"shard {state.shard}", "a row that was read back is not what was written")


class HeldBack:
    """What of the records belongs to a moment: of each shard, everything before its first commit that came later."""

    def __init__(self, at_ms: int | None, seqs_min: dict[int, int]) -> None:
        """`seqs_min`: up to there it is needed in any case, since the rows may have some of it."""
        self._at_ms = at_ms
        self._seqs_min = seqs_min
        self._ended: set[int] = set()
        self.newest_ms = 0

    def kept(self, record: UnreadCommitRecord) -> UnreadCommitRecord:
        if self._at_ms is None or record.wall_ms <= self._at_ms:
            commits = [commit for commit in record.shards if commit.shard not in self._ended]
        else:
            commits = [commit for commit in record.shards if self._is_needed(commit)]
        if commits:
            self.newest_ms = max(self.newest_ms, record.wall_ms)
        return UnreadCommitRecord(record.wall_ms, commits)

    def _is_needed(self, commit: UnreadShardCommit) -> bool:
        if commit.seq <= self._seqs_min.get(commit.shard, 0):
            return True
        self._ended.add(commit.shard)
        return False


def _wrong(place: object, problem: str) -> OperatorError:
    hint = "nothing was replaced; restore another one: see `tidegate restore --list`"
    return OperatorError("restore", place, problem, hint)
