"""Listening sockets that can be closed to newcomers for a while, without a loss for those who are connected. Those in the file
system have a file there, which the library leaves behind (4.3.5): it goes when they close.

`unbind` is no way: libzmq ends the connections with the listener that has accepted them (4.3.5). So the kernel is asked: a filter
on a socket of TCP drops what knocks, which its client repeats by itself; a socket in the file system is called otherwise for a
while, so that who looks for it finds nobody, and goes round.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Iterable
from ipaddress import ip_network

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_DROP_ALL = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
"""One instruction: of a packet keep nothing."""
_INSTRUCTION_BYTES = 8
_NETWORK = 0xFFF0_0000
"""SKF_NET_OFF: from here on offsets are those of the IP header."""
_LOAD_BYTE, _LOAD_WORD, _AND, _EQUAL, _JUMP, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x05, 0x06
_TCP_INFO_BYTES = 256
_ACKED_AT = 120
"""In `struct tcp_info`: bytes that were sent and acknowledged, then bytes received. Kernels from 4.6 on have both."""
_ACKED_AND_RECEIVED = struct.Struct("=QQ")
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
        self._barring: ctypes.Array[ctypes.c_char] | None = None
        """A program of the kernel's filter."""
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

    def bar(self, addresses: Iterable[str]) -> None:
        """From now on what these send to a listening socket of TCP is dropped, and of nobody else; connections stay."""
        self._barring = ctypes.create_string_buffer(barring_program(addresses))
        if not self.is_shut:
            self._filter()

    def _filter(self) -> None:
        program = self._barring
        for endpoint, fd in self._listening.items():
            if _path_of(endpoint) is None:
                if program is None or len(program) <= _INSTRUCTION_BYTES:
                    _set(fd, _SO_DETACH_FILTER, struct.pack("i", 0))
                else:
                    length = len(program) // _INSTRUCTION_BYTES
                    _set(fd, _SO_ATTACH_FILTER, struct.pack("HL", length, ctypes.addressof(program)))

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
        for endpoint in self._listening:
            if (path := _path_of(endpoint)) is not None:
                with contextlib.suppress(OSError):
                    os.rename(path + _SHUT, path)
        self._filter()

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
        """Ends a connection that was accepted, if that is what the descriptor still is. The library closes it, which resets it:
        who has filled the window would else wait for a minute to hear that nobody is there."""
        with contextlib.suppress(OSError):
            accepted = socket.socket(fileno=fd)
            try:
                if any(_place_of(accepted) == _place_of_number(listening) for listening in self._listening.values()):
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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


def peer_address(fd: int) -> str | None:
    """Of a connection of TCP, without its port. None: it is none any more."""
    try:
        connection = socket.socket(fileno=fd)
        try:
            name = connection.getpeername()
        finally:
            connection.detach()
    except OSError:
        return None
    return str(name[0]).removeprefix("::ffff:") if isinstance(name, tuple) else None


def bytes_so_far(fd: int) -> tuple[int, int] | None:
    """Received of a connection of TCP, and sent to it. None: it is none any more, or the kernel does not say."""
    try:
        connection = socket.socket(fileno=fd)
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        finally:
            connection.detach()
        sent, received = _ACKED_AND_RECEIVED.unpack_from(info, _ACKED_AT)
    except (OSError, struct.error):
        return None
    return received, sent


def bytes_taken(fd: int) -> int | None:
    """Received of a connection of TCP and taken from the kernel by whoever reads it. None as above."""
    found = bytes_so_far(fd)
    if found is None:
        return None
    waiting = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.FIONREAD, waiting)
    except OSError:
        return None
    return found[0] - int.from_bytes(waiting, sys.byteorder)


def barring_program(addresses: Iterable[str]) -> bytes:
    """Of classic BPF: keeps nothing of a packet from one of these, and all of any other. Networks of IPv6 may be named."""
    four: list[int] = []
    six: list[tuple[int, int]] = []
    for each in addresses:
        network = ip_network(each.partition("%")[0])
        if network.version == 4:
            four.append(int(network.network_address))
        else:
            six.append((int(network.network_address), network.prefixlen // 32))
    program = [_instruction(_LOAD_BYTE, _NETWORK), _instruction(_AND, 0xF0)]
    of_four = [_instruction(_LOAD_WORD, _NETWORK + 12)]
    for number in four:
        of_four += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, 0)]
    of_four.append(_instruction(_RETURN, 0xFFFF_FFFF))
    program += [_instruction(_EQUAL, 0x40, 0, 1), _instruction(_JUMP, 1), _instruction(_JUMP, len(of_four)), *of_four]
    for number, words in six:
        for word in range(words):
            program.append(_instruction(_LOAD_WORD, _NETWORK + 8 + 4 * word))
            program.append(_instruction(_EQUAL, number >> (96 - 32 * word) & 0xFFFF_FFFF, 0, 2 * (words - word) - 1))
        program.append(_instruction(_RETURN, 0))
    program.append(_instruction(_RETURN, 0xFFFF_FFFF))
    return b"".join(program) if four or six else b""


def _instruction(code: int, number: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_so, if_not, number)


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
