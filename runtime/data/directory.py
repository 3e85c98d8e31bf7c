"""The data directory: one service at a time, one format, and a number for every start.

DATA/tidegate.json   {"format": 2, "shards": 8, "starts": 12}; of a cluster, with "cluster", its id
DATA/access.json     access keys, if the service asks for any (`access_file`)
DATA/lock            locked while any process of a service that uses the directory lives; holds the supervisor's pid
DATA/log/…           commit logs, one folder for each process of a worker in each start
DATA/shards/…        one LMDB environment for each shard
DATA/shipping/…      segments of the log that the next backup will fetch, if the service makes backups (`shipping`)
DATA/backups.json    how the last backup to each place went (`backup_notes`)
DATA/audit.jsonl     what operators changed in objects (`audit`)

Rule 1: what is written here has reached the disk, names included, before anything relies on it.
Rule 2: a directory that this version does not understand is left exactly as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidegate.runtime.data.lock import take_lock
from tidegate.runtime.data.own_mount import is_interrupted, is_left
from tidegate.runtime.data.replacing import sync
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import SHARDS_MAX
from tidegate.runtime.shipping import Shipping, remove_left

FORMAT = 2
CACHE_FORMAT = 3
"""Of a directory that is a cache of the logs of a cluster: earlier versions would take it for all there is."""
OLDEST_FORMAT = 1
"""Which this version can read. What it writes is of the newest format, and no older version reads that."""
STARTS_MAX = 10**15
"""More than there can have been: the number is in names of files, and in what states say of their log."""
_SECTOR_BYTES = 512

_LOG_NAME = re.compile(r"(\d{8,})-\d{4,}(-\d{4,})?(-kept)?")
_DELETED = "deleted-"
_FOLDERS = ("log", "shards")
_OURS_BEFORE_FORMAT = frozenset({"access.json", "access.json.new", "lock", "run", "tidegate.json.new", "lost+found"})
"""What may be in a directory that has no tidegate.json yet: the beginnings of a creation cut short."""


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSES = _NO_ROOM | {errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What a disk, a mount or a machine may get over."""
_HINTS = {
    errno.ENOSPC: "make room on this file system, space or inodes (df -h, df -i), or choose another with --data",
    errno.EDQUOT: "raise the quota of this user, make room, or choose another with --data",
    errno.EROFS: "mount this file system for writing, or choose another with --data",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EIO: "check the disk and the kernel's log",
    errno.ENOTDIR: "a part of this path is no directory; choose another with --data",
}
_ANOTHER = "choose an empty directory with --data"
_NAME_IT = "name the one that the service was given with --data"
"""To who looks at a directory that there should be already."""


class _Description(msgspec.Struct, omit_defaults=True):
    format: int
    shards: int
    starts: int
    cluster: str = ""
    """The id of the cluster whose logs this is a cache of. Empty: the logs are here."""
    host: str = ""
    """By which the other hosts of that cluster know the one that has this directory."""


class DataDirectory:
    """A locked data directory at one start of the service. `close` gives it back."""

    def __init__(self, path: Path, lock_fd: int, description: _Description, *, counted: bool = True) -> None:
        self.path = path
        self.lock_fd = lock_fd
        self.shards = description.shards
        self.start = description.starts
        """Number of this start, from 1; no two starts that have written anything have the same."""
        self.host = description.host
        """Of a cluster: the id of this host."""
        self._description = description
        self._counted = counted

    def check_cluster(self, id: str) -> None:
        """Raises OperatorError where it is a cache of another's logs."""
        if self._description.cluster != id:
            raise _is_of_another(self.path, self._description.cluster, id, _ANOTHER)

    def count_start(self) -> None:
        """Makes up for it where there was no room to count this start when it began."""
        if not self._counted:
            _write_durably(self.path / "tidegate.json", _encode(self._description))
            self._counted = True

    def delete_logs_of_earlier_starts(self) -> int:
        """Call when every worker has checkpointed what they hold. Returns how many were deleted."""
        logs = self.path / "log"
        earlier = [name for name in os.listdir(logs) if (match := _LOG_NAME.fullmatch(name)) and int(match[1]) < self.start]
        for name in earlier:  # Renamed first: a recovery must never meet half a log.
            os.rename(logs / name, logs / (_DELETED + name))
        if earlier:
            sync(logs)
        _remove_deleted(logs)
        return len(earlier)

    def close(self) -> None:
        os.close(self.lock_fd)


def open_directory(path: Path, shards_if_new: int, cluster: str = "") -> DataDirectory:
    """Creates it if it does not exist, locks it, counts this start. `cluster`: the id of that whose logs it is to be a cache of.
    Raises OperatorError."""
    if not is_text(path):
        hint = "choose another with --data; if it is UTF-8, set LC_ALL=C.UTF-8"
        raise OperatorError("open data directory", path, "its path is not UTF-8", hint)
    try:
        _create(path)
        lock_fd = take_lock(path, "stop it first, or choose another with --data")
        try:
            return _begin_start(path, lock_fd, shards_if_new, cluster)
        except BaseException:
            os.close(lock_fd)
            raise
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "give it to the user who runs the service, or choose another with --data")
        raise _cannot_open(path, error, hint) from error


def _cannot_open(path: Path, error: OSError, hint: str) -> OperatorError:
    if error.errno == errno.EISDIR and error.filename is not None:  # As where a mount or a copy went wrong.
        path, hint = Path(os.fsdecode(error.filename)), "a file belongs there: put it back, or restore a backup"
    return OperatorError("open data directory", path, error.strerror or str(error), hint, passes=error.errno in _PASSES)


class KnownCluster(NamedTuple):
    """Of whose logs a directory is a cache."""

    id: str
    shards: int


def known_cluster(path: Path) -> KnownCluster | None:
    """None also where it cannot be read: whoever opens it says why."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        found = msgspec.json.decode((path / "tidegate.json").read_bytes(), type=_Description)
        if found.cluster:
            return KnownCluster(found.cluster, found.shards)
    return None


class Described(NamedTuple):
    """What `tidegate.json` says."""

    shards: int
    starts: int


def describe_directory(path: Path) -> Described:
    """Of one that a service may be using. Raises OperatorError."""
    try:
        _finish_if_interrupted(path)
        description = _read_description(path, _NAME_IT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OperatorError("open data directory", path, "there is no such directory", _NAME_IT) from error
    except OSError as error:
        raise _cannot_open(path, error, "run it as the user who runs the service") from error
    if description is None:
        raise _not_ours(path)
    return Described(description.shards, description.starts)


def make_description(path: Path, shards: int, starts: int) -> None:
    """For a directory that is being made: it is one from then on. Raises OSError."""
    for name in _FOLDERS:
        (path / name).mkdir(mode=0o700, exist_ok=True)
    _write_durably(path / "tidegate.json", _encode(_Description(FORMAT, shards, starts)))


def _not_ours(path: Path) -> OperatorError:
    problem = "not a data directory of Tidegate: it holds no tidegate.json"
    return OperatorError("open data directory", path, problem, _NAME_IT)


def lock_directory(path: Path) -> int:
    """The lock of one that is to be replaced, whatever state it is in; closing the descriptor gives it back. Raises OperatorError
    while a service uses it."""
    try:
        return take_lock(path, "stop it first")
    except OSError as error:
        raise _cannot_open(path, error, "run it as the user who runs the service") from error


class IdleDirectory:
    """A data directory that no service uses, and none can begin to use before `close`. Nothing in it is changed."""

    def __init__(self, path: Path, lock_fd: int, description: _Description) -> None:
        self.path = path
        self.format = description.format
        self.shards = description.shards
        self.starts = description.starts
        self._lock_fd = lock_fd

    def __enter__(self) -> IdleDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock_fd)


def open_idle_directory(path: Path) -> IdleDirectory:
    """Raises OperatorError if there is none, a service uses it, or it may not be read."""
    try:
        _finish_if_interrupted(path)
        description = _read_description(path, _NAME_IT)
        if description is None:
            raise _not_ours(path)
        return IdleDirectory(path, take_lock(path, "stop it first"), description)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OperatorError("open data directory", path, "there is no such directory", _NAME_IT) from error
    except OSError as error:
        hint = "check the disk and the kernel's log" if error.errno == errno.EIO else "run it as the user who runs the service"
        raise _cannot_open(path, error, hint) from error


def _finish_if_interrupted(path: Path) -> None:
    if is_interrupted(path):
        os.close(take_lock(path, "wait until it has taken its place"))


def is_text(path: str | Path) -> bool:
    """Whether it is UTF-8, as the names of sockets have to be. (Python reads what is not as halves of surrogate pairs.)"""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _create(path: Path) -> None:
    if not path.exists():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync(path.parent)


def _begin_start(path: Path, lock_fd: int, shards_if_new: int, cluster: str) -> DataDirectory:
    found = _read_description(path, _ANOTHER, cluster)
    description = found or _Description(FORMAT, shards_if_new, 0, cluster)
    description.format = CACHE_FORMAT if cluster else FORMAT
    if cluster:
        description.host = description.host or secrets.token_hex(4)
    description.starts = max(description.starts, _newest_log(path / "log")) + 1
    try:
        for name in _FOLDERS:
            (path / name).mkdir(mode=0o700, exist_ok=True)
        _remove_deleted(path / "log")
        remove_left(path)
        _write_durably(path / "tidegate.json", _encode(description))
    except OSError as error:
        if found is None or error.errno not in _NO_ROOM:
            raise
        return DataDirectory(path, lock_fd, description, counted=False)
    return DataDirectory(path, lock_fd, description)


def _is_beginning(folder: Path) -> bool:
    """Of a creation cut short, by a full disk say: a folder of ours, with nothing in it yet."""
    return folder.name in _FOLDERS and folder.is_dir() and not any(folder.iterdir())


def _newest_log(logs: Path) -> int:
    """By the number of its start, which may not have been counted."""
    names = os.listdir(logs) if logs.is_dir() else []
    return max((int(match[1]) for name in names if (match := _LOG_NAME.fullmatch(name))), default=0)


def _encode(description: _Description) -> bytes:
    return msgspec.json.encode(description) + b"\n"


def _read_description(path: Path, elsewhere: str, cluster: str = "") -> _Description | None:
    """None for a directory that is still empty. `elsewhere`: the next step if it is another's. `cluster`: of whose logs it has to
    be a cache; by default of none."""
    file = path / "tidegate.json"
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        names = {name for name in os.listdir(path) if not is_left(name)} - _OURS_BEFORE_FORMAT
        strangers = sorted(name for name in names if not _is_beginning(path / name))
        if strangers:
            problem = f"not a data directory of Tidegate: it holds {strangers[0]} but no tidegate.json"
            raise OperatorError("open data directory", path, problem, elsewhere) from None
        return None
    try:
        said = msgspec.json.decode(text, type=dict[str, object])
        version = said.get("format")
        if version not in ((CACHE_FORMAT,) if said.get("cluster") else range(OLDEST_FORMAT, FORMAT + 1)):
            problem = f"format {version} is of another version of Tidegate; this one reads format {FORMAT}"
            raise OperatorError("open data directory", path, problem, "start the version that wrote it")
        description = msgspec.json.decode(text, type=_Description)
    except msgspec.MsgspecError as error:
        raise OperatorError("read", file, f"damaged: {error}", _restore(path)) from error
    if not 1 <= description.shards <= SHARDS_MAX or description.shards & (description.shards - 1):
        raise OperatorError("read", file, "damaged: impossible numbers", _restore(path))
    if not 0 <= description.starts < STARTS_MAX:
        raise OperatorError("read", file, "damaged: impossible numbers", _restore(path))
    if description.cluster != cluster:
        raise _is_of_another(path, description.cluster, cluster, elsewhere)
    return description


def _is_of_another(path: Path, found: str, wanted: str, elsewhere: str) -> OperatorError:
    if not wanted:
        problem = "it is a cache of the logs of a cluster, and has nothing that these have not; serve it with --cluster"
    elif found:
        problem = f"it is a cache of another cluster ({found}, and this is {wanted})"
    else:
        problem = "it is of a service without a cluster"
    return OperatorError("open data directory", path, problem, elsewhere)


def _restore(path: Path) -> str:
    return f"restore a backup: `tidegate restore SOURCE --data {path} --yes`"


# Writing so that it stays


def _write_durably(path: Path, data: bytes) -> None:
    """All of the new content or all of the old, whatever happens. On a full disk the content is written over the old one: it is
    less than a sector, and has its block."""
    assert len(data) <= _SECTOR_BYTES
    new = path.with_name(path.name + ".new")
    try:
        _write_and_sync(new, data, os.O_CREAT | os.O_TRUNC)
        os.rename(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        if error.errno not in _NO_ROOM or not path.exists():
            raise
        _write_and_sync(path, data, 0)
    sync(path.parent)


def _write_and_sync(path: Path, data: bytes, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_deleted(logs: Path) -> None:
    """What a backup waits for goes there before."""
    shipping = Shipping(logs.parent)
    for name in os.listdir(logs):
        if name.startswith(_DELETED):
            shipping.take_all(logs / name)
            shutil.rmtree(logs / name)
