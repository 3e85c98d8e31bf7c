"""A data directory where a file system is mounted: nothing can take its name, so another content takes its place within.

The new content is made in `DATA/.being-made-…`. To be put in place that folder becomes `DATA/.taking-place-TIME`; what Tidegate
has there moves into `DATA/before-TIME`; the folder becomes `DATA/.in-place-TIME`, and what is in it moves out of it. Where
something of the old content cannot be moved, what was moves back, and the folder gets its first name again.

Guarantee: a directory in which neither of the last two is has all of the old content, or all of the new one. Whoever opens one
in which one is, as an interruption or a power loss leaves it, gives the rest of these steps first, or takes those back that were
given; each may be given again.
Rule 1: the lock stays where it is, and whoever moves anything has it.
Rule 2: what others have put there stays where it is, unless the new content has something of that name.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from tidegate.runtime.data.replacing import sync
from tidegate.runtime.errors import OperatorError

BEFORE = "before-"
"""What folders begin with in which the old content is."""
BEING_MADE = ".being-made-"
_TAKING = ".taking-place-"
_IN_PLACE = ".in-place-"
_STAYS = ("lock", "lost+found")
_OURS = re.compile(
    r"(tidegate|access|backups)\.json(\.new)?|audit\.jsonl(\.\d+)?|log|shards|run|shipping(\..*)?|deleted-shipping-\d+"
)
"""What Tidegate puts into a data directory, but for the lock."""
_LEFT = re.compile(rf"{BEFORE}\d{{8}}T\d{{6}}Z(-[0-9a-f]+)?|{re.escape(BEING_MADE)}.*")
_MOUNTS = Path("/proc/self/mountinfo")
_HINTS = {
    errno.EBUSY: "unmount what is mounted there meanwhile, or choose another directory with --data",
    errno.EPERM: "see to whom it belongs, and whether it may be changed (lsattr; chattr -i), or choose another with --data",
    errno.EACCES: "give it to the user whose directory this is, or choose another with --data",
}
"""Where it is what is to be moved that cannot be."""

log = logging.getLogger("tidegate")


def is_mount_point(path: Path) -> bool:
    """Also of a part of the file system above (`mount --bind`), which has the same device. `path`: without links."""
    try:
        points = (line.split()[4] for line in _MOUNTS.read_text(errors="surrogateescape").splitlines())
        return any(_unescaped(point) == str(path) for point in points)
    except OSError:
        return os.path.ismount(path)


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def is_ours(name: str) -> bool:
    """Whether Tidegate gives that name to something in a data directory."""
    return bool(_OURS.fullmatch(name))


def is_left(name: str) -> bool:
    """Whether it is of content that was replaced, or never took its place."""
    return bool(_LEFT.fullmatch(name))


def content(data: Path) -> Iterator[Path]:
    """What is in it, but for old content, and new content that is not in place yet."""
    for path in data.iterdir():
        if path.name not in _STAYS and not is_left(path.name) and not path.name.startswith((_TAKING, _IN_PLACE)):
            yield path


def is_interrupted(data: Path) -> bool:
    """Whether new content had begun to take the place."""
    return bool(_stopped_at(data))


def _stopped_at(data: Path) -> list[Path]:
    try:
        return [path for path in data.iterdir() if path.name.startswith((_TAKING, _IN_PLACE))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_movable(data: Path) -> None:
    """As far as it can be seen before. Raises OperatorError which names what is in the way, OSError."""
    for path in filter(lambda path: is_ours(path.name), content(data)):
        if is_mount_point(path):
            raise _immovable(path, errno.EBUSY)
        found, is_roots = path.lstat(), os.geteuid() == 0
        is_folder = stat.S_ISDIR(found.st_mode)  # It gets another one above it, which is a change of it.
        by_mode = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and bool(found.st_mode & stat.S_IWUSR)
        if (is_folder or by_mode) and not os.access(path, os.W_OK):
            raise _immovable(path, errno.EACCES if is_folder and not is_roots else errno.EPERM)


def _immovable(path: Path, number: int) -> OperatorError:
    return OperatorError("move", path, os.strerror(number), _HINTS[number])


def put_in_place(made: Path, time: str) -> Path:
    """`made`: a folder of the directory whose content is on the disk. Where the old content is kept, if there was any. Raises
    OSError, OperatorError: where `made` has its name still, nothing has changed."""
    data = made.parent
    check_movable(data)
    taking = made.rename(data / f"{_TAKING}{time}")
    try:
        sync(data)
        path = _make_room(taking)
    except (OSError, OperatorError):
        _go_back(taking).rename(made)
        raise
    _move_out(path)
    return data / f"{BEFORE}{time}"


def finish(data: Path) -> None:
    """Where new content has begun to take the place it has all of it then, or the old one has. Raises OSError, and OperatorError
    which names what is in the way of either."""
    for path in _stopped_at(data):
        if path.name.startswith(_TAKING):
            try:
                path = _make_room(path)
            except (OSError, OperatorError) as error:
                _go_back(path)
                log.warning("%s has again what it had: a new content that had begun to take its place cannot: %s", data, error)
                continue
        _move_out(path)


def _make_room(taking: Path) -> Path:
    """The old content is aside then; the folder of the new one, by its new name."""
    data, time = taking.parent, taking.name.removeprefix(_TAKING)
    before = data / f"{BEFORE}{time}"
    if old := [path for path in content(data) if is_ours(path.name) or os.path.lexists(taking / path.name)]:
        before.mkdir(mode=0o700, exist_ok=True)
    if before.exists():
        _move(old, before)
    sync(data)
    return taking.rename(data / f"{_IN_PLACE}{time}")


def _go_back(taking: Path) -> Path:
    """The old content is in its place then; the folder of the new one, as it was."""
    data, time = taking.parent, taking.name.removeprefix(_TAKING)
    if (before := data / f"{BEFORE}{time}").exists():
        _move(list(before.iterdir()), data)
        before.rmdir()
    made = taking.rename(data / f"{BEING_MADE}{time}")
    sync(data)
    return made


def _move_out(in_place: Path) -> None:
    data = in_place.parent
    sync(data)
    (in_place / "lock").unlink(missing_ok=True)
    _move(list(in_place.iterdir()), data)
    in_place.rmdir()
    sync(data)


def _move(paths: list[Path], to: Path) -> None:
    for path in paths:
        try:
            path.rename(to / path.name)
        except OSError as error:
            if error.errno in _HINTS:
                raise _immovable(path, error.errno) from error
            raise
    sync(to)
