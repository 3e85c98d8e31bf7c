"""One message of a shard's stream: a head that says who wrote it and what it follows, then a record, or a piece of one.

Rule 1: this file knows bytes, no stream and no owner. It trusts no message: what is not ours, or damaged, raises ValueError.
Rule 2: messages are numbered by us, without a gap, and each carries the checksum of the one before it. The stream's own sequence
        does the same while the engine is right; these numbers show when it is not.
Rule 3: a record that is larger than a message may be travels in several: `PART` after `PART`, and the last piece in the `COMMIT`
        that makes all of them count. A record that fits has a `COMMIT` only, so that it costs one message and one sync.

A *writer* is one claim of one process: 16 random bytes. So two messages with the same bytes are the same message, and whoever
finds his own bytes in the stream has the proof that they were stored.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple
from zlib import crc32

MAGIC = b"tgm1"
WRITER_BYTES = 16
_HEAD = struct.Struct(f"<4sBIQ{WRITER_BYTES}sQQIII")
"""Magic, kind, shard, epoch, writer, number, position, part, checksum of the message before, length of the body."""
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size
"""What a message adds to the piece of a record that it carries."""
FENCE = "Nats-Expected-Last-Sequence"
"""The header that makes the engine refuse a message unless the stream ends where its writer thinks. Written in any other way it
is no fence, and nobody says so."""
HEADERS_BYTES_MAX = len(f"NATS/1.0\r\n{FENCE}: {2**64 - 1}\r\n\r\n")
"""What the fence adds to a message; the engine counts it towards what a message may have."""


class MessageKind(enum.IntEnum):
    EPOCH = 1
    """A claim: who wrote it owns the shard from here on, and whoever owned it before does not."""
    COMMIT = 2
    """A record, or the last piece of one."""
    PART = 3
    """A piece of a record that counts once its `COMMIT` is there."""


_KINDS = {kind.value: kind for kind in MessageKind}


class StreamMessage(NamedTuple):
    kind: MessageKind
    shard: int
    epoch: int
    """Grows with each claim."""
    writer: bytes
    number: int
    """Of the message in its stream, from 1 on."""
    position: int
    """Of the record, from 1 on, whatever number of messages it takes; of a claim, that of the newest record before it."""
    part: int
    """How many pieces of the record come before this one."""
    before: int
    """Checksum of the message before this one; 0 in the first."""
    body: bytes
    """The piece; of a claim, who made it, in words for operators."""


class ReadMessage(NamedTuple):
    message: StreamMessage
    checksum: int
    """Of all of it; the next message says it again."""


def encode_message(message: StreamMessage) -> bytes:
    head = _HEAD.pack(MAGIC, *message[:8], len(message.body))
    return b"".join((head, _CRC.pack(crc32(message.body, crc32(head))), message.body))


def decode_message(data: bytes) -> ReadMessage:
    """Raises ValueError, with what is wrong in words that follow `message 17`."""
    if len(data) < HEAD_BYTES:
        raise ValueError(f"is {len(data)} bytes long, and so none of ours")
    magic, kind, shard, epoch, writer, number, position, part, before, length = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("is none of ours, or of a newer version")
    if len(data) != HEAD_BYTES + length:
        raise ValueError(f"has {len(data)} bytes instead of {HEAD_BYTES + length}")
    body = data[HEAD_BYTES:]
    checksum = crc32(body, crc32(data[: _HEAD.size]))
    if _CRC.unpack_from(data, _HEAD.size)[0] != checksum:
        raise ValueError("is damaged: its checksum is wrong")
    if kind not in _KINDS:
        raise ValueError(f"is of a kind ({kind}) that this version does not know")
    return ReadMessage(StreamMessage(_KINDS[kind], shard, epoch, writer, number, position, part, before, body), checksum)


def writer_of(data: bytes) -> bytes:
    """Of a message; empty where it is none."""
    try:
        return decode_message(data).message.writer
    except ValueError:
        return b""


def piece_bytes_max(payload_bytes_max: int) -> int:
    """How much of a record fits into one message where the engine takes that many bytes of payload, headers included. (One byte
    more, and the client's connection is closed for good.) Raises ValueError where that is nothing."""
    most = payload_bytes_max - HEADERS_BYTES_MAX - HEAD_BYTES
    if most < 1:
        raise ValueError(f"max_payload of {payload_bytes_max} bytes leaves no room for a record")
    return most


def split_record(record: bytes, piece_bytes: int) -> list[bytes]:
    """Its pieces, of that size at most: one, if it is empty."""
    if len(record) <= piece_bytes:
        return [record]
    return [record[at : at + piece_bytes] for at in range(0, len(record), piece_bytes)]
