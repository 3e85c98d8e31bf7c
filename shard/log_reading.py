"""Reading a log after its worker is gone: every durable record, in order, or a refusal.

A log may end with a torn record: the worker or the power went while it was written, so nobody was told that it is durable. A
good record behind a bad one cannot come from that (see `shard.segment`): then the disk lost something that was confirmed, and
reading on would silently serve old data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runtime.errors import OperatorError
from shard.log import list_segments
from shard.segment import SegmentHeader, decode_header, find_frame, first_frame_continues, frames, unknown_format


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
        self.broken_at: str | None = None
        """Where the log ends, once that is known; what follows must not be in use."""

    def enter(self, path: Path, number: int, data: bytes) -> SegmentHeader | None:
        """The header of a segment in use, or None where the log has ended."""
        if (version := unknown_format(data)) is not None:
            raise OperatorError(
                "read log", path, f"format {version} is not known to this version",
                "start the version of Tidegate that wrote it, stop it cleanly, then upgrade",
            )  # fmt: skip
        header = decode_header(data)
        if header is None or header.number != number:
            if self.next_position is not None and first_frame_continues(data, self.next_position, self.link):
                raise _corrupt(path, "the segment's header is damaged, and records follow it")
            self.broken_at = self.broken_at or f"at the unused segment {path.name}"
            return None
        if self.broken_at is not None:
            raise _corrupt(path, f"the log ended {self.broken_at}, yet this later segment is in use")
        if self.next_position is not None and (header.first_position, header.link) != (self.next_position, self.link):
            raise _corrupt(path, f"it starts at record {header.first_position}, but {self.next_position} comes next")
        return header


def read_log(directory: Path) -> Iterator[memoryview]:
    """The records of the log in this directory, oldest first. A torn tail ends it silently; damage raises `LogCorrupt`.
    Segments are read one at a time."""
    chain = _Chain()
    number_before: int | None = None
    for number, path in list_segments(directory):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise OperatorError("read log", path, error.strerror or str(error), "check the permissions and the disk") from error
        header = chain.enter(path, number, data)
        if header is None:
            continue
        if number_before is not None and number != number_before + 1:
            raise _corrupt(path, f"segment {number_before + 1} before it is missing")
        number_before = number
        tail = yield from frames(data, header)
        if (later := find_frame(data, tail.offset, header.salt, tail.position)) is not None:
            problem = f"record {tail.position} at byte {tail.offset} is damaged, but a good one follows at byte {later}"
            raise _corrupt(path, problem)
        chain.next_position, chain.link = tail.position, tail.link
