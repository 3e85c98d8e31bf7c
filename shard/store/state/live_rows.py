"""The rows of a data file that a worker writes to meanwhile, read by another process without asking anybody.

LMDB writes no page that its newest commits use: while transaction W is being written, pages that W-2 or one before has freed are
taken again. So what was read of commit R is right if R is still the newest commit, or the one before, when it has been read. If
not, it is read again, from the last good row on, of the commit that is the newest then.

Guarantee: a row that does not change between the first and the last read is there once, with its value; one that is not there all
that time is not. What changes meanwhile is as it was at some moment of it: whoever wants the rows of one moment lays the commits
after the first read over them (see `tidegate.shard.backup`).

Rule: no LMDB, which trusts every page, and no map: a file may have any length at any time.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tidegate.runtime.errors import OperatorError
from tidegate.shard.store.state.data_file import DATA_FILE, FORMAT, META_KEY, unpack_meta
from tidegate.shard.store.state.pages import (
    CRC_BYTES,
    Meta,
    PageFile,
    Row,
    child_of,
    is_page,
    is_whole,
    key_at,
    node_offsets,
)

READS_MAX = 1_000
"""Of the same leaf: so many commits in a row would have had to come in between."""
OWN_FIRST = b"\xff"
"""Rows from here on say what the file is."""


class SourceDamaged(OperatorError):
    """A data file of the service itself has a row or a page that is not what was written."""


class _Place(NamedTuple):
    """A branch on the way to a leaf."""

    page: bytes
    nodes: tuple[int, ...]
    nth: int


class _LiveFile(PageFile):
    """Read page by page. The pages that it counts are those of its opening."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def bytes_at(self, start: int, size: int) -> bytes:
        return os.pread(self._fd, size, start) if start < 1 << 62 else b""

    def close(self) -> None:
        super().close()
        os.close(self._fd)


class LiveRows:
    """Of one shard. To be closed."""

    def __init__(self, path: Path, shard: int) -> None:
        """Raises OperatorError for a file that is not of this format, or not of this shard; OSError."""
        self._path = path / DATA_FILE
        self._shard = shard
        try:
            self._file = _LiveFile(self._path)
        except ValueError as error:
            raise self._damaged(str(error)) from None
        try:
            self.seq = self._applied_seq()
        except BaseException:
            self._file.close()
            raise
        self.reads_again = 0
        """Leaves that were read once more, because the worker had gone on."""

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> LiveRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size_bytes(self) -> int:
        """Of the file, when it was opened."""
        return self._file.size_bytes

    def leaves(self, after: bytes = b"") -> Iterator[list[tuple[bytes, bytes]]]:
        """All rows with larger keys but those of the file itself, a leaf at a time, without their checksums."""
        tries = 0
        while True:
            meta = self._newest()
            try:
                for rows in self._walk(meta, after):
                    tries = 0
                    yield rows
                    after = rows[-1][0]
                return
            except _Outdated:
                tries += 1
                self.reads_again += 1
                if tries > READS_MAX:
                    raise self._damaged("it changes faster than it can be read") from None

    def _walk(self, meta: Meta, after: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        way: list[_Place] = []
        number = meta.main.root
        while True:
            while len(way) < meta.main.depth - 1:
                page = self._page(meta, number, leaf=False)
                nodes = node_offsets(page)
                place = _Place(page, nodes, _child_with(page, nodes, after))
                way.append(place)
                number = child_of(page, nodes[place.nth])
            found = list(self._file.rows_of(number, page := self._page(meta, number, leaf=True)))
            self._check_in_time(meta)  # From here on what was read is known to be right.
            if len(found) != len(node_offsets(page)):
                raise self._damaged(f"page {number}: its nodes lie outside of it")
            rows = [(row.key, row.value[:-CRC_BYTES]) for row in self._whole(found) if after < row.key < OWN_FIRST]
            if rows:
                yield rows
                after = rows[-1][0]
            while way and way[-1].nth + 1 == len(way[-1].nodes):
                way.pop()
            if not way:
                return
            place = way[-1] = way[-1]._replace(nth=way[-1].nth + 1)
            number = child_of(place.page, place.nodes[place.nth])

    def _page(self, meta: Meta, number: int, *, leaf: bool) -> bytes:
        page = self._file.page(number)
        if not is_page(page, number, leaf=leaf):
            self._check_in_time(meta)
            raise self._damaged(f"page {number} is not what it should be")
        return page

    def _whole(self, found: list[Row]) -> list[Row]:
        for row in found:
            if not is_whole(row.key, row.value):
                raise self._damaged(f"page {row.page}: the checksum of row {row.key.hex()} is wrong")
        return found

    def _newest(self) -> Meta:
        meta = self._file.newest_meta()
        if meta is None or meta.main.depth == 0:
            raise self._damaged("its meta pages are damaged, or nothing was ever written")
        return meta

    def _check_in_time(self, meta: Meta) -> None:
        newest = self._file.newest_meta()
        if newest is None or not meta.txn <= newest.txn <= meta.txn + 1:
            raise _Outdated

    def _applied_seq(self) -> int:
        for _ in range(READS_MAX):
            meta = self._newest()
            row = self._file.last_row(meta)
            try:
                self._check_in_time(meta)
            except _Outdated:
                continue
            if row is None or row.key != META_KEY:
                raise self._damaged("the row that says which shard it holds is missing")
            version, shard, seq = unpack_meta(row.value[:-CRC_BYTES])
            if version != FORMAT or not is_whole(row.key, row.value):
                hint = "run `tidegate upgrade` on it, or start the service of this version once"
                raise OperatorError("read", self._path, f"it is of another format than {FORMAT}", hint)
            if shard != self._shard:
                raise self._damaged(f"it holds shard {shard}")
            return seq
        raise self._damaged("it changes faster than it can be read")

    def _damaged(self, problem: str) -> SourceDamaged:
        hint = "stop the service and see `tidegate check`; backups made before are good"
        return SourceDamaged("read", f"shard {self._shard} ({self._path})", problem, hint)


class _Outdated(Exception):
    """The worker has committed so often that the pages may be others by now."""


def _child_with(page: bytes, nodes: tuple[int, ...], key: bytes) -> int:
    """Which node of a branch leads to the first row above the key. (The key of the first node counts as the smallest.)"""
    keys = [key_at(page, at) for at in nodes[1:]]
    at = bisect_left(keys, key)
    return at + 1 if at < len(keys) and keys[at] == key else at
