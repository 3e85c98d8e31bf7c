"""Frames of a stream: cut anywhere, they come out whole; what is none is refused before it takes memory."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest

from tidegate.runtime.limits import LARGE_BYTES
from tidegate.runtime.sockets.frames import GREETING, Frames, head_of_length


def framed(*bodies: bytes) -> bytes:
    return b"".join(head_of_length(len(body)) + body for body in bodies)


def fed(frames: Frames, data: bytes, sizes: list[int]) -> list[bytes]:
    """In pieces of these sizes, again and again."""
    bodies, at, nth = [], 0, 0
    while at < len(data):
        size = sizes[nth % len(sizes)]
        bodies += frames.feed(data[at : at + size])
        at, nth = at + size, nth + 1
    return bodies


@pytest.mark.parametrize("seed", range(50))
def test_however_bytes_are_cut_the_same_bodies_come_out(seed: int) -> None:
    chance = Random(seed)
    lengths = (0, 1, 3, 4, 100, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES)
    bodies = [chance.randbytes(chance.choice(lengths)) for _ in range(12)]
    sizes = [chance.choice((1 + seed % 7, 5, 1_000, LARGE_BYTES, 5 * LARGE_BYTES)) for _ in range(9)]
    frames = Frames()
    assert fed(frames, GREETING + framed(*bodies), sizes) == bodies
    assert frames.is_greeted
    assert not frames.problem


def test_many_small_bodies_in_one_piece_are_cut_apart() -> None:
    frames = Frames()
    assert frames.feed(GREETING + framed(*[b"%d" % n for n in range(10_000)])) == [b"%d" % n for n in range(10_000)]


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"\xff" + bytes(8) + b"\x7f", b"T" * 19, GREETING[:-1] + b"x", b"\0"])
def test_who_does_not_greet_is_refused_at_the_first_wrong_byte(start: bytes) -> None:
    frames = Frames()
    assert fed(frames, start + framed(b"x"), [1]) == []
    assert frames.problem == "no greeting"
    assert not frames.is_greeted


def test_a_body_that_is_too_large_is_refused_by_its_length_and_those_before_it_come_out() -> None:
    frames = Frames(1 << 20)
    assert frames.feed(GREETING + framed(b"good", bytes(1 << 19)) + head_of_length((1 << 20) + 1)) == [b"good", bytes(1 << 19)]
    assert "1048577 bytes, more than 1048576" in frames.problem


def test_what_is_announced_and_does_not_come_takes_no_memory() -> None:
    tracemalloc.start()
    half = [Frames() for _ in range(100)]
    for frames in half:
        assert frames.feed(GREETING + head_of_length(16 << 20) + b"x" * 1_000) == []
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1 << 20


def test_what_is_missing_of_a_large_body_is_asked_for_and_no_more_than_a_piece_at_once() -> None:
    frames = Frames()
    frames.feed(GREETING + head_of_length(3 << 20))
    assert frames.wanted == 1 << 20
    frames.feed(bytes((3 << 20) - 100_000))
    assert frames.wanted == 100_000
    assert frames.feed(bytes(100_000)) == [bytes(3 << 20)]
    assert frames.wanted == LARGE_BYTES
