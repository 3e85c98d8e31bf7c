"""Messages of a shard's stream: what is written is read, and nothing else is."""

from __future__ import annotations

from random import Random
from zlib import crc32

import pytest

from tidegate.shard.replicated.message import (
    FENCE,
    HEAD_BYTES,
    HEADERS_BYTES_MAX,
    MAGIC,
    MessageKind,
    StreamMessage,
    decode_message,
    encode_message,
    piece_bytes_max,
    split_record,
    writer_of,
)

WRITER = bytes(range(16))
A_COMMIT = StreamMessage(MessageKind.COMMIT, 7, 3, WRITER, 12, 9, 2, 0xDEADBEEF, b"what was written")


@pytest.mark.parametrize("kind", MessageKind)
@pytest.mark.parametrize("body", [b"", b"x", bytes(100_000)])
def test_a_message_is_read_as_it_was_written(kind: MessageKind, body: bytes) -> None:
    message = StreamMessage(kind, 2**32 - 1, 2**64 - 1, WRITER, 2**64 - 1, 2**63, 2**32 - 1, 2**32 - 1, body)
    data = encode_message(message)
    assert decode_message(data).message == message
    assert len(data) == HEAD_BYTES + len(body)


def test_the_checksum_is_of_all_of_the_message() -> None:
    others = [A_COMMIT._replace(body=b"what was writtem"), A_COMMIT._replace(writer=WRITER[::-1]), A_COMMIT._replace(number=13)]
    checksums = {decode_message(encode_message(message)).checksum for message in (A_COMMIT, *others)}
    assert len(checksums) == 4


def test_every_changed_bit_is_noticed() -> None:
    data = encode_message(A_COMMIT)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"^(is|has) "):
            decode_message(bytes(changed))


def test_what_is_cut_short_or_goes_on_is_noticed() -> None:
    data = encode_message(A_COMMIT)
    for length in range(len(data)):
        with pytest.raises(ValueError, match="bytes"):
            decode_message(data[:length])
    with pytest.raises(ValueError, match=f"has {len(data) + 1} bytes instead of {len(data)}"):
        decode_message(data + b"\0")


def test_no_bytes_of_strangers_are_a_message() -> None:
    chance = Random(18)
    for _ in range(2_000):
        data = chance.choice((b"", MAGIC)) + chance.randbytes(chance.randrange(200))
        with pytest.raises(ValueError, match=r"^(is|has) "):
            decode_message(data)


def test_the_writer_of_what_is_no_message_is_nobody() -> None:
    data = encode_message(A_COMMIT)
    assert writer_of(data) == WRITER
    assert writer_of(data[:-1]) == writer_of(b"") == b""


def test_a_kind_of_a_newer_version_is_refused_by_its_number() -> None:
    data = bytearray(encode_message(A_COMMIT))
    data[len(MAGIC)] = 99
    data[HEAD_BYTES - 4 : HEAD_BYTES] = crc32(data[HEAD_BYTES:], crc32(data[: HEAD_BYTES - 4])).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"of a kind \(99\)"):
        decode_message(bytes(data))


def test_headers_count_towards_what_a_message_may_have() -> None:
    """As the engine counts them, with the longest sequence that there can be."""
    headers = b"NATS/1.0\r\n" + FENCE.encode() + b": 18446744073709551615\r\n\r\n"
    assert len(headers) == HEADERS_BYTES_MAX
    most = piece_bytes_max(1 << 20)
    message = encode_message(A_COMMIT._replace(body=bytes(most)))
    assert len(headers) + len(message) == 1 << 20


def test_a_payload_that_leaves_no_room_is_refused() -> None:
    least = HEADERS_BYTES_MAX + HEAD_BYTES + 1
    assert piece_bytes_max(least) == 1
    with pytest.raises(ValueError, match="no room"):
        piece_bytes_max(least - 1)


@pytest.mark.parametrize(("length", "pieces"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_a_record_is_split_only_where_it_must_be(length: int, pieces: int) -> None:
    record = bytes(range(length))
    found = split_record(record, 10)
    assert len(found) == pieces
    assert b"".join(found) == record
    assert all(len(piece) <= 10 for piece in found)
