"""A data directory that is made beside the one whose place it will take.

Guarantee: at every moment the path has all of the old directory or all of the new one, also after a power loss; the old one is
kept beside it, as `DATA.before-TIME`. What is left of a run that was killed is removed by the next one.

Both directories are locked until `close`: no service can start on either meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import time
from pathlib import Path

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import GIVEN_UP
from tidegate.runtime.supervisor.directory import describe_directory, lock_directory, make_description

_BEING_MADE = ".being-made-"
_OF_ONE_DIRECTORY = frozenset({"tidegate.json", "lock", GIVEN_UP})
"""Files that the next one must not have of the one before."""
_AT_FDCWD = -100
_EXCHANGE = 2
_CANNOT_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM})


class Successor:
    """`path` is where it is made. To be closed."""

    def __init__(self, target: Path) -> None:
        """Raises OperatorError, also while a service uses the directory."""
        self._target = target.absolute()
        self.replaces = self._target.is_dir() and any(self._target.iterdir())
        """Whether there is something in the place that it will take."""
        self._locks: list[int] = []
        self._unfinished: Path | None = None
        """What is to be removed if it does not take the place."""
        try:
            if self._target.exists() and not self._target.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._target))
            if self.replaces:
                self._check_ours()
                self._locks.append(lock_directory(self._target))
            self.path = self._unfinished = self._make()
        except OSError as error:
            self.close()
            raise self._failed("make a directory beside", error) from error
        except BaseException:
            self.close()
            raise

    def _check_ours(self) -> None:
        """That nothing of others is moved away. A damaged directory may have lost its description."""
        if not (self._target / "tidegate.json").exists() and not all(
            (self._target / name).is_dir() for name in ("log", "shards")
        ):
            problem = "it is not empty, and no data directory of Tidegate"
            raise OperatorError("take the place of", self._target, problem, "choose another with --data")

    def _make(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        for left in self._target.parent.glob(f"{self._target.name}{_BEING_MADE}*"):
            _remove_if_nobody_makes_it(left)
        path = self._target.with_name(f"{self._target.name}{_BEING_MADE}{secrets.token_hex(4)}")
        path.mkdir(mode=0o700)
        self._locks.append(lock_directory(path))
        return path

    @property
    def starts_before(self) -> int:
        """How many starts the directory counts that is replaced; 0 where nobody can tell."""
        if not self.replaces:
            return 0
        try:
            return describe_directory(self._target).starts
        except OperatorError:
            return 0

    def take_place(self, shards: int, starts: int, access: str = "") -> Path | None:
        """Makes it the data directory; where the old one is kept, if there was one. Files of the old one that are no data, as
        access keys are and what operators have changed, are those of the new one. `access`: the text of `access.json`, if it had
        none: a key that was revoked stays so. Raises OperatorError."""
        try:
            for file in self._target.iterdir() if self.replaces else ():
                there = self.path / file.name
                if file.is_file() and file.name not in _OF_ONE_DIRECTORY and file.suffix != ".new" and not there.exists():
                    shutil.copy2(file, there)
            if access and not (mine := self.path / "access.json").exists():
                mine.touch(mode=0o600)
                mine.write_text(access)
            make_description(self.path, shards, starts)
            if os.geteuid() == 0 and self._target.is_dir():
                _give_to(self.path, self._target)
            _sync_all(self.path)
            return self._exchange()
        except OSError as error:
            raise self._failed("put in place", error) from error

    def _exchange(self) -> Path | None:
        if not self.replaces:
            self.path.rename(self._target)  # Over an empty directory, too.
            _sync(self._target.parent)
            return None
        aside = self._target.with_name(f"{self._target.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        if aside.exists():
            aside = aside.with_name(f"{aside.name}-{secrets.token_hex(2)}")
        made, self._unfinished = self.path, None  # From here on nothing is removed: it may be the old one.
        made.rename(aside)  # So that the old one gets its name in the same step.
        if not _exchanged(aside, self._target):
            aside.rename(made)
            self._target.rename(aside)
            made.rename(self._target)
        _sync(self._target.parent)
        return aside

    def close(self) -> None:
        """What has not taken its place is removed."""
        if self._unfinished is not None:
            shutil.rmtree(self._unfinished, ignore_errors=True)
        for lock in self._locks:
            os.close(lock)
        self._locks = []

    def __enter__(self) -> Successor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, operation: str, error: OSError) -> OperatorError:
        hints = {
            errno.EBUSY: "it is where a file system is mounted: choose another with --data, then mount that",
            errno.ENOSPC: "make room on its file system, or choose another with --data",
            errno.EACCES: "run it as a user who may write into the folder above",
        }
        hint = hints.get(error.errno or 0, "check the disk, or choose another with --data")
        return OperatorError(operation, self._target, error.strerror or str(error), hint)


def _remove_if_nobody_makes_it(path: Path) -> None:
    with contextlib.suppress(OperatorError):  # Another run is at it.
        lock = lock_directory(path)
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _exchanged(one: Path, other: Path) -> bool:
    """Both get each other's name in one step; False: this file system or kernel cannot do that. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _give_to(path: Path, like: Path) -> None:
    """Everything in it gets the owner of another path."""
    owner = like.stat()
    for folder, _, files in os.walk(path):
        os.chown(folder, owner.st_uid, owner.st_gid)
        for name in files:
            os.chown(os.path.join(folder, name), owner.st_uid, owner.st_gid)


def _sync_all(path: Path) -> None:
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
