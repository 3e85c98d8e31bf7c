"""The pages of a data file as LMDB 0.9 writes them, read without LMDB: whether they hold together.

LMDB trusts every page. One flipped bit makes it lose rows, serve old ones, or end its process; a file that is shorter than it
says ends it by SIGBUS. So a file is looked through before LMDB may have it.

Guarantee: where `Verifier.run` finds nothing, no single bit can have been flipped so that LMDB finds another row, finds one no
longer, or reads outside of the file. What is checked is what LMDB relies on: each page says its own number, kind and how full it
is; keys ascend and stay between those of the page above; rows have the checksums of keys and values; every page is used once, or
free; rows and pages are as many as the meta page says; the two meta pages are of two commits, one after the other.

Rule 1: bytes in, findings out; nothing is written, and damaged input raises nothing.
Rule 2: the layout is that of `lib_version=0` on a little-endian machine of 64 bits; LMDB writes no other there.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

CRC_BYTES = 4
CRC_RESIDUE = 0x2144DF1C
"""The checksum of anything that ends in its own checksum."""

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_HEADER_BYTES = 16
PAGE_BYTES_MIN, PAGE_BYTES_MAX = 512, 32 << 10
_PAGE = struct.Struct("<QHHHH")  # number, pad, kind, end of the pointers, start of the nodes
_OVERFLOW = struct.Struct("<QHHI")  # number, pad, kind, pages
_NODE = struct.Struct("<HHHH")  # low and high half of a size or page number, flags or more of it, size of the key
_META = struct.Struct("<IIQQ")  # magic, version, address, map size
_TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branches, leaves, overflow pages, entries, root
_META_END = struct.Struct("<QQ")  # last page, transaction
_META_BYTES = _META.size + 2 * _TREE.size + _META_END.size
_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _OVERFLOWS, _META_PAGE = 1, 2, 4, 8
_BIG = 1  # The node's data is the number of its overflow page.
_INTEGER_KEYS = 8
_NO_ROOT = (1 << 64) - 1
_DEPTH_MAX = 32
MAP_BYTES_MAX = 1 << 40
"""More is never mapped: it is address space, of which a process has 1 << 47 bytes, and a worker may have many shards."""
PAGES_TOLD = 1_024
_CUT = "it was cut short, or this is damaged"


class Damage(NamedTuple):
    page: int
    problem: str
    low: bytes = b""
    high: bytes | None = b""
    """The rows that may be lost have keys from `low` to `high`, to the last one if that is None. None are if both are empty."""

    @property
    def loses_rows(self) -> bool:
        return self.high != b""

    def __str__(self) -> str:
        return f"page {self.page}: {self.problem}"


class Tree(NamedTuple):
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int

    @property
    def pages(self) -> int:
        return self.branches + self.leaves + self.overflows


class Meta(NamedTuple):
    page: int
    address: int
    map_bytes: int
    page_bytes: int
    free: Tree
    main: Tree
    last_page: int
    txn: int

    @property
    def free_pages(self) -> int:
        """Pages of the file that hold nothing."""
        return self.last_page + 1 - 2 - self.free.pages - self.main.pages


class Row(NamedTuple):
    page: int
    key: bytes
    value: bytes
    """With its checksum, if it has one."""


def is_whole(key: bytes, value: bytes) -> bool:
    """Whether the value ends in the checksum of key and value."""
    return crc32(value, crc32(key)) == CRC_RESIDUE


class PageFile:
    """An open data file. Nobody may write to it meanwhile."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, and ValueError for a file that is too short to be one."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size_bytes = os.fstat(fd).st_size
            if self.size_bytes < 2 * PAGE_BYTES_MIN:
                raise ValueError(f"it has only {self.size_bytes} bytes")
            self.data = mmap.mmap(fd, self.size_bytes, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        self.data.madvise(mmap.MADV_RANDOM)  # Who looks at its meta pages wants no others.
        self.page_bytes = _page_bytes(self.data)

    def read_in(self) -> None:
        """All of it will be looked at: the system may begin to read."""
        self.data.madvise(mmap.MADV_NORMAL)
        self.data.madvise(mmap.MADV_WILLNEED)

    def close(self) -> None:
        self.data.close()

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pages(self) -> int:
        """Whole pages that the file has."""
        return self.size_bytes // self.page_bytes

    def page(self, number: int) -> bytes:
        """Less than a page, or nothing, beyond the end of the file."""
        return self.bytes_at(number * self.page_bytes, self.page_bytes)

    def bytes_at(self, start: int, size: int) -> bytes:
        """As many of them as the file has."""
        return self.data[start : start + size]

    def metas(self) -> Iterator[Meta | Damage]:
        """Both meta pages."""
        for number in (0, 1):
            yield self._meta(number)

    def newest_meta(self) -> Meta | None:
        """That from which LMDB would read, whatever it says."""
        return max((meta for meta in self.metas() if isinstance(meta, Meta)), key=lambda meta: meta.txn, default=None)

    def _meta(self, number: int) -> Meta | Damage:
        page = self.page(number)
        if len(page) < PAGE_HEADER_BYTES + _META_BYTES:
            return Damage(number, "the file ends before the end of its meta pages")
        found, _, kind, *_ = _PAGE.unpack_from(page)
        magic, version, *_ = _META.unpack_from(page, PAGE_HEADER_BYTES)
        if (found, kind) != (number, _META_PAGE) or magic != MAGIC:
            return Damage(number, "it is no meta page of LMDB")
        if version != VERSION:
            return Damage(number, f"version {version} of LMDB's format is not known to this version")
        return self.meta_like(number)

    def meta_like(self, number: int) -> Meta:
        """What the page says if it is taken for a meta page."""
        page = self.page(number).ljust(PAGE_HEADER_BYTES + _META_BYTES, b"\0")
        _, _, address, map_bytes = _META.unpack_from(page, PAGE_HEADER_BYTES)
        at = PAGE_HEADER_BYTES + _META.size
        page_bytes, *free = _TREE.unpack_from(page, at)
        _, *main = _TREE.unpack_from(page, at + _TREE.size)
        last_page, txn = _META_END.unpack_from(page, at + 2 * _TREE.size)
        return Meta(number, address, map_bytes, page_bytes, Tree(*free), Tree(*main), last_page, txn)

    def last_row(self, meta: Meta) -> Row | None:
        """That with the largest key, if the way to it is whole."""
        number = meta.main.root
        for _ in range(_DEPTH_MAX):
            page = self.page(number)
            nodes = node_offsets(page)
            if not nodes:
                return None
            if _PAGE.unpack_from(page)[2] == _LEAF:
                return next(self.rows_of(number, page, nodes[-1:]), None)
            number = child_of(page, nodes[-1])
        return None

    def is_leaf(self, number: int) -> bool:
        page = self.page(number)
        return len(page) == self.page_bytes and _PAGE.unpack_from(page)[:3:2] == (number, _LEAF)

    def rows_of(self, number: int, page: bytes, nodes: tuple[int, ...] | None = None) -> Iterator[Row]:
        """The rows of a leaf as far as they lie in it, or in the file; they may be damaged."""
        for at in node_offsets(page) if nodes is None else nodes:
            if at + _NODE.size > len(page):
                continue
            low, high, flags, key_bytes = _NODE.unpack_from(page, at)
            start = at + _NODE.size + key_bytes
            size = low | high << 16
            key = page[at + _NODE.size : start]
            if not flags & _BIG:
                yield Row(number, key, page[start : start + size])
            elif start + _NUMBER.size <= len(page):
                begin = _NUMBER.unpack_from(page, start)[0] * self.page_bytes + PAGE_HEADER_BYTES
                yield Row(number, key, self.bytes_at(begin, size))


def _page_bytes(data: mmap.mmap) -> int:
    """By the first meta page; the usual size if that says none that LMDB uses."""
    found = _TREE.unpack_from(data, PAGE_HEADER_BYTES + _META.size)[0]
    usual = PAGE_BYTES_MIN <= found <= PAGE_BYTES_MAX and found & (found - 1) == 0
    return int(found) if usual else min(mmap.PAGESIZE, PAGE_BYTES_MAX)


def node_offsets(page: bytes) -> tuple[int, ...]:
    """Of the nodes of a branch or leaf, in the order of their keys."""
    if len(page) < PAGE_HEADER_BYTES:
        return ()
    end = _PAGE.unpack_from(page)[3]
    if not PAGE_HEADER_BYTES <= end <= len(page):
        return ()
    return struct.unpack_from(f"<{(end - PAGE_HEADER_BYTES) // 2}H", page, PAGE_HEADER_BYTES)


def key_at(page: bytes, at: int) -> bytes:
    """Of a node."""
    start = at + _NODE.size
    return page[start : start + _NODE.unpack_from(page, at)[3]] if start <= len(page) else b""


def is_page(page: bytes, number: int, *, leaf: bool) -> bool:
    """Whether it says that it is that leaf, or that branch, and has nodes."""
    if len(page) < PAGE_HEADER_BYTES or _PAGE.unpack_from(page)[:3:2] != (number, _LEAF if leaf else _BRANCH):
        return False
    return bool(node_offsets(page))


def child_of(page: bytes, at: int) -> int:
    """The page to which a node of a branch points."""
    if at + _NODE.size > len(page):
        return _NO_ROOT
    low, high, more, _ = _NODE.unpack_from(page, at)
    return int(low | high << 16 | more << 32)


class _Place(NamedTuple):
    """Where a page hangs, and what it must be therefore."""

    number: int
    above: int
    """The page that points to it."""
    depth: int
    low: bytes
    """Its keys are not below."""
    high: bytes | None
    """They are below it, if it is given."""


_Leaf = Callable[[_Place, bytes, tuple[int, ...]], Iterator[Damage]]


class Verifier:
    """Looks through all pages of a file once."""

    def __init__(self, file: PageFile, *, checksums: bool = True, meta: Meta | None = None) -> None:
        """`checksums`: the rows have them. `meta`: where to begin, if not with the newest."""
        self._file = file
        self._checksums = checksums
        self.meta = file.newest_meta() if meta is None else meta
        self._used = bytearray(file.pages)
        self.looked_at = 0
        """Pages, so far."""
        self.on_page: Callable[[int], object] | None = None
        """Told of that number, now and then."""
        self.rows = 0
        self.leaves: list[int] = []
        """Pages with rows, in the order of the keys."""
        self.misshapen: set[int] = set()
        """Pages that are needed and not of the kind that they should be."""
        self.free_is_known = False
        """The lists of free pages are whole."""
        self.free: set[int] = set()
        """Pages that LMDB may write over."""

    def run(self) -> Generator[Damage, None, None]:
        """What is wrong, page by page. To be ended at any time."""
        yield from self.check_metas()
        if (meta := self.meta) is None:
            return
        self._file.read_in()
        self._used[0:2] = b"\1\1"
        unknown = 0
        for damage in self._walk(meta, meta.free, self._free_leaf):
            unknown += 1
            yield damage
        self.free_is_known = unknown == 0
        yield from self._walk(meta, meta.main, self._leaf)

    def check_metas(self) -> Iterator[Damage]:
        """What is wrong with the two pages from which LMDB starts."""
        metas = list(self._file.metas())
        whole = [meta for meta in metas if isinstance(meta, Meta)]
        yield from (meta for meta in metas if isinstance(meta, Damage))
        yield from _check_pair(whole)
        for meta in whole:
            yield from self._check_meta(meta)

    def reached(self, number: int) -> bool:
        return number < len(self._used) and bool(self._used[number])

    def _check_meta(self, meta: Meta) -> Iterator[Damage]:
        if meta.page_bytes != self._file.page_bytes:
            yield Damage(meta.page, f"its pages have {meta.page_bytes} bytes")
        if meta.address or meta.map_bytes > MAP_BYTES_MAX or meta.free.flags != _INTEGER_KEYS or meta.main.flags:
            yield Damage(meta.page, "it has flags or sizes that are never set")
        if meta.free_pages < 0 and meta == self.meta:  # After a failed commit LMDB puts back only a part of the other one.
            yield Damage(meta.page, f"it counts more pages in use than the {meta.last_page + 1} that it says there are")

    def _walk(self, meta: Meta, tree: Tree, leaf: _Leaf) -> Generator[Damage, None, None]:
        branches = leaves = entries = 0
        self._overflows = 0
        waiting = [] if tree.root == _NO_ROOT else [_Place(tree.root, meta.page, 1, b"", None)]
        while waiting:
            place = waiting.pop()
            if (damage := self._use(place.number, place.above)) is not None:
                yield damage._replace(low=place.low, high=place.high)
                continue
            page = self._file.page(place.number)
            is_leaf = place.depth == tree.depth
            nodes = node_offsets(page)
            if (problem := _shape_problem(page, place.number, _LEAF if is_leaf else _BRANCH, nodes)) is not None:
                self.misshapen.add(place.number)
                yield Damage(place.number, problem, place.low, place.high)
            elif is_leaf:
                leaves += 1
                entries += len(nodes)
                yield from leaf(place, page, nodes)
            else:
                branches += 1
                yield from self._branch(place, page, nodes, waiting)
        found, said = (branches, leaves, self._overflows, entries), (tree.branches, tree.leaves, tree.overflows, tree.entries)
        if found != said:
            words = "{} branches, {} leaves, {} overflow pages, {} rows"
            yield Damage(meta.page, f"{words.format(*found)} were found where it counts {words.format(*said)}")

    def _use(self, number: int, by: int) -> Damage | None:
        self.looked_at += 1
        if self.on_page is not None and self.looked_at % PAGES_TOLD == 0:
            self.on_page(self.looked_at)
        if number >= len(self._used):
            return Damage(by, f"it needs page {number}, but the file has only {len(self._used)}: {_CUT}")
        if self._used[number]:
            return Damage(by, f"it needs page {number}, which is used elsewhere")
        if number in self.free:
            return Damage(by, f"it needs page {number}, which is free")
        self._used[number] = 1
        return None

    @staticmethod
    def _branch(place: _Place, page: bytes, nodes: tuple[int, ...], waiting: list[_Place]) -> Iterator[Damage]:
        lows, taken = [], 0
        for at in nodes:
            key_bytes = _NODE.unpack_from(page, at)[3]
            taken += (_NODE.size + key_bytes + 1) & ~1
            lows.append(page[at + _NODE.size : at + _NODE.size + key_bytes])
        if taken != len(page) - min(nodes):
            yield Damage(place.number, "its nodes do not fill it")
        lows[0] = place.low  # LMDB never looks at that one.
        highs = [*lows[1:], place.high]
        for at, low, high in reversed(list(zip(nodes, lows, highs, strict=True))):
            waiting.append(_Place(child_of(page, at), place.number, place.depth + 1, low, high))

    def _leaf(self, place: _Place, page: bytes, nodes: tuple[int, ...]) -> Iterator[Damage]:
        """The checksums are those of key and value, which lie side by side."""
        unpack, head, checksums = _NODE.unpack_from, _NODE.size, self._checksums
        taken, last, high = 0, place.low, place.high
        self.leaves.append(place.number)
        for nth, at in enumerate(nodes):
            low_half, high_half, flags, key_bytes = unpack(page, at)
            start = at + head + key_bytes
            key = page[at + head : start]
            if key <= last and (nth or key < last):
                yield Damage(place.number, f"row {nth} of it is out of order", key, key)
            last = key
            size = low_half | high_half << 16
            if flags == 0:
                taken += (head + key_bytes + size + 1) & ~1
                if checksums and crc32(page[at + head : start + size]) != CRC_RESIDUE:
                    yield Damage(place.number, f"the checksum of row {nth} of it is wrong", key, key)
            else:
                taken += (head + key_bytes + _NUMBER.size + 1) & ~1
                if (damage := self._big(place.number, page, start, flags, key, size)) is not None:
                    yield damage._replace(low=key, high=key)
        if high is not None and last >= high:
            yield Damage(place.number, "its last row is out of order", last, last)
        if taken != len(page) - min(nodes):
            yield Damage(place.number, "its nodes do not fill it")
        self.rows += len(nodes)

    def _big(self, leaf: int, page: bytes, start: int, flags: int, key: bytes, size: int) -> Damage | None:
        """A value in overflow pages of its own."""
        if flags != _BIG or start + _NUMBER.size > len(page):
            return Damage(leaf, f"a node of it has the flags {flags}")
        (first,) = _NUMBER.unpack_from(page, start)
        page_bytes = self._file.page_bytes
        pages = (PAGE_HEADER_BYTES - 1 + size) // page_bytes + 1
        if (damage := self._use(first, leaf)) is not None:
            return damage
        found, _, kind, said = _OVERFLOW.unpack_from(self._file.page(first))
        if (found, kind) != (first, _OVERFLOWS) or said < pages:  # It has more where a larger value was there before.
            return Damage(first, "it is not the overflow page that it should be")
        if first + said > len(self._used):
            return Damage(first, f"the value that begins here ends beyond the end of the file: {_CUT}")
        for number in range(first + 1, first + said):
            if (damage := self._use(number, first)) is not None:
                return damage
        self._overflows += said
        begin = first * page_bytes + PAGE_HEADER_BYTES
        value = self._file.data[begin : begin + size]
        if self._checksums and not is_whole(key, value):
            return Damage(first, "the checksum of the value that begins here is wrong")
        return None

    def _free_leaf(self, place: _Place, page: bytes, nodes: tuple[int, ...]) -> Iterator[Damage]:
        """Lists of free pages, by the transaction that has freed them."""
        last = -1
        for at in nodes:
            low_half, high_half, flags, key_bytes = _NODE.unpack_from(page, at)
            start, size = at + _NODE.size + key_bytes, low_half | high_half << 16
            key = page[at + _NODE.size : start]
            txn = int.from_bytes(key, "little")
            if txn <= last or key_bytes != _NUMBER.size:
                yield Damage(place.number, "a list of free pages is out of order")
            last = txn
            if flags:
                if (damage := self._big_list(place.number, page, start, flags, size)) is not None:
                    yield damage
                    continue
                begin = _NUMBER.unpack_from(page, start)[0] * self._file.page_bytes + PAGE_HEADER_BYTES
                data = self._file.data[begin : begin + size]
            else:
                data = page[start : start + size]
            yield from self._take_free(place.number, data)

    def _big_list(self, leaf: int, page: bytes, start: int, flags: int, size: int) -> Damage | None:
        checksums, self._checksums = self._checksums, False
        try:
            return self._big(leaf, page, start, flags, b"", size)
        finally:
            self._checksums = checksums

    def _take_free(self, leaf: int, data: bytes) -> Iterator[Damage]:
        count = _NUMBER.unpack_from(data)[0] if len(data) >= _NUMBER.size else 0
        if len(data) < _NUMBER.size or len(data) % _NUMBER.size or (count + 1) * _NUMBER.size > len(data):
            yield Damage(leaf, "a list of free pages is longer than its room")
            return
        numbers = set(struct.unpack_from(f"<{count}Q", data, _NUMBER.size))
        if len(numbers) != count or not self.free.isdisjoint(numbers) or (numbers and min(numbers) < 2):
            yield Damage(leaf, "a list of free pages names one twice")
        self.free |= numbers


def _check_pair(metas: list[Meta]) -> Iterator[Damage]:
    """They are written in turns. A flipped bit in the number of one would make LMDB read an older state."""
    if len(metas) == 2 and (metas[0].txn, metas[1].txn) != (0, 0):
        older, newer = sorted(metas, key=lambda meta: meta.txn)
        if newer.txn != older.txn + 1 or newer.txn & 1 != newer.page:
            yield Damage(newer.page, f"the transactions of the meta pages, {metas[0].txn} and {metas[1].txn}, cannot be")


def _shape_problem(page: bytes, number: int, kind: int, nodes: tuple[int, ...]) -> str | None:
    """Why it cannot be a page of this kind, if it cannot."""
    found, _, said, end, start = _PAGE.unpack_from(page)
    if (found, said) != (number, kind):
        return f"it says that it is page {found} of kind {said}; it should be of kind {kind}"
    if not nodes or end % 2 or not end <= start <= len(page):
        return "where its nodes are cannot be"
    if min(nodes) != start or max(nodes) + _NODE.size > len(page) or any(at & 1 for at in nodes):
        return "its nodes lie outside of it"
    return None
