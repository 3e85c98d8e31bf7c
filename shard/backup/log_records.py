"""The records of all logs of a data directory, oldest first, while a service writes them or not.

Where a log goes on, its last segment is read as far as it is whole, and synced: what is given out is durable, also if the worker
has not been told yet that its commit is. Segments that are no longer needed are in `DATA/shipping` (see
`tidegate.runtime.shipping`), or gone; whether any are missing is for the reader to see (see `manifest.Commits`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import FOLDER
from tidegate.shard.backup.manifest import order_of_log
from tidegate.shard.log.commit_log import list_segments, paths_in
from tidegate.shard.log.segment import HEADER_BYTES, PROLOGUE_BYTES_MAX, SegmentHeader, decode_header, frames, unknown_format
from tidegate.shard.store.logs import list_logs

MOVED_MAX = 1_000
"""So often one segment of a log may have been moved elsewhere between being listed and being opened."""


class Stretch(NamedTuple):
    """What one segment has."""

    log: str
    prologue: bytes
    first: int
    """The position of the first record."""
    records: list[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.records) - 1


class Shipped(NamedTuple):
    """A segment in `DATA/shipping`."""

    log: str
    path: Path
    last: int
    """The position of its last record; of one that holds none, or has damage, the one before its first."""


def stretches(data: Path, positions: dict[str, int]) -> Iterator[Stretch]:
    """What all logs have beyond these positions, by log and number; a segment at a time. Raises OperatorError."""
    for log in logs_of(data):
        yield from _of_log(data, log, positions.get(log, 0))


def logs_of(data: Path) -> list[str]:
    """Their names, in the order of replay."""
    live = {log.path.name for log in list_logs(data)}
    return sorted(live | {folder.name for folder in _folders(data)}, key=order_of_log)


def _folders(data: Path) -> list[Path]:
    """Of logs, in `DATA/shipping`."""
    return [path for path in paths_in(data / FOLDER) if path.is_dir() and path.name.replace("-", "").isdecimal()]


def _segments(data: Path, log: str) -> dict[int, Path]:
    found = dict(list_segments(data / "log" / log))
    for path in paths_in(data / FOLDER / log):
        if path.suffix == ".seg" and path.stem.isdecimal():
            found[int(path.stem)] = path
    return found


def _of_log(data: Path, log: str, position: int) -> Iterator[Stretch]:
    """Where a segment seems to begin later than the one before ends, more was written into that since it was read: all are listed
    again. If it is the same then, records are missing."""
    last, missed = 0, -1
    for _ in range(MOVED_MAX):
        try:
            segments = sorted(_segments(data, log).items())
            for (number, path), following in zip_longest(segments, segments[1:]):
                if number < last or (following is not None and _begins_by(position + 1, *following)):
                    continue
                if (stretch := _read(path, log, number, position)) is None:
                    continue
                if position and stretch.first > position + 1 and missed != position:
                    missed = position
                    break
                yield stretch
                last, position = number, max(position, stretch.last)
            else:
                return
        except FileNotFoundError:  # It has been moved to where it is kept, or removed: whoever reads notices a gap.
            continue
    raise OperatorError("read log", data / "log" / log, "its segments go faster than they can be read", "try again later")


def _begins_by(position: int, number: int, path: Path) -> bool:
    """Whether it is in use, and nothing at the position or behind it is in one before."""
    with path.open("rb") as file:
        header = decode_header(file.read(HEADER_BYTES + PROLOGUE_BYTES_MAX))
    return header is not None and header.number == number and header.first_position <= position


def _read(path: Path, log: str, number: int, position: int) -> Stretch | None:
    """None for a segment that is not in use, or has nothing beyond the position."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, HEADER_BYTES + PROLOGUE_BYTES_MAX, 0)
        header = _header(path, head, number)
        if header is None:
            return None
        data = os.pread(fd, max(header.size, os.fstat(fd).st_size), 0)
        records: list[bytes] = []
        tail = _collect(data.ljust(header.size, b"\0"), header, records.append)
        if tail <= position + 1 and records:
            return None
        os.fdatasync(fd)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise OperatorError("read log", path, error.strerror or str(error), "check the permissions and the disk") from error
    finally:
        os.close(fd)
    return Stretch(log, header.prologue, header.first_position, records)


def _header(path: Path, head: bytes, number: int) -> SegmentHeader | None:
    if (version := unknown_format(head)) is not None:
        hint = "use the version of Tidegate that wrote it"
        raise OperatorError("read log", path, f"format {version} is not known to this version", hint)
    header = decode_header(head)
    return header if header is not None and header.number == number else None


def _collect(data: bytes, header: SegmentHeader, take: Callable[[bytes], object]) -> int:
    """The position behind the last record."""
    found = frames(data, header)
    while True:
        try:
            take(bytes(next(found)))
        except StopIteration as end:
            return int(end.value.position)


def shipped(data: Path) -> list[Shipped]:
    """What is kept for backups now."""
    found = []
    for folder in _folders(data):
        for path in paths_in(folder):
            stretch = _read(path, folder.name, int(path.stem), -1) if path.suffix == ".seg" and path.stem.isdecimal() else None
            found.append(Shipped(folder.name, path, -1 if stretch is None else stretch.last))
    return found
