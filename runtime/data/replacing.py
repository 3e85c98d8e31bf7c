"""Replaces a small file: it has all of the new content or all of the old, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with what is in it, among those who ask for that: between reading a file and replacing it nobody else does."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def replace(path: Path, content: bytes, *, keeps_owner: bool = False) -> None:
    """Durable when it returns. With `keeps_owner`, what root writes belongs to whom the file before did."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            if keeps_owner and os.geteuid() == 0:
                with contextlib.suppress(FileNotFoundError):
                    owner = path.lstat()
                    os.fchown(fd, owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(fd)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Of a folder: what it has by which names."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
