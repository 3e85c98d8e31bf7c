"""Frames of a stream: bytes in, whole bodies out.

Each side begins with the greeting. Then come frames: the length of a body in four bytes, the highest first, and the body.

Rule 1: pure.
Rule 2: a length is looked at before anything is kept for it, and what was announced and has not come takes no memory.
Rule 3: of a large body each byte is copied once, when all of it is there.
"""

from __future__ import annotations

import struct

from tidegate.runtime.limits import LARGE_BYTES, MESSAGE_BYTES_MAX

GREETING = b"TIDEGATE STREAM 1\r\n"
HEAD_BYTES = 4
_PIECE_BYTES_MAX = 1 << 20
"""Of a large body, asked for at once."""

_head = struct.Struct(">I")
head_of_length = _head.pack
_length_at = _head.unpack_from


class Frames:
    """Of one direction of one connection."""

    __slots__ = ("_bytes_max", "_missing", "_pieces", "_rest", "is_greeted", "problem", "wanted")

    def __init__(self, bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.is_greeted = False
        """The greeting has come."""
        self._rest = b""
        """The beginning of the greeting, or of a frame that is not large."""
        self._pieces: list[bytes] = []
        """Of a large body."""
        self._missing = 0
        """Bytes of it."""
        self.wanted = LARGE_BYTES
        """How many bytes to ask for."""
        self.problem = ""
        """Why nothing behind it can be read: what has come is no greeting, or a length that no message has."""

    def _now_missing(self, count: int) -> None:
        self._missing = count
        self.wanted = min(max(count, LARGE_BYTES), _PIECE_BYTES_MAX)

    def feed(self, data: bytes) -> list[bytes]:
        """All bodies that are whole with that."""
        bodies: list[bytes] = []
        if self._missing:
            if len(data) < self._missing:
                self._now_missing(self._missing - len(data))
                self._pieces.append(data)
                return bodies
            self._pieces.append(data[: self._missing])
            bodies.append(b"".join(self._pieces))
            data, self._pieces = data[self._missing :], []
            self._now_missing(0)
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        if not self.is_greeted:
            if not GREETING.startswith(data[: len(GREETING)]):
                self.problem = "no greeting"
                return bodies
            if end < len(GREETING):
                self._rest = data
                return bodies
            self.is_greeted, at = True, len(GREETING)
        while (start := at + HEAD_BYTES) <= end:
            (length,) = _length_at(data, at)
            if length > self._bytes_max:
                self.problem = f"a frame of {length} bytes, more than {self._bytes_max}"
                return bodies
            stop = start + length
            if stop > end:
                if length >= LARGE_BYTES:
                    self._pieces = [data[start:]]
                    self._now_missing(stop - end)
                    return bodies
                break
            bodies.append(data[start:stop])
            at = stop
        if at < end:
            self._rest = data[at:]
        return bodies
