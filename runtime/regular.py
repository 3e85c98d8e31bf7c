"""Reading a file that another user may have put there: no link is followed, nothing is waited for, and there is a bound."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """To be read. Raises OSError, also for a link, a pipe, a folder or a device."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_regular(path: Path, bytes_max: int) -> bytes:
    """All of it. Raises OSError, also for what is longer."""
    with open_regular(path) as file:
        found = file.read(bytes_max + 1)
    if len(found) > bytes_max:
        raise OSError(errno.EFBIG, f"has more than {bytes_max} bytes", str(path))
    return found
