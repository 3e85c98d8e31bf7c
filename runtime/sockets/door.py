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
_TURNED_AWAY_MAX = 1_024
"""At once, for each listening socket: as many as may wait there."""


class Door:
    def __init__(self) -> None:
        self._listening: dict[str, int] = {}
        """Descriptors of the library's, by endpoint."""
        self._files: dict[str, int] = {}
        """Paths, and the numbers of their inodes: somebody else may have taken a path."""
        self.is_shut = False
        self._spare: int | None = None
        """A descriptor that is given up to turn away who waits, where none is left: what waits and cannot be accepted keeps the
        library's thread busy."""

    def bound(self, endpoint: str) -> None:
        """It is ours: if it has a file, `close` removes that."""
        if (path := _path_of(endpoint)) is not None:
            with contextlib.suppress(OSError):
                self._files[path] = os.stat(path).st_ino

    def listens(self, endpoint: str, fd: int) -> None:
        self._listening[endpoint] = fd
        os.set_blocking(fd, False)  # The library may have accepted what was waiting when we look; those of files block.
        if self._spare is None:
            self._spare = _spare_descriptor()

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

    def turn_away(self) -> None:
        """Closes the connections that have come and were not accepted, for lack of a descriptor. Their clients try again."""
        for fd in self._listening.values():
            listening = socket.socket(fileno=fd)
            try:
                for _ in range(_TURNED_AWAY_MAX):
                    if self._spare is not None:
                        os.close(self._spare)
                        self._spare = None
                    listening.accept()[0].close()
                    self._spare = _spare_descriptor()
            except OSError:  # Nobody waits; or the library was faster.
                self._spare = self._spare or _spare_descriptor()
            finally:
                listening.detach()

    def turn_out(self, fd: int) -> None:
        """Ends a connection that has just been accepted, if that is what the descriptor still is. The library closes it."""
        with contextlib.suppress(OSError):
            accepted = socket.socket(fileno=fd)
            try:
                if any(_place_of(accepted) == _place_of_number(listening) for listening in self._listening.values()):
                    accepted.shutdown(socket.SHUT_RDWR)
            finally:
                accepted.detach()

    def close(self) -> None:
        """From now on nobody finds it. Who is connected stays."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
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
    with contextlib.suppress(OSError):
        listening = socket.socket(fileno=fd)  # No copy: there may be no descriptor for one.
        try:
            listening.setsockopt(socket.SOL_SOCKET, option, value)
        finally:
            listening.detach()


def _place_of(bound: socket.socket) -> object:
    """Its port, or its path: the address of a listening socket may stand for many."""
    name = bound.getsockname()
    return name[1] if isinstance(name, tuple) else name


def _place_of_number(fd: int) -> object:
    listening = socket.socket(fileno=fd)
    try:
        return _place_of(listening)
    finally:
        listening.detach()


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
