"""Named workloads: which calls are made, and what each must be answered. A run with one wrong answer fails.

Pure. Calls to one object are delivered in the order sent, so every answer is known before it comes: a number given twice, a
gap, a lost write or a call out of order all show as an answer that was not expected.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

BLOB_BYTES = 64 << 10
_WRITES_EACH = 10
"""One call in so many writes, where most read."""


class BenchmarkFailed(Exception):
    """The run gave wrong answers, or none. Its figures mean nothing."""


UNANSWERED = object()
"""Stands in the place of an answer until it arrives."""


@dataclass(frozen=True)
class Block:
    """Calls in the order in which they are to be sent."""

    targets: Sequence[int]
    """Index of the object, by call."""
    methods: Sequence[str]
    args: Sequence[tuple[Any, ...]]
    expected: Sequence[Any]


class Numbers:
    """Every object answers 0, 1, 2, … in the order in which it is called."""

    first_method = method = "get_unique_number"

    def __init__(self, objects: int) -> None:
        self.turns = [0] * objects

    def first(self) -> Block:
        return self._make(range(len(self.turns)), self.first_method)

    def block(self, targets: Sequence[int]) -> Block:
        return self._make(targets, self.method)

    def _make(self, targets: Sequence[int], method: str) -> Block:
        turns = self.turns
        expected = []
        for target in targets:
            expected.append(turns[target])
            turns[target] += 1
        return Block(targets, [method] * len(expected), [()] * len(expected), expected)


class UnconfirmedNumbers(Numbers):
    first_method = method = "get_unconfirmed_number"


class FanNumbers(Numbers):
    first_method = method = "get_numbers"


class Reads(Numbers):
    """Nothing but the first call writes, so the answer never changes."""

    method = "current"

    def block(self, targets: Sequence[int]) -> Block:
        return Block(targets, [self.method] * len(targets), [()] * len(targets), [1] * len(targets))


class Mixed(Numbers):
    """Nine reads to one write. A read tells how many writes there were before it."""

    def __init__(self, objects: int) -> None:
        super().__init__(objects)
        self._random = Random(objects)

    def block(self, targets: Sequence[int]) -> Block:
        turns, draw = self.turns, self._random.random
        methods, expected = [], []
        for target in targets:
            expected.append(turns[target])
            writes = draw() * _WRITES_EACH < 1
            methods.append("get_unique_number" if writes else "current")
            turns[target] += writes
        return Block(targets, methods, [()] * len(targets), expected)


class Blobs(Numbers):
    """Each call replaces a large value, and answers with the checksum of the one before."""

    _blobs = tuple(bytes([index]) * BLOB_BYTES for index in range(16))

    def _make(self, targets: Sequence[int], method: str) -> Block:
        turns, blobs = self.turns, self._blobs
        args, expected = [], []
        for target in targets:
            turn = turns[target]
            args.append((blobs[turn % len(blobs)],))
            expected.append(crc32(blobs[(turn - 1) % len(blobs)]) if turn else 0)
            turns[target] += 1
        return Block(targets, ["replace"] * len(args), args, expected)


class Pages(Numbers):
    """The first call fills the object; every other one lists twenty of a hundred keys."""

    def first(self) -> Block:
        objects = len(self.turns)
        return Block(range(objects), ["fill"] * objects, [()] * objects, [100] * objects)

    def block(self, targets: Sequence[int]) -> Block:
        count = len(targets)
        return Block(targets, ["page"] * count, [()] * count, [list(range(40, 60))] * count)


class Wakes(Numbers):
    """A call is answered when the alarm that it has set has rung."""

    def _make(self, targets: Sequence[int], method: str) -> Block:
        turns = list(range(len(targets)))
        return Block(targets, ["wake"] * len(turns), [(turn,) for turn in turns], turns)


@dataclass(frozen=True)
class Workload:
    name: str
    summary: str
    calls: type[Numbers]
    """Given the number of objects, makes the calls."""
    class_name: str = "Counter"
    objects: int = 1_000
    """Unless the user says otherwise."""
    shared: bool = False
    """Several load generators call the same objects. Then who gets which number cannot be known before."""
    cost: int = 1
    """How many times fewer calls make a run of the same length as `unique`, roughly."""
    bytes_per_call: int = 64
    cache_mib: int | None = None
    """Of each worker, where the workload needs another one than the default."""


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("unique", "durable read-modify-write: unique, gap-free numbers", Numbers),
        Workload("read", "cached get", Reads),
        Workload("hot", "unique on one object", Numbers, objects=1, shared=True),
        Workload("unconfirmed", "unique with allow_unconfirmed: answers do not wait for the disk", UnconfirmedNumbers),
        Workload("mixed", "nine reads to one durable write", Mixed),
        Workload("cold", "unique on kilobyte values, ten times as many as the cache holds", Numbers, "Record",
                 objects=20_000, cost=4, cache_mib=1),
        Workload("big", "replaces values of 64 KiB", Blobs, "Blob", objects=100, cost=30, bytes_per_call=BLOB_BYTES),
        Workload("fanout", "an object asks four others at once", FanNumbers, "Fan", cost=6),
        Workload("list", "lists 20 of 100 cached keys", Pages, "Shelf", cost=3),
        Workload("alarms", "sets an alarm to now, answers when it has rung", Wakes, "Sleeper", cost=4),
    )
}  # fmt: skip


def targets_in_turn(objects: int) -> Iterator[int]:
    return itertools.cycle(range(objects))


def targets_by_zipf(objects: int, skew: float, random: Random) -> Iterator[int]:
    """Object k is called in proportion to 1 / (k + 1) ** skew: 0 is uniform, 1 has most calls go to few."""
    weights = list(itertools.accumulate((rank + 1) ** -skew for rank in range(objects)))
    while True:
        yield from random.choices(range(objects), cum_weights=weights, k=10_000)


def check_answers(block: Block, results: Sequence[Any]) -> None:
    """`results[i]` is what call i was answered. Raises BenchmarkFailed that says of which object what was wrong."""
    if results == block.expected:
        return
    wrong = next(index for index, expected in enumerate(block.expected) if results[index] != expected)
    target = block.targets[wrong]
    calls = [index for index, other in enumerate(block.targets) if other == target]
    got, expected = [results[index] for index in calls], [block.expected[index] for index in calls]
    if UNANSWERED in got:
        raise BenchmarkFailed(f"a call to object {target} was never answered, though others were answered twice")
    if sorted(got) == sorted(expected):
        raise BenchmarkFailed(f"object {target} was not called in the order in which calls were sent: {_first(got)}")
    kind = "did not give unique, gap-free numbers" if block.methods[wrong] == Numbers.method else "gave wrong answers"
    raise BenchmarkFailed(f"object {target} {kind}: {_first(got)} instead of {_first(expected)}")


def check_ascending(numbers: Sequence[int]) -> None:
    """What one of several generators was answered by an object that all of them call. Raises BenchmarkFailed."""
    if any(number <= before for before, number in itertools.pairwise(numbers)):
        raise BenchmarkFailed(f"the object was not called in the order in which calls were sent: {_first(numbers)}")


def check_union(parts: Sequence[Sequence[int]]) -> None:
    """All numbers that one object gave to anybody, from its first call on. Raises BenchmarkFailed."""
    numbers = sorted(itertools.chain.from_iterable(parts))
    if numbers != list(range(len(numbers))):
        raise BenchmarkFailed("the object did not give unique, gap-free numbers to all who called it")


def _first(got: Sequence[Any]) -> str:
    text = ", ".join(map(repr, got[:12]))
    return f"{text}, …" if len(got) > 12 else text
