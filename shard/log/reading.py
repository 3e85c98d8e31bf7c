"""Reading a log after its worker is gone: every durable record, in order, or a refusal.

A log may end with a torn record: the worker or the power went while it was written, so nobody was told that it is durable. A
good record behind a bad one cannot come from that (see `tidegate.shard.log.segment`): then the disk lost something that was
confirmed, and reading on would silently serve old data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import list_segments
from tidegate.shard.log.segment import (
    HEADER_BYTES,
    SegmentHeader,
    Tail,
    decode_header,
    find_frame,
    first_frame_continues,
    frames,
    unknown_format,
)


class LogCorrupt(OperatorError):
    """The log is damaged in the middle: records that were confirmed are missing."""


def _corrupt(path: Path, problem: str) -> LogCorrupt:
    return LogCorrupt(
        "read log", path, problem,
        "the disk lost confirmed records: check it, and restore from a backup or another copy of the data directory",
    )  # fmt: skip


class _Chain:
    """Where the next record must be, and what it must link to. Nothing is expected of the first one."""

    def __init__(self) -> None:
        self.next_position: int | None = None
        self.link = 0
        self.next_number: int | None = None
        self.ended_at: Path | None = None
        """The first segment that is not in use, once it was seen; what follows must not be in use either."""

    def enter(self, path: Path, number: int, header: SegmentHeader) -> None:
        """The segment is in use: it must continue what was read before."""
        if self.ended_at is not None:
            raise _corrupt(path, f"the log ended before {self.ended_at.name}, yet this later segment is in use")
        if self.next_number is not None and number != self.next_number:
            raise _corrupt(path, f"segment {self.next_number} before it is missing")
        if self.next_position is not None and (header.first_position, header.link) != (self.next_position, self.link):
            raise _corrupt(path, f"it starts at record {header.first_position}, but {self.next_position} comes next")

    def leave(self, path: Path, number: int, data: bytes, header: SegmentHeader, tail: Tail) -> None:
        """The segment's chain of frames has ended: in its end, or in a torn frame, but not in a damaged one."""
        if (later := find_frame(data, tail.offset, header.salt, tail.position)) is not None:
            problem = f"record {tail.position} at byte {tail.offset} is damaged, but a good one follows at byte {later}"
            raise _corrupt(path, problem)
        self.next_position, self.link, self.next_number = tail.position, tail.link, number + 1

    def end(self, path: Path, has_header: bool) -> None:
        """The segment is not in use, or so its header says. A recycled one has the intact header of its earlier use, a new one
        is all zeros; a damaged header in front of an intact frame is neither."""
        if self.ended_at is not None:
            return
        self.ended_at = path
        if not has_header and first_frame_continues(_read(path), self.next_position, self.link):
            raise _corrupt(path, "the segment's header is damaged, and records follow it")


def read_log(directory: Path) -> Iterator[memoryview]:
    """The records of the log in this directory, oldest first. A torn tail ends it silently; damage raises `LogCorrupt`.
    Segments are read one at a time."""
    chain = _Chain()
    for number, path in list_segments(directory):
        head = _read(path, HEADER_BYTES)
        if (version := unknown_format(head)) is not None:
            raise OperatorError(
                "read log", path, f"format {version} is not known to this version",
                "start the version of Tidegate that wrote it, stop it cleanly, then upgrade",
            )  # fmt: skip
        header = decode_header(head)
        if header is None or header.number != number:
            chain.end(path, header is not None)
            continue
        chain.enter(path, number, header)
        data = _read(path)
        tail = yield from frames(data, header)
        chain.leave(path, number, data, header, tail)


def _read(path: Path, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise OperatorError("read log", path, error.strerror or str(error), "check the permissions and the disk") from error
