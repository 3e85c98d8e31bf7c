"""The index of names: which objects a state has, in the order of class and name, and how many of each class.

Guarantee: a state that says it has an index has a row for each object whose header it has, and for no other; both change in the
same commit (`NameChanges`, by whatever batch changes headers). Whoever writes a state without knowing of the index leaves the
sequence in it behind, and it is made anew when the state is opened.

A row is `Class/name`. One that would be too long is cut, and ends in the key of its object; its value then has the whole name,
and it is longer than any that is not cut. So a class, or the names with a prefix, are one range, and a page of them costs what it
holds, of millions.

A batch changes the index at its end, in the order of the index, whatever order the objects came in: names that are neighbours,
as they are where many objects are made, then share pages, and a step can be told of before it touches any.

Rule: pure. Nothing of it is in the log or in memory: what is not in the state yet is found in the memtables (`FreshNames`).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from tidegate.runtime.ids import OBJECT_KEY_BYTES, name_row
from tidegate.shard.store.interface import HEADER, NAMES_KEY, ObjectWrites

NAMES_HEAD_KEY = b"\xffnames"
"""Key in the state of what the index says of itself."""
OWN_FIRST = b"\x40"
RUN_NAMES = 4_096
"""Names that are sorted at once: a millisecond."""
LOOK_STEP = 512
"""Objects of a memtable that are looked at in a step."""


class Named(msgspec.Struct, array_like=True, gc=False):
    """The beginning of a header."""

    class_name: str
    name: str


class IndexHead(msgspec.Struct, array_like=True, tag=2):
    """What the index says of itself. The tag is the format of rows: an index of another is made anew by whoever opens it, also by
    versions before there was a tag, which cannot read this. (They cut rows where another object could be given the same one.)"""

    seq: int
    """Sequence of the last commit that the state had when the index was changed last."""
    counts: dict[str, int] = {}
    """Objects by class."""


_decode_named = msgspec.msgpack.Decoder(Named).decode
_decode_head = msgspec.msgpack.Decoder(IndexHead).decode
_encode = msgspec.msgpack.Encoder().encode


def is_header(key: bytes) -> bool:
    return len(key) == OBJECT_KEY_BYTES and key < OWN_FIRST


def named_by(header: bytes) -> Named | None:
    """None: it cannot be read."""
    try:
        return _decode_named(header)
    except ValueError:
        return None


def index_row(named: Named) -> tuple[bytes, bytes]:
    """Key in the state and value."""
    row = name_row(named.class_name, named.name)
    return NAMES_KEY + row.encode(), b"" if row == f"{named.class_name}/{named.name}" else _encode(named)


def named_in(row: str, value: bytes) -> Named:
    """Of a row of the index."""
    if value:
        return _decode_named(value)
    class_name, _, name = row.partition("/")
    return Named(class_name, name)


def head_row(head: IndexHead) -> tuple[bytes, bytes]:
    return NAMES_HEAD_KEY, _encode(head)


def read_head(value: bytes | None) -> IndexHead | None:
    """None: there is no index."""
    try:
        return None if value is None else _decode_head(value)
    except ValueError:
        return None


class NameChanges:
    """What one batch changes in the index: gathered while headers change, made when `step` is called."""

    def __init__(self, head: IndexHead) -> None:
        """`head`: as the state has it."""
        self.seq = head.seq
        self._before = head
        self._counts: dict[str, int] = {}
        self._changes: dict[bytes, tuple[str, bytes | None]] = {}
        """By key of a row: the class, and the row's value, None if it is to go."""
        self._ordered: list[bytes] = []
        """Their keys, as a heap: sorting all of them at once would take the loop ten milliseconds."""
        self._next: deque[bytes] = deque()
        """The first ones, taken off it."""

    def write(self, header: bytes) -> None:
        """Of an object that had none."""
        if (named := named_by(header)) is not None:
            key, value = index_row(named)
            self._change(key, named.class_name, value)

    def delete(self, header: bytes) -> None:
        if (named := named_by(header)) is not None:
            self._change(index_row(named)[0], named.class_name, None)

    def _change(self, key: bytes, class_name: str, value: bytes | None) -> None:
        if key not in self._changes:
            heapq.heappush(self._ordered, key)
        self._changes[key] = class_name, value

    def next(self, keys_max: int) -> list[bytes]:
        """Keys of the rows that `step` changes: the first ones in the order of the index, of those that are left."""
        while self._ordered and len(self._next) < keys_max:
            self._next.append(heapq.heappop(self._ordered))
        return list(islice(self._next, keys_max))

    def step(self, put: Callable[[bytes, bytes], bool], delete: Callable[[bytes], bool], keys_max: int) -> None:
        """Changes at most so many of those that `next` has told. `put` writes a row, unless there is one, `delete` takes one out;
        both say if they did."""
        while self._next and keys_max > 0:
            key = self._next.popleft()
            class_name, value = self._changes.pop(key)
            more = -delete(key) if value is None else put(key, value)
            self._counts[class_name] = self._counts.get(class_name, 0) + more
            keys_max -= 1

    def head(self) -> tuple[bytes, bytes] | None:
        """The row to be written with it, where it has changed."""
        after = self.after()
        return None if after == self._before else head_row(after)

    def after(self) -> IndexHead:
        counts = self._before.counts
        if self._counts:
            changed = {name: counts.get(name, 0) + more for name, more in self._counts.items()}
            counts = {name: count for name, count in {**counts, **changed}.items() if count}
        return IndexHead(self.seq, counts)


Row = tuple[str, bytes]
"""Of the index: where it stands, and its value."""


class FreshNames:
    """Names of objects that a memtable has the headers of, found when somebody asks. Some may have been deleted since, or be in
    the state, too.

    Several may look at the same time, and any of them may stop halfway: what a step has not looked at is left to the next one,
    whoever makes it."""

    def __init__(self) -> None:
        self._seen = 0
        """So many of those that may be new have been looked at. More come last."""
        self._runs: list[list[Row]] = []
        """Sorted."""
        self._newest: list[Row] = []
        self._deleted: deque[bytes] = deque()
        """Objects that had no header when they were looked at, those first for which that is longest ago."""

    def look(self, objects: dict[bytes, ObjectWrites], made: Sequence[bytes]) -> Iterator[None]:
        """Looks at those that have come, in steps, and again at those that were deleted: they may be there again. `made`: keys of
        objects that may be new (see `Memtable.named`)."""
        again, end = len(self._deleted), len(made)
        while again > 0 and self._deleted:
            keys = [self._deleted.popleft() for _ in range(min(again, LOOK_STEP, len(self._deleted)))]
            self._look_at(objects, keys)
            again -= len(keys)
            yield
        while self._seen < min(end, len(made)):  # A memtable that is given up has fewer and fewer.
            newer = made[self._seen : self._seen + LOOK_STEP]
            self._seen += len(newer)
            self._look_at(objects, newer)
            yield

    def _look_at(self, objects: dict[bytes, ObjectWrites], keys: Sequence[bytes]) -> None:
        for key in keys:
            held = objects.get(key)
            if held is None or key >= OWN_FIRST:
                continue
            header = held.writes.get(HEADER)
            if header is None:
                if held.cleared:
                    self._deleted.append(key)
            elif (named := named_by(header)) is not None:
                row, value = index_row(named)
                self._newest.append((row[OBJECT_KEY_BYTES:].decode(), value))
        if len(self._newest) >= RUN_NAMES:
            self._runs.append(sorted(self._newest))
            self._newest = []

    def discard_some(self, names_max: int) -> bool:
        """Frees at most so many; whether any are left."""
        if self._newest:
            self._runs.append(self._newest)
            self._newest = []
        if self._runs:
            del self._runs[-1][-names_max:]
            if not self._runs[-1]:
                self._runs.pop()
        else:
            for _ in range(min(names_max, len(self._deleted))):
                self._deleted.pop()
        return bool(self._runs or self._deleted)

    def page(self, start: str, end: str | None, limit: int) -> list[Row]:
        """Rows of [start, end), in order, at most so many; one may come twice."""
        self._newest.sort()
        parts = []
        for run in (*self._runs, self._newest):
            first = bisect_left(run, (start,))
            parts.append(run[first : min(first + limit, len(run) if end is None else bisect_left(run, (end,)))])
        return list(islice(heapq.merge(*parts), limit))
