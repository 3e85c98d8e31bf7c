"""The bytes of one log segment: a header, then frames from both ends, and between them bytes that mean nothing.

Rule 1: this file knows bytes, not files; it never raises on damaged input, it says "no frame here".
Rule 2: each *use* of a segment has its own random salt, and every frame starts with it. A segment is reused without being
        wiped: what an earlier use left behind has another salt and cannot be read as new.
Rule 3: each frame carries its position and the checksum of the frame before it, across segments. A frame that is missing,
        doubled or out of place breaks the chain.
Rule 4: frames with odd positions follow the header, upwards; those with even positions follow the end of the segment,
        downwards, each with its head above its payload. So what a frame says of the one before it stands in another place: the
        end of a log can be lost in both places at once only, but for its very last frame. (To write the end down in a place of
        its own at every append takes 16 % longer; this takes no longer than one row of frames.)

The header is durable before the first frame is written, and only one frame is ever being written. So at most the last frame
of a log can be torn, and a good frame behind a bad one proves damage, as the mere head of one does. When a segment is left it is
*sealed*: it says, durably, which one comes next.

In format 1 all frames follow the header, which has no prologue and no seal.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import NamedTuple
from zlib import crc32

MAGIC = b"tidelog\n"
FORMAT = 2
ONE_ROW = 1
"""The format in which all frames follow the header."""
SALT_BYTES = 8

_HEADERS = {
    ONE_ROW: struct.Struct("<8sI8sQQI"),  # magic, format, salt, number, first position, link
    FORMAT: struct.Struct("<8sI8sQQIQI"),  # and: bytes of the segment, bytes of the prologue
}
_CRC = struct.Struct("<I")
_FORMAT = struct.Struct("<I")
_HEADER_BYTES_ONE_ROW = 64
SEAL_OFFSET = 64
_SEAL = struct.Struct("<8sQ")  # salt, number of the next segment
HEADER_BYTES = 96
"""What stands before the prologue, the seal included; the rest of it is zeros."""
PROLOGUE_BYTES_MAX = 128 << 10
ONE_BIT_BYTES_MAX = 1 << 20
"""Of a last record, up to which a changed bit in its payload is looked for: that takes half a second."""

_FRAME = struct.Struct("<8sIQI")  # salt, payload length, position, checksum of the frame before
_WHOLE_FRAME = struct.Struct("<8sIQII")
FRAME_BYTES = _WHOLE_FRAME.size
"""What a frame adds to its payload."""

assert _HEADERS[FORMAT].size + _CRC.size <= SEAL_OFFSET
assert SEAL_OFFSET + _SEAL.size + _CRC.size <= HEADER_BYTES
assert _FRAME.size + _CRC.size == FRAME_BYTES


class SegmentHeader(NamedTuple):
    salt: bytes
    number: int
    """Number of the segment in its log; equals the one in the file's name, else the segment is not in use."""
    first_position: int
    """Position of the first frame. Positions grow by one a frame."""
    link: int
    """Checksum of the last frame before this segment, 0 if there is none."""
    size: int = 0
    """Bytes of the segment: frames stand at its end, too. 0: they do not."""
    prologue: bytes = b""
    """What the owner of the log has to say at this point of it."""

    @property
    def frames_at(self) -> int:
        return HEADER_BYTES + len(self.prologue) if self.size else _HEADER_BYTES_ONE_ROW


class Frame(NamedTuple):
    position: int
    previous: int
    """Checksum of the frame before."""
    crc: int
    payload: memoryview
    head: int
    """Where its head is."""


class Tail(NamedTuple):
    """What follows the last good frame of a chain: its position and link, and between which bytes it would stand."""

    low: int
    high: int
    position: int
    link: int


def encode_header(header: SegmentHeader) -> bytes:
    size, prologue = header.size, header.prologue
    if not size:
        body = _HEADERS[ONE_ROW].pack(MAGIC, ONE_ROW, header.salt, header.number, header.first_position, header.link)
        return (body + _CRC.pack(crc32(body))).ljust(_HEADER_BYTES_ONE_ROW, b"\0")
    body = _HEADERS[FORMAT].pack(
        MAGIC, FORMAT, header.salt, header.number, header.first_position, header.link, size, len(prologue)
    )
    return (body + _CRC.pack(crc32(prologue, crc32(body)))).ljust(HEADER_BYTES, b"\0") + prologue


def decode_header(data: bytes) -> SegmentHeader | None:
    """The header at the start of `data`, or None if there is no intact one of a format that is known."""
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        return None
    (version,) = _FORMAT.unpack_from(data, len(MAGIC))
    if (layout := _HEADERS.get(version)) is None or not _is_intact(data, layout):
        return None
    _, _, salt, number, first_position, link, *more = layout.unpack_from(data)
    if not more:
        return SegmentHeader(salt, number, first_position, link)
    size, prologue_bytes = more
    return SegmentHeader(salt, number, first_position, link, size, data[HEADER_BYTES : HEADER_BYTES + prologue_bytes])


def _is_intact(data: bytes, layout: struct.Struct) -> bool:
    *_, prologue_bytes = layout.unpack_from(data) if layout is _HEADERS[FORMAT] else (0,)
    prologue = data[HEADER_BYTES : HEADER_BYTES + prologue_bytes]
    (crc,) = _CRC.unpack_from(data, layout.size)
    return len(prologue) == prologue_bytes and bool(crc == crc32(prologue, crc32(data[: layout.size])))


def decode_header_but_for_one_bit(data: bytes) -> SegmentHeader | None:
    """The header that is there if one bit of it has changed; as good as an intact one."""
    if (int.from_bytes(data[: len(MAGIC)]) ^ int.from_bytes(MAGIC)).bit_count() > 1 or len(data) < HEADER_BYTES:
        return None
    tried = bytearray(data[:SEAL_OFFSET])
    for bit in range(8 * len(tried)):
        tried[bit // 8] ^= 1 << bit % 8
        if (header := decode_header(bytes(tried) + data[len(tried) :])) is not None:
            return header
        tried[bit // 8] ^= 1 << bit % 8
    return _header_but_for_one_bit_of_its_prologue(data)


def _header_but_for_one_bit_of_its_prologue(data: bytes) -> SegmentHeader | None:
    """By the checksum, which says which one: to try each of 100 kB takes minutes."""
    layout = _HEADERS[FORMAT]
    *_, prologue_bytes = layout.unpack_from(data)
    mended = bytearray(data[: HEADER_BYTES + prologue_bytes])
    if prologue_bytes > PROLOGUE_BYTES_MAX or len(mended) < HEADER_BYTES + prologue_bytes:
        return None
    difference = _CRC.unpack_from(data, layout.size)[0] ^ crc32(mended[HEADER_BYTES:], crc32(data[: layout.size]))
    if (bit := _changed_bit(difference, prologue_bytes)) is None:
        return None
    mended[-1 - bit // 8] ^= 0x80 >> bit % 8
    return decode_header(bytes(mended))


def unknown_format(data: bytes) -> int | None:
    """The format number, if this is an intact header of a format which this version cannot read."""
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        return None
    (version,) = _FORMAT.unpack_from(data, len(MAGIC))
    return int(version) if version not in _HEADERS and any(_is_intact(data, each) for each in _HEADERS.values()) else None


def encode_seal(salt: bytes, next_number: int) -> bytes:
    """What is written at `SEAL_OFFSET` of a segment that is left."""
    body = _SEAL.pack(salt, next_number)
    return body + _CRC.pack(crc32(body))


def decode_seal(data: bytes, header: SegmentHeader) -> int | None:
    """The number of the segment that follows, if this one was left."""
    body = data[SEAL_OFFSET : SEAL_OFFSET + _SEAL.size]
    if not header.size or len(data) < HEADER_BYTES or not body.startswith(header.salt):
        return None
    if _CRC.unpack_from(data, SEAL_OFFSET + _SEAL.size)[0] != crc32(body):
        return None
    return int(_SEAL.unpack(body)[1])


def encode_frame_head(salt: bytes, position: int, previous: int, payload: bytes) -> tuple[bytes, int]:
    """The head of the frame of `payload`, and the frame's checksum (the `previous` of the next frame)."""
    head = _FRAME.pack(salt, len(payload), position, previous)
    crc = crc32(payload, crc32(head))
    return head + _CRC.pack(crc), crc


def stands_low(header: SegmentHeader, position: int) -> bool:
    """Whether the frame follows the header, and its payload the frame's head."""
    return bool(position & 1) or not header.size


def frame_at(data: bytes, head: int, header: SegmentHeader) -> Frame | None:
    """The intact frame of this use of the segment whose head is at `head`, or None."""
    if head < header.frames_at or head + FRAME_BYTES > len(data) or not data.startswith(header.salt, head):
        return None
    _, length, position, previous, crc = _WHOLE_FRAME.unpack_from(data, head)
    start = head + FRAME_BYTES if stands_low(header, position) else head - length
    if start < header.frames_at or start + length > len(data):
        return None
    view = memoryview(data)
    payload = view[start : start + length]
    if crc != crc32(payload, crc32(view[head : head + _FRAME.size])):
        return None
    return Frame(position, previous, crc, payload, head)


def frames(data: bytes, header: SegmentHeader) -> Generator[memoryview, None, Tail]:
    """The payloads of the unbroken chain of frames from the start of the segment; returns where it ends. The same checks as
    `frame_at`, spelt out: recovery reads millions."""
    low, high, position, link = header.frames_at, header.size or len(data), header.first_position, header.link
    view, head_bytes, two_rows, wanted = memoryview(data), _FRAME.size, bool(header.size), header.salt
    while low + FRAME_BYTES <= high:
        upwards = position & 1 or not two_rows
        head = low if upwards else high - FRAME_BYTES
        salt, length, found_position, previous, crc = _WHOLE_FRAME.unpack_from(data, head)
        if salt != wanted or length > high - low - FRAME_BYTES or found_position != position or previous != link:
            break
        start = head + FRAME_BYTES if upwards else head - length
        payload = view[start : start + length]
        if crc != crc32(payload, crc32(view[head : head + head_bytes])):
            break
        yield payload
        if upwards:
            low = start + length
        else:
            high = start
        position, link = position + 1, crc
    return Tail(low, high, position, link)


def later_frames(data: bytes, header: SegmentHeader, tail: Tail) -> list[Frame]:
    """The intact frames of this use that should stand behind the end of its chain, in order: they prove that it is damage that
    has ended it. Bytes of the chain itself are not looked at."""
    found, head, salt = [], tail.low, header.salt
    while (head := data.find(salt, head)) >= 0:
        if head > tail.high:
            break
        frame = frame_at(data, head, header)
        if frame is not None and frame.position >= tail.position:
            found.append(frame)
        head += 1
    return sorted(found, key=lambda frame: frame.position)


def begun_later(data: bytes, header: SegmentHeader, tail: Tail) -> list[int]:
    """What heads that stand elsewhere than that of the next frame say of their positions, right or wrong. Whatever else is left
    of these frames: they were begun, and so the next one was whole. Only one is ever being written."""
    found, head, expected = [], tail.low, torn_at(header, tail)
    while 0 <= (head := data.find(header.salt, head)) <= tail.high - FRAME_BYTES:
        _, _, position, *_ = _WHOLE_FRAME.unpack_from(data, head)
        if head != expected and not header.first_position <= position <= tail.position:
            found.append(position)
        head += 1
    return found


def behind(frame: Frame, header: SegmentHeader, tail: Tail) -> Tail:
    """The tail when `frame`, which stands behind it, has been read."""
    length = len(frame.payload)
    if stands_low(header, frame.position):
        return Tail(frame.head + FRAME_BYTES + length, tail.high, frame.position + 1, frame.crc)
    return Tail(tail.low, frame.head - length, frame.position + 1, frame.crc)


def first_frame_of_one_row(data: bytes) -> bool:
    """Whether there is an intact frame where the first one of a segment of the older format is, under whatever salt."""
    salt = data[_HEADER_BYTES_ONE_ROW : _HEADER_BYTES_ONE_ROW + SALT_BYTES]
    return frame_at(data, _HEADER_BYTES_ONE_ROW, SegmentHeader(salt, 0, 0, 0)) is not None


def torn_at(header: SegmentHeader, tail: Tail) -> int:
    """Where the head of the next frame would be."""
    return tail.low if stands_low(header, tail.position) else tail.high - FRAME_BYTES


def differs_in_one_bit(data: bytes, header: SegmentHeader, tail: Tail) -> bool:
    """Whether the frame that would come next is there, whole, but for one bit. A frame that was not written to its end lacks more
    than that; so this one was, and somebody may have been told."""
    head = torn_at(header, tail)
    if head < tail.low or head + FRAME_BYTES > tail.high:
        return False
    salt, length, position, previous, crc = _WHOLE_FRAME.unpack_from(data, head)
    wrong = int.from_bytes(salt, "little") ^ int.from_bytes(header.salt, "little")
    wrong_bits = [wrong, position ^ tail.position, previous ^ tail.link]
    if sum(value.bit_count() for value in wrong_bits) > 1:
        return False
    room = tail.high - tail.low - FRAME_BYTES
    for length_was in [length, *(length ^ 1 << bit for bit in range(32))]:
        if length_was > room:
            continue
        start = head + FRAME_BYTES if stands_low(header, tail.position) else head - length_was
        payload = memoryview(data)[start : start + length_was]
        intact = _FRAME.pack(header.salt, length_was, tail.position, tail.link)
        difference = crc ^ crc32(payload, crc32(intact))
        whole_but_for_its_head = difference == 0
        if whole_but_for_its_head or (length_was == length and not any(wrong_bits) and _is_one_bit(difference, length)):
            return True
    return False


def _is_one_bit(difference: int, length: int) -> bool:
    """Whether two checksums differ as they do when one bit of the last `length` bytes, or of a checksum, has changed."""
    if difference.bit_count() == 1:
        return True
    return length <= ONE_BIT_BYTES_MAX and _changed_bit(difference, length) is not None


def _changed_bit(difference: int, length: int) -> int | None:
    """Which bit of the last `length` bytes makes that difference to their checksum, counted from the end; None: no single one."""
    remainder = 1
    for bit in range(8 * length):
        remainder = (remainder >> 1) ^ (0xEDB8_8320 if remainder & 1 else 0)
        if remainder == difference:
            return bit
    return None
