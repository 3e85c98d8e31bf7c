"""Some seconds of every target, with a seed that never changes. `python -m tests.fuzz` runs as long as one likes."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz import disk, files, keyed, links, messages, sockets, strangers, streams
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Target
from tests.support.service import FULL

SOCKET_FRAMES = 100_000 if FULL else 8_000
MORE = 10 if FULL else 1


@pytest.mark.parametrize(
    ("target", "frames"),
    [
        (messages.fuzz, 6_000),
        (links.replies, 4_000),
        (links.topologies, 4_000),
        (streams.frames, 3_000),
        (links.control_lines, 10_000),
        (files.configurations, 3_000),
        (files.apps, 20),
        (disk.logs, 60),
        (disk.states, 20),
    ],
)
def test_wrong_things_are_accepted_or_refused_as_documented_and_harm_nobody(target: Target, frames: int) -> None:
    made: list[int] = []
    counts = target(Random(1), frames * MORE, made.append)
    assert counts.total() > 0
    assert made, "who waits is told how far it is"


@pytest.mark.timeout(300)
def test_a_service_that_is_sent_nothing_but_wrong_messages_answers_a_polite_client_right() -> None:
    counts = sockets.fuzz(Random(1), SOCKET_FRAMES, lambda done: None)
    assert counts["polite"] > 100
    assert counts["answers"] > SOCKET_FRAMES // 10


def test_calls_with_keys_run_once_whatever_becomes_of_their_batches_and_commits() -> None:
    counts = keyed.batches(Random(1), 150 * MORE, lambda done: None)
    for what in ("crashes", "failed commits", "repeated", "object_reset", "interrupted", "too_large", "bad_request"):
        assert counts[what] > 0, counts
    assert counts["answered"] > counts["new"]


def test_the_same_seed_makes_the_same_wrong_things() -> None:
    def made(seed: int) -> list[list[bytes]]:
        mutator = Mutator(Random(seed))
        return [mutator.wrong_frames(strangers.FRAMES[number % len(strangers.FRAMES)], strangers.BODIES) for number in range(500)]

    assert made(1) == made(1)
    assert made(1) != made(2)
