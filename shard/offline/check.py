"""Whether everything in a data directory is whole and fits together. Nothing is written.

Each shard's data file is looked through page by page and row by row; then what the logs have beyond it is laid over it, and
objects, headers and alarms are compared. A shard with damaged pages is not read any further.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES, SLOT_KEY_BYTES, object_key, shard_of_slot
from tidegate.shard.core.alarms import INDEX_KEY, STEADY_INDEX_KEY, Alarm, decode_header, index_row_key
from tidegate.shard.offline.rows import OWN_FIRST, told
from tidegate.shard.store.interface import NAMES_KEY
from tidegate.shard.store.logs import LOG_KEY
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.names import NAMES_HEAD_KEY, index_row, is_header, named_by, read_head
from tidegate.shard.store.recovery import Recovery
from tidegate.shard.store.state.belonging import shards_beyond
from tidegate.shard.store.state.data_file import (
    DATA_FILE,
    FORMAT,
    FORMAT_WITHOUT_CHECKSUMS,
    META_KEY,
    format_of,
    map_to_read,
    open_environment,
    unpack_meta,
)
from tidegate.shard.store.state.pages import CRC_BYTES, Meta, PageFile, Verifier

FINDINGS_MAX = 100
"""Of one shard, and of one kind, that are told."""
LOGS_OF_ALL_STARTS = 1 << 62

Progress = Callable[[str, float], object]
"""Told what is looked at, and which share of it is done."""


class Finding(NamedTuple):
    shard: int | None
    where: str
    what: str
    next: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} (next: {self.next})"


class Counts(NamedTuple):
    shards: int = 0
    objects: int = 0
    rows: int = 0
    alarms: int = 0
    state_bytes: int = 0
    log_bytes: int = 0


class ReadState:
    """The rows of one whole shard, to be read only. Satisfies what `recall` needs of a state."""

    def __init__(self, path: Path, shard: int, *, checksums: bool) -> None:
        """Raises lmdb.Error, and ValueError for what is no state of this shard."""
        self.shard = shard
        self._crc_bytes = CRC_BYTES if checksums else 0
        self._env = open_environment(path, map_to_read(path), readonly=True)
        try:
            with self._env.begin() as txn:
                version, found, self.applied_seq = unpack_meta(self._cut(txn.get(META_KEY)))
                self.log_mark = self._cut(txn.get(LOG_KEY)) or b""
                head = read_head(self._cut(txn.get(NAMES_HEAD_KEY)))
            self.has_index = head is not None and head.seq == self.applied_seq
            """Of names; else it is made at the next start."""
            if version == 0:
                raise ValueError("the row that says which shard it holds is missing")
            if version not in (FORMAT, FORMAT_WITHOUT_CHECKSUMS):
                raise ValueError(f"format {version} is not known to this version of Tidegate")
            if found != shard:
                raise ValueError(f"it holds shard {found}")
        except BaseException:
            self._env.close()
            raise

    @property
    def entries(self) -> int:
        """Rows, with those that say what it is."""
        return int(self._env.stat()["entries"])

    def _cut(self, value: bytes | None) -> bytes | None:
        return None if value is None else value[: len(value) - self._crc_bytes]

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            return self._cut(txn.get(key))

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
        assert not reverse
        with self._env.begin() as txn:
            cursor = txn.cursor()
            if cursor.set_range(start):
                for key, value in cursor.iternext():
                    if key >= end:
                        return
                    yield key, value[: len(value) - self._crc_bytes]

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """All but what says what this is."""
        end = self._crc_bytes
        with self._env.begin() as txn:
            for key, value in txn.cursor().iternext():
                if key[:1] != b"\xff":
                    yield key, value[: len(value) - end]

    def close(self) -> None:
        self._env.close()


def state_path(data: Path, shard: int) -> Path:
    return data / "shards" / f"{shard:04d}"


def mend(data: Path, shard: int) -> str:
    restore = f"`tidegate restore SOURCE --data {data} --yes` a backup"
    return f"{restore}, or see what `tidegate repair {data} --shard {shard}` can save"


class Check:
    """One check of a directory. `run` yields what is wrong; then `counts` tells what was there."""

    def __init__(self, data: Path, shards: int, progress: Progress) -> None:
        self._data = data
        self._shards = shards
        self._progress = progress
        self.counts = Counts(shards)

    def run(self) -> Iterator[Finding]:
        """Raises PermissionError, or OperatorError because of one."""
        for shard in shards_beyond(self._data, self._shards):
            hint = "put the tidegate.json of this data back, or restore a backup"
            yield Finding(None, str(state_path(self._data, shard)), f"tidegate.json says {self._shards} shards", hint)
        with contextlib.ExitStack() as stack:
            states: list[ReadState] = []
            for shard in range(self._shards):
                found = list(self._look_through(shard))
                yield from found
                if not found:
                    try:
                        states.append(state := self._open(shard))
                        stack.callback(state.close)
                    except (ValueError, lmdb.Error, OSError) as error:
                        yield self._finding(shard, str(error))
            self._progress("reading the logs", 0.0)
            self._add(log_bytes=sum(file.stat().st_size for file in (self._data / "log").glob("*/*") if file.is_file()))
            try:
                recovery = Recovery(self._data, states, LOGS_OF_ALL_STARTS, 0)  # type: ignore[arg-type]  # It begins no batch.
                recovery.read(writing=False)
            except OperatorError as error:
                if isinstance(error.__cause__, PermissionError):
                    raise
                yield Finding(None, str(error.place), f"{error.operation}: {error.problem}", error.hint)
                return
            for damage in recovery.damaged.values():
                yield Finding(
                    damage.shard, f"shard {damage.shard} ({damage.place})", damage.problem, mend(self._data, damage.shard)
                )
            newer = recovery.memtables()
            for state in states:
                if state.shard not in newer:
                    continue
                _, memtable = newer[state.shard]
                for problem in islice(self._compare(state, memtable), FINDINGS_MAX):
                    yield self._finding(state.shard, problem)

    def _finding(self, shard: int, problem: object) -> Finding:
        return Finding(shard, f"shard {shard} ({state_path(self._data, shard)})", str(problem), mend(self._data, shard))

    def _add(self, **numbers: int) -> None:
        self.counts = self.counts._replace(**{name: getattr(self.counts, name) + more for name, more in numbers.items()})

    def _look_through(self, shard: int) -> Iterator[Finding]:
        file = state_path(self._data, shard) / DATA_FILE
        what = f"shard {shard} of {self._shards}"
        self._progress(what, 0.0)
        try:
            with PageFile(file) as pages:
                verifier = Verifier(pages, checksums=format_of(pages) > FORMAT_WITHOUT_CHECKSUMS)
                verifier.on_page = lambda done: self._progress(what, done / max(1, pages.pages))
                for damage in islice(verifier.run(), FINDINGS_MAX):
                    yield self._finding(shard, damage)
                self._add(state_bytes=pages.size_bytes)
        except FileNotFoundError:
            yield self._finding(shard, f"{DATA_FILE} is missing")
        except PermissionError:  # No damage: whoever may not read it knows nothing of it.
            raise
        except (OSError, ValueError) as error:
            yield self._finding(shard, error)

    def _open(self, shard: int) -> ReadState:
        path = state_path(self._data, shard)
        with PageFile(path / DATA_FILE) as pages:
            checksums = format_of(pages) > FORMAT_WITHOUT_CHECKSUMS
            newest = [meta.txn for meta in pages.metas() if isinstance(meta, Meta)]
        if max(newest) == 0:
            raise ValueError("it was created and never written")
        return ReadState(path, shard, checksums=checksums)

    def _compare(self, state: ReadState, memtable: Memtable) -> Iterator[str]:
        """Objects with their headers, alarms with their indexes, as they are with what the logs have."""
        what, entries = f"objects of shard {state.shard} of {self._shards}", state.entries
        looked_at = told(state.rows(), lambda done: self._progress(what, done / max(1, entries)))
        alarms: dict[bytes, Alarm] = {}
        indexed: dict[bytes, set[str]] = {INDEX_KEY: set(), STEADY_INDEX_KEY: set()}
        index = IndexSums()
        for key, names, header in objects(index.noting(looked_at), memtable):
            if key == NAMES_KEY:  # Looked at apart: it says what the state has, without the logs.
                continue
            self._add(rows=names.count)
            if key >= OWN_FIRST:
                if key in indexed:
                    indexed[key] |= names.all
                continue
            self._add(objects=header is not None)  # One that the logs have cleared is there no longer.
            yield from self._object_problems(state.shard, key, names.count, header, alarms)
        self._add(alarms=len(alarms))
        for key, alarm in alarms.items():
            rows = indexed[STEADY_INDEX_KEY if alarm.is_steady else INDEX_KEY]
            if (row := index_row_key(alarm.due_us, key)) in rows:
                rows.remove(row)
            else:
                yield f"the alarm of the object with the key {key.hex()} is not in the index, so it would never ring"
        for row in sorted(set().union(*indexed.values())):
            yield f"the index has an alarm that its object does not have: {row}"
        if state.has_index and not index.fits:
            yield "the index of names does not say which objects there are"

    def _object_problems(
        self, shard: int, key: bytes, rows: int, header: bytes | None, alarms: dict[bytes, Alarm]
    ) -> Iterator[str]:
        if header is None:
            if rows:
                yield f"the object with the key {key.hex()} has {rows} rows and no header"
            return
        try:
            decoded = decode_header(header)
        except ValueError as error:
            yield f"the header of the object with the key {key.hex()} cannot be read: {error}"
            return
        name = f"{decoded.class_name}/{decoded.name}"
        if object_key(decoded.class_name, decoded.name) != key:
            yield f"the object with the key {key.hex()} has the header of {name}"
        elif shard_of_slot(int.from_bytes(key[:SLOT_KEY_BYTES], "big"), self._shards) != shard:
            yield f"{name} belongs to another shard"
        if decoded.alarm is not None:
            alarms[key] = decoded.alarm


class IndexSums:
    """Whether an index of names fits the headers: told by sums, since there may be millions."""

    def __init__(self) -> None:
        self._named = self._indexed = 0

    def noting(self, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """The same rows."""
        for key, value in rows:
            if is_header(key) and (named := named_by(value)) is not None:
                self._named ^= _hash_of(index_row(named)[0])
            elif key.startswith(NAMES_KEY):
                self._indexed ^= _hash_of(key)
            yield key, value

    @property
    def fits(self) -> bool:
        return self._named == self._indexed


def _hash_of(row: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(row, digest_size=16).digest(), "big")


class Names:
    """The keys of an object; those of the alarm indexes are remembered."""

    def __init__(self, *, remembered: bool) -> None:
        self.count = 0
        self.all: set[str] = set()
        self._remembered = remembered

    def add(self, name: str) -> None:
        self.count += 1
        if self._remembered:
            self.all.add(name)


def objects(rows: Iterable[tuple[bytes, bytes]], memtable: Memtable) -> Iterator[tuple[bytes, Names, bytes | None]]:
    """Each object of a state with the memtable over it: its key, the names of its rows, its header."""
    seen: set[bytes] = set()
    current, names, header = b"", Names(remembered=False), None
    for key, value in rows:
        owner = key[:OBJECT_KEY_BYTES]
        if owner != current:
            if current:
                yield current, names, header
            current = owner
            names, header = _begin(owner, memtable, seen)
        held = memtable.objects.get(owner)
        name = key[OBJECT_KEY_BYTES:].decode(errors="backslashreplace")
        if held is None or (not held.cleared and name not in held.writes):
            names.add(name)
            if not name:
                header = value
    if current:
        yield current, names, header
    for owner in memtable.objects:
        if owner not in seen:
            yield owner, *_begin(owner, memtable, seen)


def _begin(owner: bytes, memtable: Memtable, seen: set[bytes]) -> tuple[Names, bytes | None]:
    """What the memtable has of the object."""
    names = Names(remembered=owner >= OWN_FIRST)
    held = memtable.objects.get(owner)
    if held is None:
        return names, None
    seen.add(owner)
    writes: Mapping[str, bytes | None] = held.writes
    for name, value in writes.items():
        if value is not None:
            names.add(name)
    return names, writes.get("")
