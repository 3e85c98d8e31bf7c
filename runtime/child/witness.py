"""Whose code a worker runs, in a file that outlives the process however it ends: who reads it afterwards knows who ended it.

One page of memory shared with the kernel. To write into it is no system call; what was written is there when the process has been
killed in the middle of anything. After a crash of the machine it says nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from pathlib import Path

import msgspec

from tidegate.runtime.wire.supervisor_messages import Running

BYTES = mmap.PAGESIZE
_HEAD = 2
_FS_IOC_SETFLAGS, _FS_NOCOW_FL = 0x40086602, 0x00800000


_encode = msgspec.msgpack.Encoder().encode


class Witness:
    """Written by the worker."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # Copied on write it needs room each time, and SIGBUS kills.
                fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, struct.pack("I", _FS_NOCOW_FL))
            os.posix_fallocate(descriptor, 0, BYTES)  # On a full disk this is the error, and not the first write.
            self._page = mmap.mmap(descriptor, BYTES)
        finally:
            os.close(descriptor)
        self.leave()

    def enter(self, class_name: str, name: str, code: str) -> None:
        text = _encode((class_name, name, code[:100]))
        self._page[_HEAD : _HEAD + len(text)] = text
        self._page[:_HEAD] = len(text).to_bytes(_HEAD)

    def leave(self) -> None:
        self._page[:_HEAD] = bytes(_HEAD)

    def close(self) -> None:
        self._page.close()


def take_testimony(path: Path) -> Running | None:
    """For the supervisor, when the worker is gone. The file goes too. None: no object's code ran, or nobody has written."""
    try:
        page = path.read_bytes()
        path.unlink()
        size = int.from_bytes(page[:_HEAD])
        return msgspec.msgpack.decode(page[_HEAD : _HEAD + size], type=Running) if size else None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
