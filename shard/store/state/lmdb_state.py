"""The LMDB environment of one shard: its checkpointed state.

Rule 1: LMDB's own locks are off (`lock=False`), because a write transaction begun on the loop thread is committed in a helper
        thread. In return the data directory is locked by the supervisor, one worker owns the shard, and nobody reads a state
        as it was before the newest commit once the next batch has begun: pages are being reused then. Snapshots of readers are
        waited for by the checkpointer; what the loop reads with is of the newest commit, whenever it reads.
Rule 2: the sequence of the last commit contained is stored in the same transaction as its data.
Rule 3: any key of a row is longer than an object key and starts with a slot (below 0x40); the one key that starts with 0xff
        is ours.
Rule 4: no row leaves without the checksum of its key and value, and none is said to be absent between two that are damaged or
        out of order. A file up to `STATE_VERIFY_BYTES_MAX` is looked through at every start besides (see `pages`).
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from zlib import crc32

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.runtime.limits import CHECKPOINT_SLICE_KEYS, KEY_BYTES_MAX
from tidegate.shard.log.commit_log import is_copied_on_write, make_directory, overwrite_in_place, sync_directory
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.logs import LOG_KEY
from tidegate.shard.store.names import NAMES_HEAD_KEY, OWN_FIRST, IndexHead, NameChanges, is_header, read_head
from tidegate.shard.store.state.data_file import (
    DATA_FILE,
    FORMAT,
    FORMAT_WITHOUT_CHECKSUMS,
    META_KEY,
    add_checksums,
    compact,
    expected_seq,
    find_damage,
    format_of,
    make_index,
    new_directory,
    open_environment,
    pack_meta,
    remove_new,
    sync_file,
    unpack_meta,
    with_checksum,
    with_checksums,
)
from tidegate.shard.store.state.pages import CRC_BYTES, CRC_RESIDUE, MAP_BYTES_MAX, PageFile
from tidegate.shard.store.store import NotInMemory, StoreFailed, StoreFull

FULL_BELOW_BYTES = 1 << 20

SLOW_READ_S = 0.000_05
"""A read that takes longer may have waited for the disk. The kernel knows; asking it takes a third of a microsecond."""
SLOW_CHANGE_S = 0.001
"""So are many changes at once that take longer."""

assert OBJECT_KEY_BYTES + KEY_BYTES_MAX <= 511, "LMDB as built by its Python package takes keys of 511 bytes"


class Faults(threading.local):
    """Page faults of the thread that asks which waited for the disk. Beside the loop, states of shards that are being taken are
    read by threads, which count their own."""

    def __init__(self) -> None:
        self._seen = 0

    def have_come(self) -> bool:
        """Since this was asked last."""
        seen, self._seen = self._seen, resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
        return self._seen != seen


FAULTS = Faults()
"""One for all states: whichever read was slow has asked, and the others' slow reads are not to be blamed for it."""


_NO_ROOM = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file may not get larger here",
    errno.EROFS: "the file system is read-only",
}
_KNOWN = (*_NO_ROOM, errno.EIO)


def _error_number(error: BaseException) -> int | None:
    """Before version 3 errors of LMDB have no code, and their text ends in the one that the system gives to the number."""
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if code is not None:
        return int(code)
    if isinstance(error, lmdb.DiskError):
        return errno.ENOSPC
    return next((number for number in _KNOWN if str(error).endswith(os.strerror(number))), None)


def _failure(operation: str, path: Path, error: BaseException) -> OperatorError:
    code = _error_number(error)
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(operation, path, "the map is full", "spread the data over more shards; writes wait meanwhile")
    if code == errno.EIO and _is_full(path):
        code = errno.ENOSPC
    if code in _NO_ROOM:
        return StoreFull(operation, path, _NO_ROOM[code], "free some space on this file system; it is tried again")
    return StoreFailed(operation, path, str(error), "the worker restarts and recovers; check the disk and the kernel's log")


def _is_full(path: Path) -> bool:
    """LMDB calls a write that was cut short by a full disk an I/O error. The transaction is gone then, and nothing else."""
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize < FULL_BELOW_BYTES


class Sizes(NamedTuple):
    """As of the newest commit. What asks for them reads pages of the file: not to be done on the loop."""

    file_bytes: int
    free_bytes: int
    """Of these, what holds nothing; the lists of free pages count as such."""
    leaf_pages: int
    """That hold rows."""


def sizes_of(env: lmdb.Environment) -> Sizes:
    stat, info = env.stat(), env.info()
    pages = int(info["last_pgno"]) + 1
    used = 2 + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return Sizes(pages * int(stat["psize"]), (pages - int(used)) * int(stat["psize"]), int(stat["leaf_pages"]))


class LmdbState:
    """The rows of one shard as of `applied_seq`, on disk."""

    def __init__(self, path: Path, shard: int, *, map_bytes: int = MAP_BYTES_MAX) -> None:
        """Opens the environment in `path`, or creates it durably. What is of an older format becomes of this one, durably. Raises
        `ShardDamaged` where anything in it does not fit, `StoreFailed` where the disk fails, and OperatorError."""
        self.shard = shard
        self.path = path
        self.was_read = False
        """Set by every read that is made on the loop thread."""
        self.on_fault: Callable[[float], object] | None = None
        """Told how long it took when such a read, or a change, has waited for the disk."""
        self.is_open = True
        self.expected_seq = 0
        """What recovery must reach at least: see `data_file.expected_seq`."""
        self._map_bytes = map_bytes
        self._reading: Any = None
        """What `get` reads with: a transaction that was begun after so many commits."""
        self.commits, self._read_at = 0, -1
        try:
            path.mkdir(parents=True, exist_ok=True)
            overwrite_in_place(path)  # A checkpoint on a full disk takes pages that the file has already.
            remove_new(path)
            is_new = self._is_new()
            sync_directory(path)  # A process before may have put a file in place, and ended before that was durable.
            self._env = open_environment(path, map_bytes)
        except (lmdb.InvalidError, lmdb.CorruptedError) as error:
            raise ShardDamaged(shard, "open store", path, f"data.mdb is damaged: {error}") from error
        except (OSError, lmdb.Error, MemoryError) as error:
            failure = _failure("open store", path, error)
            if isinstance(failure, StoreFull) or _error_number(error) == errno.EIO:
                raise failure from error
            raise OperatorError(
                "open store", path, str(error), "check the permissions, the address space limit (ulimit -v) and the disk",
            ) from error  # fmt: skip
        try:
            self.names = IndexHead(0)
            """Of the index of names, as it is committed."""
            self.applied_seq = self._create() if is_new else self._check()
            self._index_names()
            self.log_mark = self.get(LOG_KEY) or b""
            self.sizes = sizes_of(self._env)
            self.is_copied_on_write = is_copied_on_write(path / DATA_FILE)
        except BaseException:
            self._env.close()
            raise

    @property
    def leaf_pages(self) -> int:
        return self.sizes.leaf_pages

    def _is_new(self) -> bool:
        """Whether there is nothing yet. What is there is looked at, and brought to this format."""
        file = self.path / DATA_FILE
        if not file.exists() or file.stat().st_size == 0:
            return True
        try:
            with PageFile(file) as pages:
                version = format_of(pages)
                if (damage := find_damage(pages, checksums=version > FORMAT_WITHOUT_CHECKSUMS)) is not None:
                    raise self.damaged(damage)
                meta = pages.newest_meta()
                assert meta is not None
                if meta.main.entries == 0 and meta.txn == 0:
                    return True
                self.expected_seq = expected_seq(pages)
        except ValueError as error:
            raise self.damaged(error) from error
        if version == FORMAT_WITHOUT_CHECKSUMS:
            try:
                add_checksums(self.path, self.shard, self._map_bytes)
            except lmdb.Error as error:
                raise _failure("upgrade store", self.path, error) from error
        return False

    def _create(self) -> int:
        """The first commit. It comes after the file and the names on the way to it are durable, which LMDB does not see to; so
        a state that has a commit has durable names."""
        try:
            sync_file(self.path / DATA_FILE)
            sync_directory(self.path)
            make_directory(self.path)
        except OSError as error:
            raise _failure("create store", self.path, error) from error
        batch = self.begin()
        batch.set_applied_seq(0)
        batch.commit()
        return 0

    def _check(self) -> int:
        """The applied sequence, if the environment is ours."""
        version, shard, applied_seq = unpack_meta(self.get(META_KEY))
        if version == 0:
            raise self.damaged("the row that says which shard it holds is missing")
        if version != FORMAT:
            raise OperatorError("open store", self.path, f"format {version} is unknown", "use the version that wrote it")
        if shard != self.shard:
            hint = "put the directories back in their places"
            raise ShardDamaged(self.shard, "open store", self.path, f"it holds shard {shard}", hint)
        return applied_seq

    def _index_names(self) -> None:
        """Reads what the index of names says of itself; where it is not of the newest commit, the index is made anew."""
        head = read_head(self.get(NAMES_HEAD_KEY))
        if head is None or head.seq != self.applied_seq:
            self._end_reading()  # A commit comes that no batch makes, and that `commits` does not count.
            head = make_index(self._env, self.shard, self.applied_seq)
        self.names = head

    def damaged(self, problem: object) -> ShardDamaged:
        return ShardDamaged(self.shard, "read store", self.path, str(problem))

    def check_recovered(self, seq: int) -> None:
        """With what the logs have it gets to `seq`. Raises `ShardDamaged` if something newer was here before."""
        if seq < self.expected_seq:
            raise self.damaged(f"its meta pages and the logs lead to commit {seq}, but commit {self.expected_seq} was here")

    def get(self, key: bytes) -> bytes | None:
        """About a microsecond for a page in memory. What it reads with is kept until the next commit (rule 1)."""
        began = perf_counter()
        self.was_read = True
        if self.commits != self._read_at:
            self._begin_reading()
        try:  # `_get`, without the call: an object that comes into memory is read twice.
            value: bytes | None = self._reading.get(key)
            if value is None:
                _check_absent(self._reading, key)
            elif crc32(value, crc32(key)) != CRC_RESIDUE:
                raise _wrong_checksum(key)
        except (_WrongRow, lmdb.Error) as error:
            raise self.damaged(error) from error
        if (took_s := perf_counter() - began) > SLOW_READ_S:
            self.ask_for_faults(took_s)
        return None if value is None else value[:-CRC_BYTES]

    def _begin_reading(self) -> None:
        self._end_reading()
        commits = self.commits  # Before it begins: a commit that ends meanwhile is seen by the next one.
        self._reading = self._env.begin()
        self._read_at = commits

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.abort()
        self._reading, self._read_at = None, -1

    def scan(
        self, start: bytes, end: bytes, reverse: bool, *, may_wait: bool = True
    ) -> Generator[tuple[bytes, bytes], None, None]:
        """Rows of [start, end) in order. To be used up or closed before anything is awaited (rule 1). Unless it `may_wait`, the
        first row for which it has waited for the disk is followed by `NotInMemory`."""
        began = perf_counter()
        self.was_read = True
        txn = self._env.begin()
        try:
            rows = _rows(txn, start, end, reverse)
            yield from rows if may_wait else self._in_memory(rows)
        except (_WrongRow, lmdb.Error) as error:
            raise self.damaged(error) from error
        finally:
            txn.abort()
            if (took_s := perf_counter() - began) > SLOW_READ_S:
                self.ask_for_faults(took_s)

    def _in_memory(self, rows: Iterator[tuple[bytes, bytes]]) -> Generator[tuple[bytes, bytes], None, None]:
        began = perf_counter()
        for row in rows:
            now = perf_counter()
            if now - began > SLOW_READ_S and self.ask_for_faults(now - began):
                raise NotInMemory
            began = now
            yield row

    def ask_for_faults(self, took_s: float) -> bool:
        """Something was slow: by the disk, or only by its size or because the thread had to wait for a core?"""
        waited = FAULTS.have_come()
        if waited and self.on_fault is not None:
            self.on_fault(took_s)
        return waited

    def copy_smaller(self) -> tuple[lmdb.Environment, Sizes]:
        """Puts a copy without free pages in the place of the file, durably. The state goes on with the old one, which has lost
        its name, until it is told to change. No batch may be begun meanwhile. Blocks; raises OSError, lmdb.Error and
        `ShardDamaged`."""
        try:
            copy = compact(self.path, self._env, self._map_bytes)
        except lmdb.CorruptedError as error:
            raise self.damaged(error) from error
        return copy, sizes_of(copy)

    def change_to(self, environment: lmdb.Environment, sizes: Sizes) -> lmdb.Environment:
        """From now on reads and batches are made over that; the old one, to be closed when its snapshots are."""
        self._end_reading()
        old, self._env = self._env, environment
        self.sizes, self.is_copied_on_write = sizes, False
        return old

    def copy_aside(self) -> Path:
        """A directory beside the data file with a copy of it that has no free pages, as it is committed; whoever opens the state
        next removes what is left there. No batch may be begun meanwhile. Blocks; raises OperatorError."""
        new = new_directory(self.path)
        try:
            self._env.copy(str(new), compact=True)
        except lmdb.CorruptedError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise self.damaged(error) from error
        except (OSError, lmdb.Error) as error:
            shutil.rmtree(new, ignore_errors=True)
            raise _failure("copy store", self.path, error) from error
        return new

    def snapshot(self) -> LmdbSnapshot:
        return LmdbSnapshot(self._env, self.damaged)

    def begin(self) -> LmdbBatch:
        return LmdbBatch(self, self._env)

    def close(self) -> None:
        self.is_open = False
        self._end_reading()
        self._env.close()


class _WrongRow(Exception):
    """A row is not what was written, or not where it belongs."""


_NO_LAST_ROW = "the last row, which says what the file is, cannot be found: rows before it may be missing, too"


def _wrong_checksum(key: bytes) -> _WrongRow:
    return _WrongRow(f"the checksum of row {key.hex()} is wrong")


def _get(txn: Any, key: bytes) -> bytes | None:
    value: bytes | None = txn.get(key)
    if value is None:
        _check_absent(txn, key)
        return None
    if crc32(value, crc32(key)) != CRC_RESIDUE:
        raise _wrong_checksum(key)
    return value[:-CRC_BYTES]


def _check_absent(txn: Any, key: bytes) -> None:
    """Whichever row's key is damaged, the search for that row ends beside it. (There is always a row behind: ours.)"""
    cursor = txn.cursor()
    if not cursor.set_range(key):
        raise _WrongRow(_NO_LAST_ROW)
    _check_row(cursor.item(), key, None)
    if cursor.prev():
        _check_row(cursor.item(), b"", key)


def _check_row(row: tuple[bytes, bytes], low: bytes, high: bytes | None) -> None:
    """That it is whole, not below `low`, and below `high`."""
    key, value = row
    if crc32(value, crc32(key)) != CRC_RESIDUE:
        raise _wrong_checksum(key)
    if key < low or (high is not None and key >= high):
        raise _WrongRow(f"row {key.hex()} is out of order")


def _rows(txn: Any, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
    """The rows before the first and behind the last one are looked at, too: they might belong in between. (There is always a row
    behind: ours.)"""
    cursor = txn.cursor()
    if not cursor.set_range(end if reverse else start):
        raise _WrongRow(_NO_LAST_ROW)
    if not reverse:
        last = start
        if cursor.prev():
            _check_row(cursor.item(), b"", start)
            cursor.next()
        else:
            cursor.first()
        for key, value in cursor.iternext():
            if crc32(value, crc32(key)) != CRC_RESIDUE or key < last:
                raise _WrongRow(f"row {key.hex()} is damaged or out of order")
            if key >= end:
                return
            yield key, value[:-CRC_BYTES]
            last = key
        raise _WrongRow(_NO_LAST_ROW)
    _check_row(cursor.item(), end, None)
    if cursor.prev():
        last = end
        for key, value in cursor.iterprev():
            if crc32(value, crc32(key)) != CRC_RESIDUE or key > last:
                raise _WrongRow(f"row {key.hex()} is damaged or out of order")
            if key < start:
                return
            yield key, value[:-CRC_BYTES]
            last = key


class LmdbSnapshot:
    """A read transaction. Taken on the loop thread, which touches no page but the newest meta page, used and closed by one
    other thread (rule 1)."""

    def __init__(self, env: lmdb.Environment, damaged: Callable[[object], ShardDamaged]) -> None:
        self._txn = env.begin()
        self._damaged = damaged

    def get(self, key: bytes) -> bytes | None:
        try:
            return _get(self._txn, key)
        except (_WrongRow, lmdb.Error) as error:
            raise self._damaged(error) from error

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
        try:
            yield from _rows(self._txn, start, end, reverse)
        except (_WrongRow, lmdb.Error) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        self._txn.abort()


class LmdbBatch:
    """A write transaction. Made, filled and aborted on the loop thread; `commit` may run in a helper thread."""

    def __init__(self, state: LmdbState, env: lmdb.Environment) -> None:
        self._state = state
        self._env = env
        self._seq: int | None = None
        self._log_mark: bytes | None = None
        self._names = NameChanges(state.names)
        self._cursor: Any = None
        """For puts; LMDB closes it at the end of the transaction, and keeps it right meanwhile."""
        try:
            self._txn = env.begin(write=True)
        except lmdb.Error as error:
            raise _failure("begin checkpoint of", state.path, error) from error

    def put_many(self, items: list[tuple[bytes, bytes]]) -> None:
        began = perf_counter()
        try:
            for key, value in items:
                if len(key) == OBJECT_KEY_BYTES and key < OWN_FIRST and self._txn.get(key) is None:
                    self._names.write(value)
            if self._cursor is None:
                self._cursor = self._txn.cursor()
            self._cursor.putmulti(with_checksums(items))
        except lmdb.Error as error:
            raise self._failure(error) from error
        if (took_s := perf_counter() - began) > SLOW_CHANGE_S:
            self._state.ask_for_faults(took_s)

    def _put_new(self, key: bytes, value: bytes) -> bool:
        return bool(self._txn.put(key, with_checksum(key, value), overwrite=False))

    def delete_many(self, keys: list[bytes]) -> None:
        delete = self._txn.delete
        try:
            for key in keys:
                if is_header(key) and (header := self._txn.get(key)) is not None:
                    self._names.delete(self._whole(key, header))
                delete(key)
        except lmdb.Error as error:  # Deleting copies pages too, so it can run out of room as well.
            raise self._failure(error) from error

    def delete_range(self, start: bytes, end: bytes, keys_max: int) -> bool:
        """Deletes at most so many keys of [start, end); whether the range is empty now."""
        headers: list[tuple[bytes, bytes]] = []
        try:
            with self._txn.cursor() as cursor:
                more = cursor.set_range(start)
                while more and (key := cursor.key()) < end:
                    if keys_max == 0:
                        break
                    keys_max -= 1
                    if is_header(key):
                        headers.append(cursor.item())
                    more = cursor.delete() and cursor.key() != b""
                is_empty = not more or cursor.key() >= end
            for key, header in headers:
                self._names.delete(self._whole(key, header))
        except lmdb.Error as error:
            raise self._failure(error) from error
        return is_empty

    def _whole(self, key: bytes, header: bytes) -> bytes:
        """Without its checksum. A damaged one may name another object."""
        if crc32(header, crc32(key)) != CRC_RESIDUE:
            raise self._state.damaged(f"the checksum of row {key.hex()} is wrong")
        return header[:-CRC_BYTES]

    def next_names(self, keys_max: int) -> list[bytes]:
        return self._names.next(keys_max)

    def change_names(self, keys_max: int) -> None:
        try:
            self._names.step(self._put_new, self._txn.delete, keys_max)
        except lmdb.Error as error:
            raise self._failure(error) from error

    def set_applied_seq(self, seq: int) -> None:
        self._seq = self._names.seq = seq
        self.put_many([(META_KEY, pack_meta(self._state.shard, seq))])

    def set_log(self, mark: bytes) -> None:
        self._log_mark = mark
        self.put_many([(LOG_KEY, mark)])

    def commit(self) -> None:
        """Blocks until durable, without the GIL. On failure nothing of the batch is in the state."""
        try:
            while self._names.next(CHECKPOINT_SLICE_KEYS):
                self._names.step(self._put_new, self._txn.delete, CHECKPOINT_SLICE_KEYS)
            if (head := self._names.head()) is not None:
                self._txn.put(head[0], with_checksum(*head))
            self._txn.commit()
            self._state.commits += 1
        except lmdb.Error as error:
            self._txn.abort()  # Else it is open as long as the error is, and none can be begun.
            raise self._failure(error) from error
        if self._seq is not None:
            self._state.applied_seq = self._seq
        if self._log_mark is not None:
            self._state.log_mark = self._log_mark
        self._state.names = self._names.after()
        self._state.sizes = sizes_of(self._env)

    def abort(self) -> None:
        self._txn.abort()

    def _failure(self, error: lmdb.Error) -> OperatorError:
        """What does not fit in the file will not fit in the next process either."""
        if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError)):
            return self._state.damaged(error)
        return _failure("checkpoint into", self._state.path, error)
