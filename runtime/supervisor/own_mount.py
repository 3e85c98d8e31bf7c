"""A data directory where a file system is mounted: nothing can take its name, so another content takes its place within.

The new content is made in `DATA/.being-made-…`. To be put in place that folder becomes `DATA/.taking-place-TIME`; everything else
moves into `DATA/before-TIME`; the folder becomes `DATA/.in-place-TIME`, and what is in it moves out of it.

Guarantee: a directory in which neither of the last two is has all of the old content, or all of the new one. Whoever opens one
in which one is, as an interruption or a power loss leaves it, gives the rest of these steps first, and each may be given again.
Rule: the lock stays where it is, and whoever moves anything has it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

BEFORE = "before-"
"""What folders begin with in which the old content is."""
BEING_MADE = ".being-made-"
_TAKING = ".taking-place-"
_IN_PLACE = ".in-place-"
_STAYS = ("lock", "lost+found")
_MOUNTS = Path("/proc/self/mountinfo")


def is_mount_point(path: Path) -> bool:
    """Also of a part of the file system above (`mount --bind`), which has the same device. `path`: without links."""
    try:
        points = (line.split()[4] for line in _MOUNTS.read_text(errors="surrogateescape").splitlines())
        return any(_unescaped(point) == str(path) for point in points)
    except OSError:
        return os.path.ismount(path)


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def content(data: Path) -> Iterator[Path]:
    """What is in it, but for old content, and new content that is not in place yet."""
    for path in data.iterdir():
        if path.name not in _STAYS and not path.name.startswith((BEFORE, BEING_MADE, _TAKING, _IN_PLACE)):
            yield path


def is_interrupted(data: Path) -> bool:
    """Whether new content had begun to take the place."""
    return bool(_stopped_at(data))


def _stopped_at(data: Path) -> list[Path]:
    try:
        return [path for path in data.iterdir() if path.name.startswith((_TAKING, _IN_PLACE))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def put_in_place(made: Path, time: str) -> Path:
    """`made`: a folder of the directory whose content is on the disk. Where the old content is kept, if there was any. Raises
    OSError."""
    made.rename(made.with_name(_TAKING + time))
    sync(made.parent)
    finish(made.parent)
    return made.with_name(BEFORE + time)


def finish(data: Path) -> None:
    """Where new content has begun to take the place it has all of it then. Raises OSError."""
    for path in _stopped_at(data):
        if path.name.startswith(_TAKING):
            time = path.name.removeprefix(_TAKING)
            _move(content(data), data / f"{BEFORE}{time}")
            path = path.rename(data / f"{_IN_PLACE}{time}")
            sync(data)
        (path / "lock").unlink(missing_ok=True)
        _move(path.iterdir(), data)
        path.rmdir()
        sync(data)


def _move(paths: Iterator[Path], to: Path) -> None:
    if found := list(paths):
        to.mkdir(mode=0o700, exist_ok=True)
        for path in found:
            path.rename(to / path.name)
        sync(to)
        sync(to.parent)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
