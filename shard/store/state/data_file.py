"""A shard's data file as a whole: its format, how it is looked through, how it is made anew.

Format 2: each value ends in the CRC-32 of key and value; the row with the largest key says which format and shard this is, and
what it contains. Format 1 had no checksums; such a file is written again, once, before anything is served from it.

Rule: a data file is replaced as one, durably, or stays as it is.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any
from zlib import crc32

import lmdb

from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.runtime.limits import STATE_VERIFY_BYTES_MAX
from tidegate.shard.log.commit_log import overwrite_in_place, sync_directory
from tidegate.shard.store.interface import NAMES_KEY
from tidegate.shard.store.names import OWN_FIRST, IndexHead, head_row, index_row, named_by
from tidegate.shard.store.state.pages import CRC_BYTES, Damage, PageFile, Verifier, is_whole
from tidegate.shard.store.store import StoreFailed

FORMAT = 2
FORMAT_WITHOUT_CHECKSUMS = 1
DATA_FILE = "data.mdb"
NEW = "new-"
"""What the names begin with of directories where data files are made that are to replace the one there is."""
MAP_BYTES_MIN = 1 << 30
"""The map is address space, not memory or disk. It is made as large as the system grants."""

WRITE_ROWS = 10_000
"""Rows that are written in one transaction where a data file is made anew."""
PROGRESS_S = 1.0

META_KEY = b"\xffstate"
_META = struct.Struct("<IIQ")  # format, shard, applied sequence
_NO_META = (0, 0, 0)

log = logging.getLogger("tidegate")


def pack_meta(shard: int, applied_seq: int) -> bytes:
    """The value of the row that says what this is."""
    return _META.pack(FORMAT, shard, applied_seq)


def open_environment(path: Path, map_bytes: int, *, readonly: bool = False) -> lmdb.Environment:
    """Opens or creates it, with the largest map up to `map_bytes` that the system grants."""
    options: dict[str, Any] = {
        "readonly": readonly,
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


def map_to_read(path: Path) -> int:
    """How large a map has to be where nothing is written. Of the largest no more than a hundred fit into the address space, and
    a directory may have more shards."""
    size = 1
    with contextlib.suppress(FileNotFoundError):  # Which LMDB will say.
        size = max(size, (path / DATA_FILE).stat().st_size)
    return size + -size % mmap.PAGESIZE


def unpack_meta(value: bytes | None) -> tuple[int, int, int]:
    """Format, shard and applied sequence, all 0 where there is none."""
    if value is None or len(value) != _META.size:
        return _NO_META
    version, shard, applied_seq = _META.unpack(value)
    return int(version), int(shard), int(applied_seq)


def format_of(pages: PageFile) -> int:
    """The number of the format, 0 where none can be read."""
    meta = pages.newest_meta()
    row = None if meta is None else pages.last_row(meta)
    if row is None or row.key != META_KEY:
        return 0
    version = unpack_meta(row.value)[0]  # Without a checksum: that is what the first format was.
    return version if version == FORMAT_WITHOUT_CHECKSUMS else unpack_meta(row.value[:-CRC_BYTES])[0]


def expected_seq(pages: PageFile) -> int:
    """The largest applied sequence that either of the two newest commits has. One flipped bit can make the newest look like one
    before the other, from which LMDB then goes on. An interrupted commit looks the same, but all of that is in the log still."""
    rows = [pages.last_row(meta) for meta in pages.metas() if not isinstance(meta, Damage)]
    whole = [row.value[:-CRC_BYTES] for row in rows if row is not None and row.key == META_KEY and is_whole(row.key, row.value)]
    return max((unpack_meta(value)[2] for value in whole), default=0)


def find_damage(pages: PageFile, *, checksums: bool) -> Damage | None:
    """The first damage that is found. Of a large file only the meta pages are looked at, unless it is shorter than they say."""
    verifier = Verifier(pages, checksums=checksums)
    meta = pages.newest_meta()
    if meta is not None and pages.size_bytes > STATE_VERIFY_BYTES_MAX and meta.last_page < pages.pages:
        return next(verifier.check_metas(), None)
    return next(verifier.run(), None)


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def new_directory(path: Path) -> Path:
    """One that is empty, beside the data file in `path`. LMDB wants no name twice in a process."""
    new = Path(tempfile.mkdtemp(prefix=NEW, dir=path))
    overwrite_in_place(new)
    return new


@contextlib.contextmanager
def new_data(path: Path) -> Iterator[Path]:
    """A directory beside the data file in `path`, for one that is to take its place."""
    new = new_directory(path)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def put_in_place(new: Path, path: Path) -> None:
    """All of the new data file, or all of the old one, whatever happens. Raises OSError: the old one is still there. Raises
    `StoreFailed`: one of the two is, and what is written into either may be lost; only a new process goes on."""
    sync_file(new / DATA_FILE)
    (new / DATA_FILE).rename(path / DATA_FILE)
    try:
        sync_directory(path)
    except OSError as error:
        raise StoreFailed("replace store", path, error.strerror or str(error), "check the disk and the kernel's log") from error


def remove_new(path: Path) -> None:
    """What a process has left that has not come to its end."""
    for new in path.glob(NEW + "*"):
        shutil.rmtree(new, ignore_errors=True)


def compact(path: Path, old: lmdb.Environment, map_bytes: int, *, checksums: bool = True) -> lmdb.Environment:
    """Puts the same rows in a file without free pages in the place of the data file, durably, and opens that. Raises OSError,
    `StoreFailed`, lmdb.Error; `lmdb.CorruptedError` where rows would be lost that the file there is may have still."""
    with new_data(path) as new:
        old.copy(str(new), compact=True)
        with PageFile(new / DATA_FILE) as pages:  # LMDB copies what it finds, and how many rows there should be.
            if (damage := next(Verifier(pages, checksums=checksums).run(), None)) is not None:
                raise lmdb.CorruptedError(f"a copy of it is damaged: {damage}")
        environment = open_environment(new, map_bytes)
        try:
            put_in_place(new, path)
        except BaseException:
            environment.close()
            raise
    return environment


def add_checksums(path: Path, shard: int, map_bytes: int) -> None:
    """The same rows in the next format. Raises OSError, lmdb.Error."""
    with new_data(path) as new:
        with contextlib.closing(open_environment(path, map_bytes)) as old, old.begin() as txn:
            rows = progress(txn.cursor().iternext(), int(txn.stat()["entries"]), f"upgrading the store of shard {shard}")
            write_rows(new, _in_new_format(rows), map_bytes)
        put_in_place(new, path)


def _in_new_format(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for key, value in rows:
        if key == META_KEY:
            _, shard, applied_seq = unpack_meta(value)
            yield key, pack_meta(shard, applied_seq)
        else:
            yield key, value


def progress(rows: Iterator[tuple[bytes, bytes]], total: int, what: str) -> Iterator[tuple[bytes, bytes]]:
    """The same rows; says how far it is each time that another second has passed."""
    said_at = perf_counter()
    for number, row in enumerate(rows):
        if number % WRITE_ROWS == 0 and perf_counter() - said_at > PROGRESS_S:
            said_at = perf_counter()
            log.info("%s: %d %%", what, 100 * number // max(1, total))
        yield row


def write_rows(place: Path, rows: Iterator[tuple[bytes, bytes]], map_bytes: int) -> None:
    """Makes a data file in the directory, of rows in the order of their keys; each gets its checksum."""
    with contextlib.closing(open_environment(place, map_bytes)) as env:
        while piece := list(islice(rows, WRITE_ROWS)):
            with env.begin(write=True) as txn:
                txn.cursor().putmulti(with_checksums(piece), append=True)


def make_index(environment: lmdb.Environment, shard: int, applied_seq: int) -> IndexHead:
    """Makes the index of names anew, durably. Raises lmdb.Error."""
    counts: dict[str, int] = {}
    with environment.begin(write=True) as txn, txn.cursor() as cursor:
        more = cursor.set_range(NAMES_KEY)
        while more and cursor.key()[: len(NAMES_KEY)] == NAMES_KEY:
            more = cursor.delete() and cursor.key() != b""
    total, done, after, said_at = int(environment.stat()["entries"]), 0, b"", perf_counter()
    while True:
        with environment.begin() as txn:  # None is kept over a commit: see `lmdb_state`, rule 1.
            headers = list(islice(_headers(txn, after), WRITE_ROWS * 10))
        if not headers:
            break
        after, done = headers[-1][0], done + len(headers)
        piece = [named for _, header in headers if (named := named_by(header)) is not None]
        for named in piece:
            counts[named.class_name] = counts.get(named.class_name, 0) + 1
        with environment.begin(write=True) as txn:
            txn.cursor().putmulti(with_checksums(sorted(map(index_row, piece))))
        if perf_counter() - said_at > PROGRESS_S:
            said_at = perf_counter()
            log.info("indexing the names of shard %d: %d objects of %d rows", shard, done, total)
    head = IndexHead(applied_seq, counts)
    with environment.begin(write=True) as txn:
        txn.cursor().putmulti(with_checksums([head_row(head)]))
    return head


def _headers(txn: lmdb.Transaction, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Of all objects behind that one, with their keys. What comes between is passed by."""
    cursor = txn.cursor()
    more = cursor.set_range(after + b"\xff") if after else cursor.first()
    while more and (key := bytes(cursor.key())) < OWN_FIRST:
        if len(key) == OBJECT_KEY_BYTES:
            yield key, bytes(cursor.value()[:-CRC_BYTES])
            more = cursor.next()
        else:
            more = cursor.set_range(key[:OBJECT_KEY_BYTES] + b"\xff")


def with_checksum(key: bytes, value: bytes) -> bytes:
    return value + crc32(value, crc32(key)).to_bytes(CRC_BYTES, "little")


def with_checksums(items: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(key, value + crc32(value, crc32(key)).to_bytes(CRC_BYTES, "little")) for key, value in items]  # As above.
