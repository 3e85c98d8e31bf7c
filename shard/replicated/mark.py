"""What the state of a shard says of the stream whose cache it is: up to where it has what the stream says.

It stands where a state of a service without a cluster names its log (`store.logs.LogMark`); neither is ever taken for the other.
"""

from __future__ import annotations

import struct
from zlib import crc32

from tidegate.shard.replicated.message import WRITER_BYTES
from tidegate.shard.replicated.replay import StreamPlace

MAGIC = b"tgs1"
_MARK = struct.Struct(f"<4sQQQQ{WRITER_BYTES}sI")
"""Magic, sequence, number, position, epoch, writer, checksum; the time when the stream was made follows, as text."""
_CRC = struct.Struct("<I")


def encode_mark(place: StreamPlace) -> bytes:
    body = _MARK.pack(MAGIC, *place[:6]) + place.created.encode()
    return body + _CRC.pack(crc32(body))


def decode_mark(data: bytes) -> StreamPlace | None:
    """None for a state that has nothing yet. Raises ValueError, with what is wrong."""
    if not data:
        return None
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("what it has is of a service without a cluster")
    body = data[: -_CRC.size]
    if len(body) < _MARK.size or _CRC.unpack_from(data, len(body))[0] != crc32(body):
        raise ValueError("what it says of the stream that it belongs to is damaged")
    _, sequence, number, position, epoch, writer, checksum = _MARK.unpack_from(body)
    return StreamPlace(sequence, number, position, epoch, writer, checksum, body[_MARK.size :].decode())
