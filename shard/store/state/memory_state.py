"""A shard's state without files, for tests, the simulator and micro-benchmarks: same protocol, same atomicity as the LMDB state.

What a batch did not commit is gone, as after a crash; what it committed stays for whoever opens the state again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator
from functools import partial

from tidegate.runtime.limits import CHECKPOINT_SLICE_KEYS
from tidegate.shard.store.names import IndexHead, NameChanges, is_header
from tidegate.shard.store.store import NotInMemory


class MemorySnapshot:
    """The rows of a state as they were: they are never changed, only replaced. `closed` is called at the end."""

    def __init__(self, rows: dict[bytes, bytes], ordered: list[bytes], closed: Callable[[MemorySnapshot], object]) -> None:
        self._rows = rows
        self._ordered = ordered
        self._closed = closed

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
        return _scan(self._rows, self._ordered, start, end, reverse)

    def close(self) -> None:
        self._closed(self)


class MemoryState:
    """Committed rows in a dict and a sorted list of their keys."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.applied_seq = 0
        self.log_mark = b""
        self.names = IndexHead(0)
        self.leaf_pages = 0
        self.commits = 0
        self._view: tuple[dict[bytes, bytes], list[bytes]] = ({}, [])
        """The rows and their keys in order; replaced as one, since a commit happens in a thread and reads on the loop."""
        self._batch: MemoryBatch | None = None
        self._snapshots: dict[MemorySnapshot, int] = {}
        """Those in use, with the number of commits when they were taken."""
        self.commit_error: Exception | None = None
        """Raised instead of the next commit, once; nothing of that batch is kept."""
        self.waits_at = 0
        """The row of each scan that is not in memory, as if there were a disk. 0: they all are."""

    @property
    def rows(self) -> dict[bytes, bytes]:
        return self._view[0]

    def get(self, key: bytes) -> bytes | None:
        return self._view[0].get(key)

    def scan(
        self, start: bytes, end: bytes, reverse: bool, *, may_wait: bool = True
    ) -> Generator[tuple[bytes, bytes], None, None]:
        for number, row in enumerate(_scan(*self._view, start, end, reverse), 1):
            if not may_wait and self.waits_at == number:
                raise NotInMemory
            yield row

    def snapshot(self) -> MemorySnapshot:
        taken = MemorySnapshot(*self._view, partial(self._snapshots.pop))
        self._snapshots[taken] = self.commits
        return taken

    def begin(self) -> MemoryBatch:
        assert self._batch is None, "one batch at a time"
        assert all(taken == self.commits for taken in self._snapshots.values()), "a snapshot outlives what it was taken of"
        self._batch = MemoryBatch(self)
        return self._batch

    def end_batch(self, batch: MemoryBatch) -> None:
        assert self._batch is batch
        self._batch = None

    def replace_rows(self, rows: dict[bytes, bytes], applied_seq: int) -> None:
        self._view = rows, sorted(rows)
        self.applied_seq = applied_seq
        self.commits += 1


class MemoryBatch:
    """Changes a copy, which replaces the state's rows at commit."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state
        self._rows = dict(state.rows)
        self._applied_seq = state.applied_seq
        self._log_mark = state.log_mark
        self._names = NameChanges(state.names)

    def put_many(self, items: list[tuple[bytes, bytes]]) -> None:
        for key, value in items:
            if is_header(key) and key not in self._rows:
                self._names.write(value)
        self._rows.update(items)

    def _put_new(self, key: bytes, value: bytes) -> bool:
        if key in self._rows:
            return False
        self._rows[key] = value
        return True

    def delete_many(self, keys: list[bytes]) -> None:
        for key in keys:
            value = self._rows.pop(key, None)
            if value is not None and is_header(key):
                self._names.delete(value)

    def delete_range(self, start: bytes, end: bytes, keys_max: int) -> bool:
        inside = sorted(key for key in self._rows if start <= key < end)
        self.delete_many(inside[:keys_max])
        return len(inside) <= keys_max

    def next_names(self, keys_max: int) -> list[bytes]:
        return self._names.next(keys_max)

    def change_names(self, keys_max: int) -> None:
        self._names.step(self._put_new, lambda row: self._rows.pop(row, None) is not None, keys_max)

    def set_applied_seq(self, seq: int) -> None:
        self._applied_seq = self._names.seq = seq

    def set_log(self, mark: bytes) -> None:
        self._log_mark = mark

    def commit(self) -> None:
        self._state.end_batch(self)
        if (error := self._state.commit_error) is not None:
            self._state.commit_error = None
            raise error
        while self.next_names(CHECKPOINT_SLICE_KEYS):
            self.change_names(CHECKPOINT_SLICE_KEYS)
        self._state.names = self._names.after()
        self._state.replace_rows(self._rows, self._applied_seq)
        self._state.log_mark = self._log_mark

    def abort(self) -> None:
        self._state.end_batch(self)


def _scan(
    rows: dict[bytes, bytes], ordered: list[bytes], start: bytes, end: bytes, reverse: bool
) -> Generator[tuple[bytes, bytes], None, None]:
    keys = ordered[bisect_left(ordered, start) : bisect_left(ordered, end)]
    for key in reversed(keys) if reverse else keys:
        yield key, rows[key]
