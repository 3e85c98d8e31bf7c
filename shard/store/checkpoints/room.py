"""Room on the disk that a worker keeps back, so that a full disk is not full for what makes room: checkpoints and deletes.

LMDB never writes over a page in use, so to take out rows needs pages first. The reserve is a file of real blocks. A checkpoint
that finds no room has it removed, takes out what was deleted, in small steps, and makes it again before it puts anything in;
while it is not whole the log takes no new segment, or what is written would have the room at once.

Threads: `use` and `keep` block for the file system and are called by one thread at a time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tidegate.shard.log.commit_log import LogWithoutRoom

RESERVE = "reserve-"
"""What its name begins with; the worker's number follows."""


STEP_BYTES = 1 << 20
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class GrowingLog(Protocol):
    may_grow: bool

    def prepare_segment(self, *, small: bool = False) -> None: ...


class Room:
    """The reserve of one worker."""

    def __init__(
        self, path: Path, size_bytes: int, log: GrowingLog | None = None, give_up: Callable[[], bool] = lambda: False
    ) -> None:
        """`give_up`: removes what is kept on the disk for others; False: there was nothing."""
        self._path = path
        self._size_bytes = size_bytes
        self.log = log
        self._give_up = give_up
        self.kept_bytes = 0

    def keep(self) -> None:
        """Takes the room, or as much as there is of it."""
        try:
            self._take()
        except OSError as error:
            if error.errno in _NO_SPACE and self._give_up():
                return self.keep()
            # Nobody has to wait for what cannot be had for another reason.
            self._let_grow(error.errno not in _NO_SPACE)
        else:
            self._let_grow(True)

    def _take(self) -> None:
        """What it has it does not ask for again: XFS would want as much once more."""
        if self.kept_bytes == self._size_bytes:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.kept_bytes = os.fstat(fd).st_size
            while self.kept_bytes < self._size_bytes:
                step = min(STEP_BYTES, self._size_bytes - self.kept_bytes)
                os.posix_fallocate(fd, self.kept_bytes, step)
                self.kept_bytes += step
        finally:
            os.close(fd)

    def use(self) -> bool:
        """Gives it back to the file system, for who has asked; False: there was none."""
        if self._give_up():
            return True
        self._let_grow(False)
        self.kept_bytes = 0
        try:
            had = self._path.stat().st_size
            os.truncate(self._path, 0)  # XFS lets go at once of what is cut off, and some time later of what is removed.
            self._path.unlink()
        except OSError:
            return False
        return had > 0

    def lend(self) -> None:
        """A log of which every record is checkpointed gets a segment, a small one of this room if there is no other: the one that
        it leaves for that comes back at the next checkpoint. Raises `LogFull` where even that is not to be had."""
        self.keep()
        if self.log is None:
            return
        try:
            self.log.prepare_segment()
        except LogWithoutRoom:
            if not self.use():
                raise
            self.log.may_grow = True
            try:
                self.log.prepare_segment(small=True)
            finally:
                self.keep()

    def _let_grow(self, may_grow: bool) -> None:
        if self.log is not None:
            self.log.may_grow = may_grow
