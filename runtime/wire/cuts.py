"""Bodies of very many requests, cut into bodies of few: what was not cut yet costs no more than its bytes.

Rule 1: pure. Nothing is judged here: a request is where it begins to where it ends, see `pieces`.
Rule 2: the work of a cut grows with what is cut off, and with nothing else.

Where so many elements of a MessagePack array end is found by the decoder: told to read that many and given more, it says at which
byte the rest begins. Where it cannot say, elements are looked at one by one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from tidegate.runtime.wire.pieces import array_head, array_length, json_pieces, packed_pieces

_CHUNK_BYTES_MIN = 64 << 10
_HEAD_BYTES = 3
_ELEMENTS_MAX: Final = 0xFFFF
"""In an array with a head of that length."""
_TRAILING = re.compile(r".*trailing characters \(byte ([0-9]+)\)")
_TRUNCATED = "Input data was truncated"
_skip = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Cut(Protocol):
    """Of one body."""

    @property
    def is_over(self) -> bool:
        """Nothing is left."""
        ...

    def take(self, count: int) -> tuple[bytes, Iterable[bytes]]:
        """The next requests, no more than so many, perhaps none yet: as a body, and one by one."""
        ...


class PackedCut:
    def __init__(self, body: bytes | memoryview) -> None:
        self._body = memoryview(body)
        self._at = array_head(body)
        self._left = array_length(body)

    @property
    def is_over(self) -> bool:
        return self._at >= len(self._body)

    def take(self, count: int) -> tuple[bytes, Iterable[bytes]]:
        count = min(count, _ELEMENTS_MAX)
        if self._left:
            count = min(count, self._left)
        end = self._end_of(count) if self._left else None
        if end is None:  # Something is wrong with one of them, or there are more or fewer than the head has said.
            end, found = self._at, 0
            for piece in itertools.islice(packed_pieces(self._body, self._at), count):
                end += len(piece)
                found += 1
            count = found
        body = b"".join((_array(count), self._body[self._at : end]))
        self._at = end
        self._left = max(0, self._left - count)
        return body, packed_pieces(body)

    def _end_of(self, count: int) -> int | None:
        """Where so many elements end. None: the decoder cannot say."""
        rest = len(self._body) - self._at
        size = min(rest, max(_CHUNK_BYTES_MIN, 2 * rest * count // self._left))
        while True:
            try:
                _skip(b"".join((_array(count), self._body[self._at : self._at + size])))
            except msgspec.DecodeError as exc:
                text = str(exc)
                if (trailing := _TRAILING.fullmatch(text)) is not None:
                    return self._at + int(trailing[1]) - _HEAD_BYTES
                if text != _TRUNCATED or size == rest:
                    return None
            except Exception:  # Nested too deeply, for one.
                return None
            else:
                return self._at + size
            size = min(rest, 2 * size)


def _array(count: int) -> bytes:
    return b"\xdc" + count.to_bytes(2)


class JsonCut:
    def __init__(self, body: bytes) -> None:
        self._pieces = json_pieces(body, pauses=True)
        self.is_over = False

    def take(self, count: int) -> tuple[bytes, Iterable[bytes]]:
        pieces: list[bytes] = []
        for piece in self._pieces:
            if not piece:
                break
            pieces.append(piece)
            if len(pieces) >= count:
                break
        else:
            self.is_over = True
        return b"".join((b"[", b",".join(pieces), b"]")), pieces
