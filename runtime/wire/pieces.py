"""Broken bodies taken apart: the requests of a batch that is not well-formed as a whole, and the id at the head of a request.

Rule 1: pure, and no recursion: nesting without end is one of the ways to be broken.
Rule 2: nothing is judged here. A piece goes from where a request begins to where it ends, or to the end of the body; who
decodes it finds out whether it is one.
Rule 3: the work grows with the length of the body and with nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

_read_id = msgspec.msgpack.Decoder(int | str).decode
_read_id_json = msgspec.json.Decoder(int | str).decode
_read_any = msgspec.msgpack.Decoder().decode
_read_any_json = msgspec.json.Decoder().decode

# JSON

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{}]', re.DOTALL)
"""Whole strings, the quote of one that does not end, and brackets."""
_HEAD = re.compile(rb'\[[ \t\r\n]*+(-?[0-9]++|"(?:[^"\\]++|\\.)*+")[ \t\r\n]*+[,\]]', re.DOTALL)


_PAUSE_TOKENS = 20_000
"""Some milliseconds."""


def json_pieces(body: bytes, *, pauses: bool = False) -> Iterator[bytes]:
    """The arrays and maps in the outermost array. With `pauses` an empty piece comes wherever that has taken a while."""
    depth = start = 0
    for number, token in enumerate(_TOKENS.finditer(body), 1):
        if pauses and number % _PAUSE_TOKENS == 0:
            yield b""
        at = token.start()
        first = body[at]
        if first in b"[{":
            depth += 1
            if depth == 2:
                start = at
        elif first in b"]}":
            depth -= 1
            if depth == 1:
                yield body[start : at + 1]
            elif depth == 0:
                return
        elif token.end() == at + 1:  # A quote, and no other behind it.
            break
    if depth > 1:
        yield body[start:]


def json_id(piece: bytes) -> int | str | None:
    head = _HEAD.match(piece)
    return _id_in(piece, _read_any_json) if head is None else _id_or_none(head[1], _read_id_json)


# MessagePack

_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the length of texts, binaries and extensions. An extension has its type beside."""
_COUNTS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Bytes of the number of elements of arrays and maps, and values for each of them."""
_SIZES: Final = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
"""Bytes of numbers, and of extensions of a fixed length with their type."""


def packed_pieces(body: bytes | memoryview, at: int = 0) -> Iterator[bytes]:
    """The elements of the outermost array, from where one of them begins or from the first."""
    at = at or array_head(body)
    end = len(body)
    while at < end:
        start, at = at, _end_of_value(body, at)
        yield bytes(body[start:at])


def packed_id(piece: bytes) -> int | str | None:
    at = array_head(piece)
    return _id_in(piece, _read_any) if not at else _id_or_none(piece[at : _end_of_value(piece, at)], _read_id)


def array_head(body: bytes | memoryview) -> int:
    """How long it is; 0 where no array begins."""
    first = body[0] if body else 0
    return 1 if first & 0xF0 == 0x90 else 1 + _COUNTS[first][0] if first in (0xDC, 0xDD) else 0


def array_length(body: bytes | memoryview) -> int:
    """Elements of the array that begins here, as its head says."""
    head = array_head(body)
    return body[0] & 0x0F if head == 1 else int.from_bytes(body[1:head])


def _end_of_value(body: bytes | memoryview, at: int) -> int:
    """Where the value that begins at `at` ends, or the body. A byte that begins nothing is taken for a value."""
    end, values = len(body), 1
    while values and at < end:
        values -= 1
        first = body[at]
        at += 1
        if first < 0x80 or first >= 0xE0:
            continue
        if first < 0x90:
            values += 2 * (first & 0x0F)
        elif first < 0xA0:
            values += first & 0x0F
        elif first < 0xC0:
            at += first & 0x1F
        elif first in _LENGTHS:
            size = _LENGTHS[first]
            at += size + int.from_bytes(body[at : at + size]) + (0xC7 <= first <= 0xC9)
        elif first in _COUNTS:
            size, each = _COUNTS[first]
            values += each * int.from_bytes(body[at : at + size])
            at += size
        else:
            at += _SIZES.get(first, 0)
    return min(at, end)


# Ids


def _id_or_none(raw: bytes, read: Callable[[bytes], int | str]) -> int | str | None:
    try:
        return read(raw)
    except Exception:
        return None


def _id_in(piece: bytes, read: Callable[[bytes], Any]) -> int | str | None:
    """Of a map, which is no request of this protocol, but says whom to tell."""
    try:
        value = read(piece)
    except Exception:
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None
