"""Segments of the log that are kept for the next backup: `DATA/shipping/LOG/NUMBER.seg`.

A backup makes the folder `DATA/shipping`. While it is there, whoever would use a segment of the log again, or remove it, moves
it there instead; the backup removes what it has fetched. Nobody has to be told anything; without the folder nothing is different.

Guarantee: what is kept here never takes room that the service needs. Above `SHIPPING_BYTES_MAX`, or where the disk has no room,
all of it is given up at once, with a line in the log and in `DATA/shipping.given-up`; the next backup is a full one then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path

from tidegate.runtime.limits import SHIPPING_BYTES_MAX, SHIPPING_FREE_BYTES_MIN
from tidegate.runtime.regular import read_regular

FOLDER = "shipping"
GIVEN_UP = "shipping.given-up"
_BEING_REMOVED = "deleted-shipping-"
_KEPT = "-kept"
_MAGIC_BYTES = 8
_WHY_BYTES_MAX = 4 << 10

logger = logging.getLogger("tidegate")


class Shipping:
    """Of one data directory. Any process of the service may have one; calls of several at the same time are in order."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.path = data / FOLDER

    @property
    def is_wanted(self) -> bool:
        return self.path.exists()

    def take(self, segment: Path, log: str) -> bool:
        """Moves the segment of that log here; False: nobody wants it, and it is where it was."""
        folder = self.path / log
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if why := self._no_room(segment.stat().st_size):
                self.give_up(why)
                return False
            segment.rename(folder / segment.name)
        except FileNotFoundError:
            return False
        except OSError as error:
            self.give_up(f"a segment of the log could not be put there: {error.strerror or error}")
            return False
        return True

    def take_all(self, folder: Path) -> None:
        """Those segments of a log that are about to be removed in which anything was ever written."""
        log = folder.name.removeprefix("deleted-").removesuffix(_KEPT)
        for segment in sorted(folder.glob("*.seg")) if self.is_wanted else ():
            with segment.open("rb") as file:
                was_used = any(file.read(_MAGIC_BYTES))
            if was_used and not self.take(segment, log):
                return

    def _no_room(self, more_bytes: int) -> str:
        """Why there is no room for so many bytes more, in words."""
        kept = sum(file.stat().st_size for file in self.path.glob("*/*.seg"))
        disk = os.statvfs(self.path)
        if kept + more_bytes > SHIPPING_BYTES_MAX:
            return f"{SHIPPING_BYTES_MAX >> 20} MiB were waiting for a backup, and none came"
        if disk.f_bavail * disk.f_frsize < SHIPPING_FREE_BYTES_MIN:
            return f"the disk has less than {SHIPPING_FREE_BYTES_MIN >> 20} MiB left"
        return ""

    def give_up(self, why: str) -> bool:
        """Removes everything that is kept here; False: there was nothing."""
        gone = self._data / f"{_BEING_REMOVED}{time.time_ns()}"
        try:
            self.path.rename(gone)
        except OSError:  # It is not there, or another process has been faster.
            return False
        had = any(gone.glob("*/*.seg"))
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):  # On a full disk.
            (self._data / GIVEN_UP).write_text(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {why}\n")
        logger.warning("the log is not kept for backups any longer: %s; the next `tidegate backup` is a full one", why)
        return had


def why_given_up(data: Path) -> str:
    """Since the last backup, and when; empty: it was not. Raises OSError."""
    try:
        return read_regular(data / GIVEN_UP, _WHY_BYTES_MAX).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def kept_bytes(data: Path) -> int:
    """How much log is kept for backups. A segment that is fetched or given up meanwhile counts or not. Raises OSError."""
    size = 0
    for folder in _listed(data / FOLDER):
        for segment in _listed(folder) if folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                size += segment.stat().st_size if segment.suffix == ".seg" else 0
    return size


def _listed(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except FileNotFoundError:
        return []


def remove_left(data: Path) -> None:
    """What a process had begun to remove when it ended."""
    for path in data.glob(_BEING_REMOVED + "*"):
        shutil.rmtree(path, ignore_errors=True)
