"""Listening sockets that can be closed to newcomers for a while, without a loss for those who are connected.

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
        self.is_shut = False

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


def _path_of(endpoint: str) -> str | None:
    return endpoint.removeprefix("ipc://") if endpoint.startswith("ipc://") else None


def _set(fd: int, option: int, value: bytes) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, option, value)
