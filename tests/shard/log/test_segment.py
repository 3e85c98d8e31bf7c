"""shard/log/segment.py: frames are read exactly when they are whole, of this use, and in their place."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tidegate.shard.log.segment as segment_module
from tidegate.shard.log.segment import (
    FRAME_BYTES,
    SegmentHeader,
    Tail,
    decode_header,
    decode_header_but_for_one_bit,
    decode_seal,
    differs_in_one_bit,
    encode_frame_head,
    encode_header,
    encode_seal,
    first_frame_of_one_row,
    frames,
    later_frames,
    stands_low,
    unknown_format,
)

SIZE = 4096
OLD = SegmentHeader(salt=b"saltsalt", number=5, first_position=101, link=77)
HEADER = OLD._replace(size=SIZE, prologue=b"what goes before")
HEADERS = pytest.mark.parametrize("header", [OLD, HEADER], ids=["one row", "from both ends"])


def segment(payloads: list[bytes], header: SegmentHeader = HEADER, size: int = SIZE) -> bytes:
    data, low, high, link = bytearray(encode_header(header).ljust(size, b"\0")), header.frames_at, size, header.link
    for position, payload in enumerate(payloads, header.first_position):
        head, link = encode_frame_head(header.salt, position, link, payload)
        if stands_low(header, position):
            data[low : low + len(head + payload)] = head + payload
            low += len(head + payload)
        else:
            data[high - len(head + payload) : high] = payload + head
            high -= len(head + payload)
    assert len(data) == size
    return bytes(data)


def flipped(data: bytes | bytearray, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def read(data: bytes, header: SegmentHeader = HEADER) -> tuple[list[bytes], Tail]:
    chain = frames(data, header)
    payloads = []
    while True:
        try:
            payloads.append(bytes(next(chain)))
        except StopIteration as end:
            return payloads, end.value


@HEADERS
def test_a_header_is_read_back(header: SegmentHeader) -> None:
    assert decode_header(segment([], header)) == header


@HEADERS
def test_a_header_with_a_flipped_bit_is_none_and_can_be_told_all_the_same(header: SegmentHeader) -> None:
    data = segment([], header)
    end = 96 + len(header.prologue) if header.size else 44
    for bit in range(end * 8):
        changed = flipped(data, bit)
        if 56 <= bit // 8 < 96 and header.size:  # The seal, and nothing.
            assert decode_header(changed) == header
        else:
            assert decode_header(changed) is None, bit
            assert decode_header_but_for_one_bit(changed) == header, bit


def test_zeros_short_files_and_what_has_more_than_one_wrong_bit_have_no_header() -> None:
    data = encode_header(HEADER)
    for wrong in (bytes(SIZE), data[:-1], b"", flipped(flipped(data, 70), 90)):
        assert decode_header(wrong) is None
        assert decode_header_but_for_one_bit(wrong) is None


def test_a_damaged_header_is_told_at_once_however_long_its_prologue_is() -> None:
    """Each bit was tried, over all of it: 6 s for a header of garbage, minutes where the length was right."""
    header = HEADER._replace(prologue=bytes(range(256)) * 200)
    data = encode_header(header)
    began_s = process_time()
    for byte in (0, 1, 100, 40_000, len(header.prologue) - 1):
        assert decode_header_but_for_one_bit(flipped(data, 8 * (96 + byte) + byte % 8)) == header
    assert decode_header_but_for_one_bit(flipped(flipped(data, 8 * 96), 8 * 50_000)) is None
    assert decode_header_but_for_one_bit(data[:40] + b"\xaa" * 20 + data[60:]) is None
    assert process_time() - began_s < 3


def test_an_intact_header_of_another_format_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.log.segment.ONE_ROW", 9)
    monkeypatch.setitem(segment_module._HEADERS, 9, segment_module._HEADERS[1])
    newer = encode_header(OLD).ljust(SIZE, b"\0")
    monkeypatch.undo()
    assert decode_header(newer) is None
    assert unknown_format(newer) == 9
    assert unknown_format(segment([])) is None
    assert unknown_format(segment([], OLD)) is None


def test_a_seal_says_which_segment_is_next_and_belongs_to_one_use() -> None:
    data = bytearray(segment([]))
    assert decode_seal(bytes(data), HEADER) is None
    data[64 : 64 + len(encode_seal(HEADER.salt, 6))] = encode_seal(HEADER.salt, 6)
    assert decode_header(bytes(data)) == HEADER
    assert decode_seal(bytes(data), HEADER) == 6
    assert decode_seal(bytes(data), HEADER._replace(salt=b"another!")) is None
    for bit in range(64 * 8, (64 + 20) * 8):
        assert decode_seal(flipped(data, bit), HEADER) is None


@HEADERS
@given(payloads=st.lists(st.binary(max_size=50), max_size=20))
def test_frames_are_read_back_in_order(header: SegmentHeader, payloads: list[bytes]) -> None:
    found, tail = read(segment(payloads, header), header)
    assert found == payloads
    assert tail.position == header.first_position + len(payloads)
    assert tail.high - tail.low == SIZE - header.frames_at - sum(FRAME_BYTES + len(payload) for payload in payloads)


def test_a_segment_filled_to_its_last_byte_ends_cleanly() -> None:
    room = SIZE - HEADER.frames_at - 2 * FRAME_BYTES
    found, tail = read(segment([bytes(1_000), bytes(room - 1_000)]))
    assert list(map(len, found)) == [1_000, room - 1_000]
    assert tail.low == tail.high


@HEADERS
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_flipped_bit_anywhere_in_a_frame_ends_the_chain_before_it_and_later_frames_are_found(
    header: SegmentHeader, which: int
) -> None:
    payloads = [b"first", b"second!", b"third", b"the fourth", b"5"]
    data = segment(payloads, header)
    place = data.index(payloads[which])
    at = place - FRAME_BYTES if stands_low(header, header.first_position + which) else place
    for bit in range(at * 8, (at + FRAME_BYTES + len(payloads[which])) * 8):
        found, tail = read(flipped(data, bit), header)
        assert found == payloads[:which]
        later = later_frames(flipped(data, bit), header, tail)
        assert [bytes(frame.payload) for frame in later] == payloads[which + 1 :]
        assert differs_in_one_bit(flipped(data, bit), header, tail), "it was there, and somebody may have been told"


@HEADERS
@given(payload=st.binary(min_size=1, max_size=60), cut=st.integers(0), old=st.binary(min_size=100, max_size=100))
def test_a_frame_that_was_not_written_to_its_end_is_not_taken_for_one_with_a_changed_bit(
    header: SegmentHeader, payload: bytes, cut: int, old: bytes
) -> None:
    """Whatever was there before."""
    whole, before = segment([b"first", payload], header), segment([b"first"], header)
    at = whole.index(payload, 200) if header.size else whole.index(payload, before.index(b"first") + 5)
    size = FRAME_BYTES + len(payload)
    start = at if not stands_low(header, header.first_position + 1) else at - FRAME_BYTES
    kept = cut % size
    torn = whole[: start + kept] + old[: size - kept] + whole[start + size :]
    found, tail = read(torn, header)
    lost = sum((a ^ b).bit_count() for a, b in zip(torn, whole, strict=True))
    if len(found) == 1 and lost > 1:
        assert not differs_in_one_bit(torn, header, tail)


def test_frames_of_an_earlier_use_of_the_segment_are_not_read() -> None:
    old = HEADER._replace(salt=b"oldsalt!", number=1, first_position=1, link=0)
    data, new = bytearray(segment([b"same size"] * 10, old)), segment([b"same size"] * 3)
    for start, end in ((0, HEADER.frames_at + 2 * (FRAME_BYTES + 9)), (SIZE - FRAME_BYTES - 9, SIZE)):
        data[start:end] = new[start:end]
    found, tail = read(bytes(data))
    assert found == [b"same size"] * 3
    assert later_frames(bytes(data), HEADER, tail) == []
    assert not differs_in_one_bit(bytes(data), HEADER, tail)


@HEADERS
@given(length=st.integers(0, 2**32 - 1))
def test_an_absurd_length_is_no_frame(header: SegmentHeader, length: int) -> None:
    data = bytearray(segment([b"x" * 10], header))
    data[header.frames_at + 8 : header.frames_at + 12] = length.to_bytes(4, "little")
    assert read(bytes(data), header)[0] == ([b"x" * 10] if length == 10 else [])


@HEADERS
def test_a_frame_out_of_its_place_is_not_read(header: SegmentHeader) -> None:
    for position, link in ((header.first_position + 2, header.link), (header.first_position, header.link + 1)):
        head, _ = encode_frame_head(header.salt, position, link, b"p")
        data = segment([], header)
        assert read(data[: header.frames_at] + head + b"p" + data[header.frames_at + len(head) + 1 :], header)[0] == []


def test_a_good_first_frame_under_a_damaged_header_of_the_older_format_is_noticed() -> None:
    assert first_frame_of_one_row(flipped(segment([b"payload"], OLD), 3))
    assert not first_frame_of_one_row(bytes(512))
