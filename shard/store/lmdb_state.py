"""The LMDB environment of one shard: its checkpointed state.

Rule 1: LMDB's own locks are off (`lock=False`), because a write transaction begun on the loop thread is committed in a helper
        thread. In return the data directory is locked by the supervisor, one worker owns the shard, and a read transaction
        never outlives the call that began it: held across a commit it could see pages that are being reused. Snapshots for
        readers may outlive one commit, but not the beginning of the next batch; the checkpointer waits for them.
Rule 2: the sequence of the last commit contained is stored in the same transaction as its data.
Rule 3: any key of a row is longer than an object key and starts with a slot (below 0x40); the one key that starts with 0xff
        is ours.
"""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Callable, Generator
from pathlib import Path
from time import perf_counter
from typing import Any

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.runtime.limits import KEY_BYTES_MAX
from tidegate.shard.log.commit_log import make_directory, sync_directory
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.store import StoreFailed, StoreFull

FORMAT = 1
MAP_BYTES_MAX = 1 << 40
MAP_BYTES_MIN = 1 << 30
FULL_BELOW_BYTES = 1 << 20
"""The map is address space, not memory or disk. It is made as large as the system grants."""

SLOW_READ_S = 0.000_05
"""A read that takes longer may have waited for the disk. The kernel knows; asking it takes a third of a microsecond."""

_META_KEY = b"\xffstate"
_META = struct.Struct("<IIQ")  # format, shard, applied sequence

assert OBJECT_KEY_BYTES + KEY_BYTES_MAX <= 511, "LMDB as built by its Python package takes keys of 511 bytes"


def open_environment(path: Path, map_bytes: int) -> lmdb.Environment:
    """Opens or creates it, with the largest map up to `map_bytes` that the system grants."""
    options: dict[str, Any] = {
        "max_dbs": 0, "lock": False, "sync": True, "metasync": True, "writemap": False, "readahead": False, "subdir": True,
        "lib_version": 0,  # py-lmdb 3 bundles two incompatible formats; 0 is the one that all versions read.
    }  # fmt: skip
    while True:
        try:
            return lmdb.open(str(path), map_size=map_bytes, **options)
        except TypeError:
            if "lib_version" not in options:
                raise
            del options["lib_version"]  # py-lmdb before 3 has one format, this one, and no such parameter.
        except (lmdb.MemoryError, MemoryError):
            if map_bytes <= MAP_BYTES_MIN:
                raise
            map_bytes //= 4


class Faults:
    """Page faults of the loop thread that waited for the disk."""

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


class LmdbState:
    """The rows of one shard as of `applied_seq`, on disk."""

    def __init__(self, path: Path, shard: int, *, map_bytes: int = MAP_BYTES_MAX) -> None:
        """Opens the environment in `path`, or creates it durably."""
        self.shard = shard
        self.path = path
        self.was_read = False
        """Set by every read that is made on the loop thread."""
        self.on_fault: Callable[[], object] | None = None
        """Called when such a read has waited for the disk."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._env = open_environment(path, map_bytes)
        except (lmdb.InvalidError, lmdb.CorruptedError) as error:
            raise ShardDamaged(shard, "open store", path, f"data.mdb is damaged: {error}") from error
        except (OSError, lmdb.Error, MemoryError) as error:
            if isinstance(full := _failure("open store", path, error), StoreFull):
                raise full from error
            raise OperatorError(
                "open store", path, str(error), "check the permissions, the address space limit (ulimit -v) and the disk",
            ) from error  # fmt: skip
        try:
            meta = self.get(_META_KEY)
            self.applied_seq = self._create() if meta is None else self._check(meta)
        except BaseException:
            self._env.close()
            raise

    def _create(self) -> int:
        """The first commit. It comes after the file and the names on the way to it are durable, which LMDB does not see to; so
        a state that has a commit has durable names."""
        try:
            fd = os.open(self.path / "data.mdb", os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            sync_directory(self.path)
            make_directory(self.path)
        except OSError as error:
            raise _failure("create store", self.path, error) from error
        batch = self.begin()
        batch.set_applied_seq(0)
        batch.commit()
        return 0

    def _check(self, meta: bytes) -> int:
        """The applied sequence, if the environment is ours."""
        version, shard, applied_seq = _META.unpack(meta)
        if version != FORMAT:
            raise OperatorError("open store", self.path, f"format {version} is unknown", "use the version that wrote it")
        if shard != self.shard:
            hint = "put the directories back in their places"
            raise ShardDamaged(self.shard, "open store", self.path, f"it holds shard {shard}", hint)
        return int(applied_seq)

    def get(self, key: bytes) -> bytes | None:
        """One short read transaction: about 1.5 µs for a page in memory."""
        began = perf_counter()
        self.was_read = True
        txn = self._env.begin()
        try:
            value: bytes | None = txn.get(key)
        finally:
            txn.abort()
        if perf_counter() - began > SLOW_READ_S:
            self._ask_for_faults()
        return value

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
        """Rows of [start, end) in order. To be used up or closed before anything is awaited (rule 1)."""
        began = perf_counter()
        self.was_read = True
        txn = self._env.begin()
        try:
            yield from _rows(txn, start, end, reverse)
        finally:
            txn.abort()
            if perf_counter() - began > SLOW_READ_S:
                self._ask_for_faults()

    def _ask_for_faults(self) -> None:
        """A read was slow: by the disk, or only by its size or because the thread had to wait for a core?"""
        if FAULTS.have_come() and self.on_fault is not None:
            self.on_fault()

    def snapshot(self) -> LmdbSnapshot:
        return LmdbSnapshot(self._env)

    def begin(self) -> LmdbBatch:
        return LmdbBatch(self, self._env)

    def close(self) -> None:
        self._env.close()


def _rows(txn: Any, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
    cursor = txn.cursor()
    if not reverse:
        if cursor.set_range(start):
            for key, value in cursor.iternext():
                if key >= end:
                    return
                yield key, value
    elif cursor.prev() if cursor.set_range(end) else cursor.last():
        for key, value in cursor.iterprev():
            if key < start:
                return
            yield key, value


class LmdbSnapshot:
    """A read transaction. Taken on the loop thread, which touches no page but the newest meta page, used and closed by one
    other thread (rule 1)."""

    def __init__(self, env: lmdb.Environment) -> None:
        self._txn = env.begin()

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._txn.get(key)
        return value

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
        return _rows(self._txn, start, end, reverse)

    def close(self) -> None:
        self._txn.abort()


class LmdbBatch:
    """A write transaction. Made, filled and aborted on the loop thread; `commit` may run in a helper thread."""

    def __init__(self, state: LmdbState, env: lmdb.Environment) -> None:
        self._state = state
        self._seq: int | None = None
        try:
            self._txn = env.begin(write=True)
        except lmdb.Error as error:
            raise _failure("begin checkpoint of", state.path, error) from error

    def put_many(self, items: list[tuple[bytes, bytes]]) -> None:
        try:
            with self._txn.cursor() as cursor:
                cursor.putmulti(items)
        except lmdb.Error as error:
            raise _failure("checkpoint into", self._state.path, error) from error

    def delete_many(self, keys: list[bytes]) -> None:
        delete = self._txn.delete
        try:
            for key in keys:
                delete(key)
        except lmdb.Error as error:  # Deleting copies pages too, so it can run out of room as well.
            raise _failure("checkpoint into", self._state.path, error) from error

    def delete_range(self, start: bytes, end: bytes, keys_max: int) -> bool:
        """Deletes at most so many keys of [start, end); whether the range is empty now."""
        try:
            with self._txn.cursor() as cursor:
                more = cursor.set_range(start)
                while more and cursor.key() < end:
                    if keys_max == 0:
                        return False
                    keys_max -= 1
                    more = cursor.delete() and cursor.key() != b""
        except lmdb.Error as error:
            raise _failure("checkpoint into", self._state.path, error) from error
        return True

    def set_applied_seq(self, seq: int) -> None:
        self._seq = seq
        self.put_many([(_META_KEY, _META.pack(FORMAT, self._state.shard, seq))])

    def commit(self) -> None:
        """Blocks until durable, without the GIL. On failure nothing of the batch is in the state."""
        try:
            self._txn.commit()
        except lmdb.Error as error:
            raise _failure("checkpoint into", self._state.path, error) from error
        if self._seq is not None:
            self._state.applied_seq = self._seq

    def abort(self) -> None:
        self._txn.abort()
