"""Bytes of a stream, wrong: cut anywhere, with lengths that lie. What is whole before the first wrong length comes out as it
went in, whatever the cuts, and memory stays with what has come."""

from __future__ import annotations

from random import Random

from tests.fuzz.mutation import Mutator
from tests.fuzz.strangers import wrong_message
from tests.fuzz.target import Counts, Tick
from tidegate.runtime.limits import MESSAGE_BYTES_MAX
from tidegate.runtime.sockets.frames import GREETING, HEAD_BYTES, Frames, head_of_length
from tidegate.runtime.wire.protocol import parse_message

FRAMES_MAX = 40


def frames(chance: Random, frames: int, tick: Tick) -> Counts:
    counts, mutator, done = Counts(), Mutator(chance), 0
    while done < frames:
        bodies = [body for _ in range(chance.randrange(1, FRAMES_MAX)) for body in wrong_message(chance, mutator)]
        if chance.random() < 0.05:
            bodies.insert(chance.randrange(len(bodies)), chance.randbytes(chance.randrange(200_000)))
        sent = GREETING + b"".join(head_of_length(len(body)) + body for body in bodies)
        if chance.random() < 0.5:
            sent = mutator.wrong_bytes(sent, sent)
        received = _fed(chance, sent)
        assert received == _expected(sent), "what comes out depends on how it was cut"
        for body in received:
            parse_message((b"client", body))  # It may be anything, and raises nothing.
        done += len(bodies)
        counts["bodies"] += len(received)
        counts["streams"] += 1
        tick(done)
    return counts


def _fed(chance: Random, sent: bytes) -> list[bytes]:
    reader, received, at = Frames(), [], 0
    while at < len(sent) and not reader.problem:
        size = chance.choice((1, 3, 19, 100, reader.wanted))
        received += reader.feed(sent[at : at + size])
        at += size
    return received


def _expected(sent: bytes) -> list[bytes]:
    """By the plainest reader."""
    if not sent.startswith(GREETING):
        return []
    bodies, at = [], len(GREETING)
    while at + HEAD_BYTES <= len(sent):
        length = int.from_bytes(sent[at : at + HEAD_BYTES])
        if length > MESSAGE_BYTES_MAX or at + HEAD_BYTES + length > len(sent):
            break
        bodies.append(sent[at + HEAD_BYTES : at + HEAD_BYTES + length])
        at += HEAD_BYTES + length
    return bodies
