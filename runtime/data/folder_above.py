"""The folder in which a data directory stands: another directory is made beside it there, and the two exchange their names.

Guarantee: at every moment the name has all of the old directory or all of the new one, also after a power loss; the old one is
kept beside it, as `DATA.before-TIME`. Only names in this folder are changed, and nothing in a directory is looked at. Where a
file system is mounted at DATA, which has its name for good, all this is done within: see `own_mount`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import time
from pathlib import Path

from tidegate.runtime.data import own_mount
from tidegate.runtime.data.own_mount import BEFORE, BEING_MADE, is_mount_point
from tidegate.runtime.data.replacing import sync

_AT_FDCWD = -100
_EXCHANGE = 2
_CANNOT_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM})


class FolderAbove:
    """All raise OSError; `put_in_place` where a file system is mounted also OperatorError, which names what is in the way."""

    asked = ("make", "remove", "put_in_place")

    def __init__(self, data: Path, owner: tuple[int, int] | None = None) -> None:
        """`owner`: user and group who are given what is made."""
        self.data = data.resolve()
        self.is_mount = is_mount_point(self.data)
        self.folder = self.data if self.is_mount else self.data.parent
        """Where names are changed."""
        self.kept_as = str(self.data / f"{BEFORE}TIME") if self.is_mount else f"{self.data}.before-TIME"
        """Where what is replaced is kept."""
        self._prefix = BEING_MADE if self.is_mount else f"{self.data.name}{BEING_MADE}"
        self._owner = owner
        self._made: Path | None = None

    def left(self) -> list[Path]:
        """What a run that was killed has begun to make, or another makes."""
        return list(self.folder.glob(f"{self._prefix}*"))

    def make(self) -> str:
        """An empty directory."""
        self._made = self.folder / f"{self._prefix}{secrets.token_hex(4)}"
        self._made.mkdir(mode=0o700)
        if self._owner is not None:
            os.chown(self._made, *self._owner, follow_symlinks=False)
        return str(self._made)

    def remove(self, name: str) -> None:
        """One that is being made, and is empty."""
        if name.startswith(self._prefix) and "/" not in name:
            (self.folder / name).rmdir()

    def put_in_place(self, replaces: bool) -> str:
        """What was made gets the name; where the old one is kept, if there was one."""
        assert self._made is not None, "it was made"
        made, self._made = self._made, None
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        if self.is_mount:
            if os.path.lexists(self.data / f"{BEFORE}{at}"):
                at = f"{at}-{secrets.token_hex(2)}"
            aside = own_mount.put_in_place(made, at)
            return str(aside) if replaces else ""
        if not replaces:
            made.rename(self.data)  # Over an empty directory, too.
            sync(self.data.parent)
            return ""
        aside = self.data.with_name(f"{self.data.name}.before-{at}")
        if os.path.lexists(aside):
            aside = aside.with_name(f"{aside.name}-{secrets.token_hex(2)}")
        made.rename(aside)  # So that the old one gets its name in the same step.
        if not _exchanged(aside, self.data):
            aside.rename(made)
            self.data.rename(aside)
            made.rename(self.data)
        sync(self.data.parent)
        return str(aside)

    def close(self) -> None:
        """What is left is removed by the next run."""


def _exchanged(one: Path, other: Path) -> bool:
    """Both get each other's name in one step; False: this file system or kernel cannot do that. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))
