"""Listening sockets that can be closed to newcomers for a while, without a loss for those who are connected. Those in the file
system have a file there, which the library leaves behind (4.3.5): it goes when they close.

`unbind` is no way: libzmq ends the connections with the listener that has accepted them (4.3.5). So the kernel is asked: a filter
on a socket of TCP drops what knocks, which its client repeats by itself; a socket in the file system is called otherwise for a
while, so that who looks for it finds nobody, and goes round.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_DROP_ALL = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
"""One instruction: of a packet keep nothing."""
_SHUT = ".full"


class Door:
    def __init__(self) -> None:
        self._listening: dict[str, int] = {}
        """Descriptors of the library's, by endpoint."""
        self._files: dict[str, int] = {}
        """Paths, and the numbers of their inodes: somebody else may have taken a path."""
        self.is_shut = False

    def bound(self, endpoint: str) -> None:
        """It is ours: if it has a file, `close` removes that."""
        if (path := _path_of(endpoint)) is not None:
            with contextlib.suppress(OSError):
                self._files[path] = os.stat(path).st_ino

    def listens(self, endpoint: str, fd: int) -> None:
        self._listening[endpoint] = fd

    def shut(self) -> None:
        self.is_shut = True
        program = struct.pack("HL", 1, ctypes.addressof(_DROP_ALL))
        for endpoint, fd in self._listening.items():
            if (path := _path_of(endpoint)) is not None:
                with contextlib.suppress(OSError):
                    os.rename(path, path + _SHUT)
            else:
                _set(fd, _SO_ATTACH_FILTER, program)

    def open(self) -> None:
        self.is_shut = False
        for endpoint, fd in self._listening.items():
            if (path := _path_of(endpoint)) is not None:
                with contextlib.suppress(OSError):
                    os.rename(path + _SHUT, path)
            else:
                _set(fd, _SO_DETACH_FILTER, struct.pack("i", 0))

    def close(self) -> None:
        """From now on nobody finds it. Who is connected stays."""
        if self.is_shut:
            self.open()
        for path, inode in self._files.items():
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)


def _path_of(endpoint: str) -> str | None:
    """None where there is no file: one that begins with `@` is abstract."""
    return endpoint.removeprefix("ipc://") if endpoint.startswith("ipc://") and not endpoint.startswith("ipc://@") else None


def _set(fd: int, option: int, value: bytes) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, option, value)
