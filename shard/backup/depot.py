"""Where the pieces of backups are: named bytes, each put as a whole.

Guarantee of `put`: when it returns, all of it is there and would be after a power loss; if it is interrupted, what was there
under that name before is still there, or nothing. Names are of letters, digits, `.`, `-`, and one `/`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Protocol

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.regular import open_regular
from tidegate.shard.log.commit_log import sync_directory

_NEW = ".new"
BYTES_MAX = 1 << 30
"""More than any piece or manifest has."""
_HINTS = {
    errno.ENOSPC: "make room there and run the same command again: it goes on where it was",
    errno.EDQUOT: "raise the quota and run the same command again: it goes on where it was",
    errno.EACCES: "give all that is there to the user who makes the backups (chown -R), or name another place",
    errno.EROFS: "mount it for writing",
}


class Depot(Protocol):
    place: str
    """As it is named to the operator."""

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str) -> bytes | None:
        """None: there is nothing of that name. Read from where it is kept, not from a cache of what was put."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Names that begin with it, in order."""
        ...

    def stamps(self, prefix: str = "") -> dict[str, str]:
        """The same names, each with what is another text when something else is put under it."""
        ...

    def delete(self, name: str) -> None: ...


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


class FolderDepot:
    """A folder of a file system. All raise OperatorError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path)

    def put(self, name: str, data: bytes) -> None:
        path = self._path / name
        new = path.with_name(path.name + _NEW)
        try:
            if not path.parent.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(self._path)
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # So that it is read back from the disk.
            finally:
                os.close(fd)
            new.rename(path)
            sync_directory(path.parent)
        except OSError as error:
            raise self._failed("write", path, error) from error

    def get(self, name: str) -> bytes | None:
        path = self._path / name
        try:
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size > BYTES_MAX:
                    raise OSError(errno.EFBIG, f"has more than {BYTES_MAX} bytes", str(path))
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", path, error) from error

    def list(self, prefix: str = "") -> list[str]:
        return list(self.stamps(prefix))

    def stamps(self, prefix: str = "") -> dict[str, str]:
        """Another process may put and delete meanwhile: what is gone when its turn comes is not in it."""
        folder = prefix.rpartition("/")[0]
        found: dict[str, str] = {}
        try:
            folders = [folder] if folder else sorted(each.name for each in _entries(self._path) if each.is_dir())
            for folder in folders:
                for each in sorted(_entries(self._path / folder), key=lambda each: each.name):
                    name = f"{folder}/{each.name}"
                    if name.startswith(prefix) and not name.endswith(_NEW) and each.is_file():
                        with contextlib.suppress(FileNotFoundError):
                            status = each.stat()
                            found[name] = f"{status.st_ino}.{status.st_mtime_ns}.{status.st_size}"
        except OSError as error:
            raise self._failed("look into", self._path, error) from error
        return found

    def delete(self, name: str) -> None:
        path = self._path / name
        try:
            path.unlink(missing_ok=True)
            left = list(path.parent.iterdir())
            if all(each.name.endswith(_NEW) for each in left):  # Of puts that were interrupted.
                for each in left:
                    each.unlink(missing_ok=True)
                path.parent.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._failed("remove", path, error) from error

    def _failed(self, operation: str, path: Path, error: OSError) -> OperatorError:
        hint = _HINTS.get(error.errno or 0, "check that place and run the same command again: it goes on where it was")
        return OperatorError(operation, path, error.strerror or str(error), hint, passes=True)
