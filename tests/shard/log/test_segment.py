"""shard/log/segment.py: frames are read exactly when they are whole, of this use, and in their place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.shard.log.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    SegmentHeader,
    Tail,
    decode_header,
    encode_frame_head,
    encode_header,
    find_frame,
    first_frame_continues,
    frames,
    unknown_format,
)

HEADER = SegmentHeader(salt=b"saltsalt", number=5, first_position=100, link=77)


def segment(payloads: list[bytes], header: SegmentHeader = HEADER, size: int = 0) -> bytes:
    data, link = encode_header(header), header.link
    for position, payload in enumerate(payloads, header.first_position):
        head, link = encode_frame_head(header.salt, position, link, payload)
        data += head + payload
    return data.ljust(size, b"\0")


def read(data: bytes, header: SegmentHeader = HEADER) -> tuple[list[bytes], Tail]:
    chain = frames(data, header)
    payloads = []
    while True:
        try:
            payloads.append(bytes(next(chain)))
        except StopIteration as end:
            return payloads, end.value


def test_a_header_is_read_back() -> None:
    assert decode_header(encode_header(HEADER)) == HEADER


@pytest.mark.parametrize("bit", range(0, 48 * 8, 7))
def test_a_header_with_a_flipped_bit_is_none(bit: int) -> None:
    data = bytearray(encode_header(HEADER))
    data[bit // 8] ^= 1 << bit % 8
    if bit // 8 < 44:
        assert decode_header(bytes(data)) is None
    else:
        assert decode_header(bytes(data)) == HEADER  # Padding.


def test_zeros_and_short_files_have_no_header() -> None:
    assert decode_header(bytes(HEADER_BYTES)) is None
    assert decode_header(encode_header(HEADER)[:-1]) is None
    assert decode_header(b"") is None


def test_an_intact_header_of_another_format_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.log.segment.FORMAT", 9)
    newer = encode_header(HEADER)
    monkeypatch.undo()
    assert decode_header(newer) is None
    assert unknown_format(newer) == 9
    assert unknown_format(encode_header(HEADER)) is None


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_frames_are_read_back_in_order(payloads: list[bytes]) -> None:
    data = segment(payloads, size=4096)
    found, tail = read(data)
    assert found == payloads
    assert tail.position == HEADER.first_position + len(payloads)
    assert tail.offset == HEADER_BYTES + sum(FRAME_BYTES + len(payload) for payload in payloads)


def test_a_segment_filled_to_its_last_byte_ends_cleanly() -> None:
    found, tail = read(segment([b"abc"]))
    assert found == [b"abc"]
    assert tail.offset == HEADER_BYTES + FRAME_BYTES + 3


@given(st.integers(min_value=0))
def test_a_flipped_bit_anywhere_in_a_frame_ends_the_chain_before_it(bit: int) -> None:
    data = bytearray(segment([b"first", b"second", b"third"], size=1024))
    low = HEADER_BYTES + FRAME_BYTES + 5
    bit = low * 8 + bit % ((FRAME_BYTES + 6) * 8)
    data[bit // 8] ^= 1 << bit % 8
    found, tail = read(bytes(data))
    assert found == [b"first"]
    later = find_frame(bytes(data), tail.offset, HEADER.salt, tail.position)
    assert later == low + FRAME_BYTES + 6, "the third frame proves that the second is damaged, not torn"


def test_frames_of_an_earlier_use_of_the_segment_are_not_read() -> None:
    old = SegmentHeader(b"oldsalt!", 1, 1, 0)
    data = bytearray(segment([b"same size"] * 10, old, size=2048))
    new = segment([b"same size"] * 3)
    data[: len(new)] = new
    found, tail = read(bytes(data))
    assert found == [b"same size"] * 3
    assert find_frame(bytes(data), tail.offset, HEADER.salt, tail.position) is None


@given(st.integers(0, 2**32 - 1))
def test_an_absurd_length_is_no_frame(length: int) -> None:
    data = bytearray(segment([b"x" * 10], size=512))
    data[HEADER_BYTES + 8 : HEADER_BYTES + 12] = length.to_bytes(4, "little")
    assert read(bytes(data))[0] == ([b"x" * 10] if length == 10 else [])


def test_a_frame_out_of_its_place_is_not_read() -> None:
    head, _ = encode_frame_head(HEADER.salt, 102, HEADER.link, b"p")
    assert read(encode_header(HEADER) + head + b"p")[0] == []
    head, _ = encode_frame_head(HEADER.salt, 100, HEADER.link + 1, b"p")
    assert read(encode_header(HEADER) + head + b"p")[0] == []


def test_a_good_first_frame_under_a_damaged_header_is_noticed() -> None:
    data = bytearray(segment([b"payload"], size=512))
    data[3] ^= 1
    assert first_frame_continues(bytes(data), 100, 77)
    assert not first_frame_continues(bytes(data), 101, 77)
    assert not first_frame_continues(bytes(data), 100, 78)
    assert not first_frame_continues(bytes(512), 100, 77)
