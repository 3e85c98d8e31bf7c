"""Which logs there are, and up to where in them a state has what they say.

Each process of a worker has a log of its own, in a directory that is never used a second time: `log/START-WORKER-RUN`, where RUN
counts the processes of that worker in that start. (What an older version wrote is `log/START-WORKER`.)

A state's *log mark* says which log has the commits that the state may not have, and up to which record it has them all. So a log
that is lost, a state that is older than the log's beginning, and a counter of starts that was set back are noticed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tidegate.shard.log.commit_log import list_segments, paths_in

_MARK = struct.Struct("<IIIQ")
_CRC = struct.Struct("<I")
LOG_KEY = b"\xfflog"
"""Under which a state has its log mark. It is no key of any row."""
NO_RUN = 0xFFFF_FFFF
DELETED = "deleted-"
"""What begins the name of a log that is being deleted."""


class LogMark(NamedTuple):
    start: int
    worker: int
    run: int
    """`NO_RUN`: the state has everything of this start and those before, and needs no log."""
    position: int = 0
    """Of the last record that the state has, or of a later one that does not concern it."""

    @property
    def names_log(self) -> bool:
        return self.run != NO_RUN

    def covers(self, log: LogDirectory, position: int | None) -> bool:
        """Whether the state has everything that the log had up to the position; None: to its end, wherever that was."""
        if not self.names_log:
            return log.start <= self.start
        if log.start != self.start:
            return log.start < self.start
        if log.worker != self.worker or log.run > self.run:
            return False
        return log.run < self.run or (position is not None and position <= self.position)

    def encode(self) -> bytes:
        body = _MARK.pack(*self)
        return body + _CRC.pack(crc32(body))

    def __str__(self) -> str:
        return f"{self.start:08d}-{self.worker:04d}-{self.run:04d}"


def decode_mark(data: bytes) -> LogMark | None:
    """None for a state that has none yet. Raises ValueError."""
    if not data:
        return None
    if len(data) != _MARK.size + _CRC.size or _CRC.unpack_from(data, _MARK.size)[0] != crc32(data[: _MARK.size]):
        raise ValueError("what it says of the log that it belongs to is damaged")
    return LogMark(*_MARK.unpack_from(data))


class LogDirectory(NamedTuple):
    start: int
    worker: int
    run: int
    path: Path

    def is_named_by(self, mark: LogMark) -> bool:
        return (self.start, self.worker, self.run) == mark[:3]


def log_path(data_dir: Path, start: int, worker: int, run: int = 0) -> Path:
    return data_dir / "log" / f"{start:08d}-{worker:04d}-{run:04d}"


def list_logs(data_dir: Path) -> list[LogDirectory]:
    """All logs, those of earlier starts first, then those of earlier processes."""
    return sorted(_logs_in(data_dir))


def _logs_in(data_dir: Path) -> Iterator[LogDirectory]:
    for path in paths_in(data_dir / "log"):
        numbers = path.name.split("-")
        if 2 <= len(numbers) <= 3 and all(map(str.isdecimal, numbers)):
            start, worker, *run = map(int, numbers)
            yield LogDirectory(start, worker, run[0] if run else 0, path)


def own_logs(data_dir: Path, start: int, worker: int, before_run: int) -> list[LogDirectory]:
    """Those of this worker's earlier processes in this start."""
    return [log for log in list_logs(data_dir) if (log.start, log.worker) == (start, worker) and log.run < before_run]


def next_run(data_dir: Path, start: int, worker: int) -> int:
    """A number that no log of this worker and start has in which anything was ever written."""
    runs = [log.run + bool(list_segments(log.path)) for log in list_logs(data_dir) if (log.start, log.worker) == (start, worker)]
    return max(runs, default=0)


def logs_to_recover(data_dir: Path, start: int, worker: int) -> list[LogDirectory]:
    """Logs that may hold records of this worker's shards: those of earlier starts, and its own if it was started again. Other
    workers of this start have other shards, and are writing."""
    return [log for log in list_logs(data_dir) if log.start < start or (log.start, log.worker) == (start, worker)]
