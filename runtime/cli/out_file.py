"""A FILE that a command writes: all of the new one, or it is as it was.

It is written beside its place, and put there in one step. What is replaced keeps its owner and its mode: others may have been
given it. What is no file, a pipe say, is written into.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from tidegate.runtime.cli.as_owner import DataOwner, may_change
from tidegate.runtime.errors import OperatorError


class OutFile:
    asked = ("sync", "put_in_place", "leave", "close")

    def __init__(self, place: str, *, replaces: bool = True) -> None:
        """Without `replaces` there must be none, and it is made at once. Raises OperatorError."""
        self.flows = replaces and os.path.exists(place) and not os.path.isfile(place)
        """What is written is seen at once, and not taken back."""
        self._path = os.path.realpath(place) if replaces else place
        try:
            if self.flows:
                self._new, self.fd = "", os.open(place, os.O_WRONLY | os.O_CLOEXEC)
            elif replaces:
                folder, name = os.path.split(self._path)
                self.fd, self._new = tempfile.mkstemp(".new", f"{name}.", folder)  # Others may write the same meanwhile.
                self._keep_owner()
            else:
                self._new, self.fd = place, os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise cannot_write(place, error) from error

    def _keep_owner(self) -> None:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            was = os.lstat(self._path)
            os.fchmod(self.fd, stat.S_IMODE(was.st_mode))
            os.fchown(self.fd, was.st_uid, was.st_gid)

    def sync(self) -> None:
        """What was written to `fd` is there after a crash, beside its place. Raises OSError."""
        if not self.flows:
            os.fsync(self.fd)
            self._sync_folder()

    def _sync_folder(self) -> None:
        with contextlib.suppress(PermissionError):  # Who may write into a folder may not always read it.
            folder = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put_in_place(self) -> None:
        """After all has been written to `fd`. Raises OSError."""
        if not self.flows:
            os.fsync(self.fd)
            os.rename(self._new, self._path)
            self._new = ""
            self._sync_folder()

    def leave(self) -> str:
        """What was written stays although it was not put in place: where."""
        left, self._new = self._new or self._path, ""
        return left

    def close(self) -> None:
        """What was not put in place is removed."""
        if self._new:
            Path(self._new).unlink(missing_ok=True)
        self._new = ""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def file_of_root(owner: DataOwner, place: str, *, replaces: bool = True) -> dict[str, OutFile]:
    """The part of root's process, which writes there unless the other may change the way to it: then he does. Raises
    OperatorError."""
    if place == "-" or may_change(owner, Path(place).absolute().parent):
        return {}
    return {"out": OutFile(place, replaces=replaces)}


def cannot_write(place: str, error: OSError) -> OperatorError:
    if isinstance(error, FileExistsError):
        return OperatorError("write", place, "there is such a file", "name another file with --out, or remove this one")
    problem = f"{error.strerror or error}{f': {error.filename}' if error.filename not in (None, place) else ''}"
    return OperatorError("write", place, problem, "name another file, or make room; what was there is as it was")
