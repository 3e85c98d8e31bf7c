"""The bytes of one log segment: a header, then frames, then bytes that mean nothing.

Rule 1: this file knows bytes, not files; it never raises on damaged input, it says "no frame here".
Rule 2: each *use* of a segment has its own random salt, and every frame starts with it. A segment is reused without being
        wiped: what an earlier use left behind has another salt and cannot be read as new.
Rule 3: each frame carries its position and the checksum of the frame before it, across segments. A frame that is missing,
        doubled or out of place breaks the chain.

The header is durable before the first frame is written, and only one frame is ever being written. So at most the last frame
of a log can be torn, and a good frame behind a bad one proves damage.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import NamedTuple
from zlib import crc32

MAGIC = b"tidelog\n"
FORMAT = 1
SALT_BYTES = 8

_HEADER = struct.Struct("<8sI8sQQI")  # magic, format, salt, number, first position, link
_CRC = struct.Struct("<I")
HEADER_BYTES = 64
"""What stands before the first frame; the rest of it is zeros."""

_FRAME = struct.Struct("<8sIQI")  # salt, payload length, position, checksum of the frame before
_WHOLE_FRAME = struct.Struct("<8sIQII")
FRAME_BYTES = _WHOLE_FRAME.size
"""What a frame adds to its payload."""

assert _HEADER.size + _CRC.size <= HEADER_BYTES
assert _FRAME.size + _CRC.size == FRAME_BYTES


class SegmentHeader(NamedTuple):
    salt: bytes
    number: int
    """Number of the segment in its log; equals the one in the file's name, else the segment is not in use."""
    first_position: int
    """Position of the first frame. Positions grow by one a frame."""
    link: int
    """Checksum of the last frame before this segment, 0 if there is none."""


class Frame(NamedTuple):
    position: int
    previous: int
    """Checksum of the frame before."""


class Tail(NamedTuple):
    """What follows the last good frame of a chain: where it would start, its position and link."""

    offset: int
    position: int
    link: int


def encode_header(header: SegmentHeader) -> bytes:
    body = _HEADER.pack(MAGIC, FORMAT, header.salt, header.number, header.first_position, header.link)
    return (body + _CRC.pack(crc32(body))).ljust(HEADER_BYTES, b"\0")


def decode_header(data: bytes) -> SegmentHeader | None:
    """The header at the start of `data`, or None if there is no intact one of this format."""
    end = _HEADER.size
    if len(data) < HEADER_BYTES or _CRC.unpack_from(data, end)[0] != crc32(data[:end]):
        return None
    magic, version, salt, number, first_position, link = _HEADER.unpack_from(data)
    if magic != MAGIC or version != FORMAT:
        return None
    return SegmentHeader(salt, number, first_position, link)


def unknown_format(data: bytes) -> int | None:
    """The format number, if this is an intact header of a format which this version cannot read."""
    end = _HEADER.size
    if len(data) < HEADER_BYTES or _CRC.unpack_from(data, end)[0] != crc32(data[:end]):
        return None
    magic, version = struct.unpack_from("<8sI", data)
    return int(version) if magic == MAGIC and version != FORMAT else None


def encode_frame_head(salt: bytes, position: int, previous: int, payload: bytes) -> tuple[bytes, int]:
    """What goes in front of `payload`, and the frame's checksum (the `previous` of the next frame)."""
    head = _FRAME.pack(salt, len(payload), position, previous)
    crc = crc32(payload, crc32(head))
    return head + _CRC.pack(crc), crc


def frame_at(data: bytes, offset: int, salt: bytes) -> Frame | None:
    """The intact frame of this use of the segment that starts at `offset`, or None."""
    start = offset + FRAME_BYTES
    if start > len(data) or not data.startswith(salt, offset):
        return None
    _, length, position, previous = _FRAME.unpack_from(data, offset)
    end = start + length
    if end > len(data):
        return None
    (crc,) = _CRC.unpack_from(data, offset + _FRAME.size)
    view = memoryview(data)
    payload = view[start:end]
    if crc != crc32(payload, crc32(view[offset : offset + _FRAME.size])):
        return None
    return Frame(position, previous)


def frames(data: bytes, header: SegmentHeader) -> Generator[memoryview, None, Tail]:
    """The payloads of the unbroken chain of frames from the start of the segment; returns where it ends. The same checks as
    `frame_at`, spelt out: recovery reads millions."""
    offset, position, link = HEADER_BYTES, header.first_position, header.link
    view, size, head_bytes = memoryview(data), len(data), _FRAME.size
    while (start := offset + FRAME_BYTES) <= size:
        salt, length, found_position, previous, crc = _WHOLE_FRAME.unpack_from(data, offset)
        end = start + length
        if salt != header.salt or end > size or found_position != position or previous != link:
            break
        payload = view[start:end]
        if crc != crc32(payload, crc32(view[offset : offset + head_bytes])):
            break
        yield payload
        offset, position, link = end, position + 1, crc
    return Tail(offset, position, link)


def find_frame(data: bytes, offset: int, salt: bytes, position_min: int) -> int | None:
    """Where, at `offset` or later, an intact frame of this use with at least this position starts."""
    while (offset := data.find(salt, offset)) >= 0:
        frame = frame_at(data, offset, salt)
        if frame is not None and frame.position >= position_min:
            return offset
        offset += 1
    return None


def first_frame_continues(data: bytes, position: int | None, link: int) -> bool:
    """Whether the first frame, under whatever salt, is the successor of the frame (`position` - 1, `link`), or is any intact
    frame if `position` is None: then the segment was in use and its header is damaged."""
    salt = data[HEADER_BYTES : HEADER_BYTES + SALT_BYTES]
    frame = frame_at(data, HEADER_BYTES, salt)
    return frame is not None and (position is None or (frame.position == position and frame.previous == link))
