"""A data directory that is made beside the one whose place it will take.

Guarantee: at every moment the path has all of the old directory or all of the new one, also after a power loss (where a file
system is mounted at it, once it is opened again: `own_mount`); the old one is kept beside it, as `DATA.before-TIME`. What is left
of a run that was killed is removed by the next one.

Both directories are locked until `close`: no service can start on either meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from tidegate.runtime.data.directory import describe_directory, lock_directory, make_description
from tidegate.runtime.data.folder_above import FolderAbove
from tidegate.runtime.data.own_mount import check_movable, content, is_interrupted, is_ours
from tidegate.runtime.data.replacing import sync
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import GIVEN_UP

_OF_ONE_DIRECTORY = frozenset({"tidegate.json", "lock", GIVEN_UP})
"""Files that the next one must not have of the one before."""


class Successor:
    """`path` is where it is made. To be closed."""

    def __init__(self, target: Path, above: FolderAbove | None = None) -> None:
        """`above`: of root's process, where only that may change names there. Raises OperatorError, also while a service uses
        the directory."""
        self._above = above or FolderAbove(target)
        self._target = self._above.data
        self.kept_as = self._above.kept_as
        """Where what is replaced is kept, as an operator reads it."""
        self.replaces = False
        """Whether there is something in the place that it will take."""
        self._locks: list[int] = []
        self._unfinished: Path | None = None
        """What is to be removed if it does not take the place."""
        try:
            if self._target.exists() and not self._target.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._target))
            if has_something := self._has_something():
                self._check_ours()
            if has_something or self._above.is_mount:
                self._locks.append(lock_directory(self._target))
            self.replaces = self._has_something()  # Only now: what was interrupted is as a whole in one place.
            if self.replaces and self._above.is_mount:
                check_movable(self._target)
            self.path = self._unfinished = self._make()
        except OSError as error:
            self.close()
            raise self._failed("make a directory beside", error) from error
        except BaseException:
            self.close()
            raise

    def _has_something(self) -> bool:
        if not self._target.is_dir():
            return False
        return any(content(self._target) if self._above.is_mount else self._target.iterdir())

    def _check_ours(self) -> None:
        """That nothing of others is moved away. A damaged directory may have lost its description."""
        is_ours = (self._target / "tidegate.json").exists() or all((self._target / name).is_dir() for name in ("log", "shards"))
        if not is_ours and not is_interrupted(self._target):
            problem = "it is not empty, and no data directory of Tidegate"
            raise OperatorError("take the place of", self._target, problem, "choose another with --data")

    def _make(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        for left in self._above.left():
            self._remove_if_nobody_makes_it(left)
        path = Path(self._above.make())
        self._locks.append(lock_directory(path))
        return path

    def _remove_if_nobody_makes_it(self, path: Path) -> None:
        with contextlib.suppress(OperatorError):  # Another run is at it.
            lock = lock_directory(path)
            self._remove(path)
            os.close(lock)

    def _remove(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._above.remove(path.name)

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
                if self._goes_along(file) and not there.exists():
                    shutil.copy2(file, there)
            if access and not (mine := self.path / "access.json").exists():
                mine.touch(mode=0o600)
                mine.write_text(access)
            make_description(self.path, shards, starts)
            _sync_all(self.path)
            return self._exchange()
        except OSError as error:
            raise self._failed("put in place", error) from error

    def _goes_along(self, file: Path) -> bool:
        stays = self._above.is_mount and not is_ours(file.name)
        return not stays and file.name not in _OF_ONE_DIRECTORY and file.suffix != ".new" and file.is_file()

    def _exchange(self) -> Path | None:
        if self.replaces and not self._above.is_mount:
            self._unfinished = None  # From here on nothing is removed: what has this name may be the old one.
        aside = self._above.put_in_place(self.replaces)
        return Path(aside) if aside else None

    def close(self) -> None:
        """What has not taken its place is removed."""
        try:
            if self._unfinished is not None:
                self._remove(self._unfinished)
        finally:
            for lock in self._locks:
                os.close(lock)
            self._locks = []

    def __enter__(self) -> Successor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, operation: str, error: OSError) -> OperatorError:
        hints = {
            errno.ENOSPC: "make room on its file system, or choose another with --data",
            errno.EACCES: "run it as a user who may write into the folder above",
        }
        hint = hints.get(error.errno or 0, "check the disk, or choose another with --data")
        return OperatorError(operation, self._target, error.strerror or str(error), hint)


def _sync_all(path: Path) -> None:
    for folder, _, files in os.walk(path):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
