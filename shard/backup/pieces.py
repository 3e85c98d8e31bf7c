"""The bytes of one piece of a backup: rows of a shard, or records of a log.

    8 bytes     "tgpiece1"
    4 bytes     length of the header, little-endian
    header      MessagePack: what is in it, see `RowsHeader` and `RecordsHeader`
    body        MessagePack, compressed by zlib: a flat list, of keys and values, or of positions and records
    32 bytes    SHA-256 of all of that

Rule: a piece that is not exactly what was written is refused, and says which it is.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any

import msgspec

MAGIC = b"tgpiece1"
PIECE_BYTES = 16 << 20
"""Of rows or records, before they are compressed: about so many are put into a piece."""
COMPRESSION = 1
"""The fastest: a backup shares its cores with a service."""
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32


class PieceDamaged(ValueError):
    """It is not what was written."""


class RowsHeader(msgspec.Struct, tag="rows", array_like=True):
    """Rows of a shard with neighbouring keys, each as it was at some time after commit `seq` of the shard."""

    lineage: str
    shard: int
    number: int
    """From 0, in the order of the keys."""
    seq: int
    """The shard had got so far when the first piece was begun."""
    rows: int
    last: bytes
    """The largest key; empty where there is no row."""
    ends: bool
    """There are no more of this shard."""


class RecordsHeader(msgspec.Struct, tag="records", array_like=True):
    """Records of one log in order; some that concern no shard any longer are left out."""

    lineage: str
    log: str
    first: int
    """The position of the first of them."""
    last: int
    """The log has been read up to this position."""
    records: int


Header = RowsHeader | RecordsHeader

_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_flat = msgspec.msgpack.Decoder(list[Any]).decode


def encode_piece(header: Header, flat: list[Any]) -> bytes:
    """`flat`: keys and values, or positions and records, one after the other."""
    head = _encode(header)
    data = MAGIC + _LENGTH.pack(len(head)) + head + zlib.compress(_encode(flat), COMPRESSION)
    return data + hashlib.sha256(data).digest()


def decode_piece(data: bytes) -> tuple[Header, list[Any]]:
    """Raises `PieceDamaged`."""
    body = memoryview(data)[:-_DIGEST_BYTES]
    if not data.startswith(MAGIC) or hashlib.sha256(body).digest() != data[-_DIGEST_BYTES:]:
        raise PieceDamaged("its checksum is wrong, or it is no piece of a backup")
    at = len(MAGIC) + _LENGTH.size
    (length,) = _LENGTH.unpack_from(data, len(MAGIC))
    try:
        return _decode_header(body[at : at + length]), _decode_flat(zlib.decompress(body[at + length :]))
    except (msgspec.MsgspecError, zlib.error) as error:
        raise PieceDamaged(f"it was written by another version of Tidegate: {error}") from None


def rows_name(lineage: str, shard: int, number: int) -> str:
    return f"{lineage}/rows-{shard:04d}-{number:06d}"


def records_name(lineage: str, log: str, first: int) -> str:
    return f"{lineage}/log-{log}-{first:012d}"
