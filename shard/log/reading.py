"""Reading a log after its worker is gone: every durable record, in order, and where some are missing.

A log may end with a torn record: the worker or the power went while it was written, so nobody was told that it is durable. What
else is missing had been confirmed, and is told as a `Gap`: whoever reads decides whom it concerns. What proves a gap: a good
record behind a bad one or what is left of its head, the next segment's header, the seal of the last one (see
`tidegate.shard.log.segment`), or a record that is whole but for one bit.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken, list_segments
from tidegate.shard.log.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    PROLOGUE_BYTES_MAX,
    Frame,
    SegmentHeader,
    Tail,
    begun_later,
    behind,
    decode_header,
    decode_header_but_for_one_bit,
    decode_seal,
    differs_in_one_bit,
    first_frame_of_one_row,
    frames,
    later_frames,
    torn_at,
    unknown_format,
)


class LogCorrupt(OperatorError):
    """The log says what it cannot say."""


class Opening(NamedTuple):
    """A segment begins."""

    prologue: bytes
    """Empty in a segment of an older format."""


class Gap(NamedTuple):
    """Records are missing that had been confirmed."""

    place: Path
    first: int
    """Position of the first one."""
    last: int | None
    """Of the last one; None: nothing tells how many they are."""
    problem: str


class End(NamedTuple):
    """The log ends here."""

    position: int
    """Of the last record."""
    torn: Path | None
    """Where one more was begun, that was never confirmed."""


Item = memoryview | Opening | Gap | End


def read_log(directory: Path) -> Iterator[Item]:
    """What the log in this directory has, oldest first: for each segment in use an `Opening` and its records, `Gap` wherever some
    are missing; then the `End`, unless no segment was ever in use. Segments are read one at a time."""
    before: _Segment | None = None
    for number, path in list_segments(directory):
        head = _read(path, HEADER_BYTES + PROLOGUE_BYTES_MAX)
        if (version := unknown_format(head)) is not None:
            _refuse_unknown(path, version)
        header = decode_header(head) or decode_header_but_for_one_bit(head)
        if header is None and (before is None or not before.header.size) and first_frame_of_one_row(_read(path)):
            yield Gap(path, 1 if before is None else before.tail.position, None, "its header is damaged, and records follow it")
        if header is None or header.number != number:
            continue  # Not in use. If it should be, the chain tells.
        segment = _Segment(path, header)
        if before is not None and (gap := before.gap_to(segment)) is not None:
            yield gap
        yield Opening(header.prologue)
        yield from segment.read()
        before = segment
    if before is not None:
        yield from before.end()


def _refuse_unknown(path: Path, version: int) -> None:
    raise OperatorError(
        "read log", path, f"format {version} is not known to this version",
        "start the version of Tidegate that wrote it, stop it cleanly, then upgrade",
    )  # fmt: skip


class _Segment:
    """One that is in use, while it is read and until the next one is."""

    def __init__(self, path: Path, header: SegmentHeader) -> None:
        self._path = path
        self.header = header
        self._data = b""
        self._is_short = False
        self.tail = Tail(0, 0, header.first_position, header.link)

    def read(self) -> Iterator[Item]:
        header = self.header
        data = _read(self._path)
        self._is_short = len(data) < header.size
        self._data = data = data.ljust(header.size, b"\0")
        self.tail = yield from frames(data, header)
        if later := later_frames(data, header, self.tail):
            yield from self._go_on(later, "the file is too short" if self._is_short else "damaged, but a good one follows")

    def _go_on(self, later: list[Frame], problem: str) -> Generator[Item, None, None]:
        """Behind what is damaged."""
        tail = self.tail
        for frame in later:
            if frame.position < tail.position:
                continue  # A second time.
            if frame.position != tail.position or frame.previous != tail.link:
                last = max(tail.position, frame.position - 1)
                yield Gap(self._path, tail.position, last, f"{_records(tail.position, last)}: {problem}")
            yield frame.payload
            tail = behind(frame, self.header, tail)
        self.tail = tail

    def gap_to(self, later: _Segment) -> Gap | None:
        """What is missing between this segment and the one that is read next."""
        tail, header = self.tail, later.header
        if (header.first_position, header.link) == (tail.position, tail.link):
            return None
        last = max(tail.position, header.first_position - 1)
        problem = f"{_records(tail.position, last)}: not there, although {later._path.name} begins with {header.first_position}"
        return Gap(self._path, tail.position, last, problem)

    def end(self) -> Iterator[Item]:
        """No later segment is in use."""
        tail, torn = self.tail, None
        if (number := decode_seal(self._data, self.header)) is not None:
            problem = f"segment {number}, which continues the log, is missing or has a damaged header"
            yield Gap(self._path, tail.position, None, problem)
        elif self._is_short:
            yield Gap(self._path, tail.position, None, "the file, which never gets shorter, is too short")
        elif later := begun_later(self._data, self.header, tail):
            yield self._lost_before(later)
        elif differs_in_one_bit(self._data, self.header, tail):
            yield Gap(self._path, tail.position, tail.position, f"record {tail.position}, the last one: a bit of it has changed")
        elif tail.low < tail.high and self._data.startswith(self.header.salt, torn_at(self.header, tail)):
            torn = self._path
        yield End(tail.position - 1, torn)

    def _lost_before(self, later: list[int]) -> Gap:
        """Of frames that were begun nothing is whole; these are the positions that their heads say."""
        tail = self.tail
        most = tail.position + (tail.high - tail.low) // FRAME_BYTES
        if all(tail.position < position <= most for position in later):
            last = max(later) - 1
            return Gap(self._path, tail.position, last, f"{_records(tail.position, last)}: damaged, but a later one was begun")
        return Gap(self._path, tail.position, None, f"records from {tail.position} on: damaged, but a later one was begun")


def _records(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"


def _read(path: Path, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        kind = LogBroken if error.errno == errno.EIO else OperatorError
        raise kind("read log", path, error.strerror or str(error), "check the permissions and the disk") from error
