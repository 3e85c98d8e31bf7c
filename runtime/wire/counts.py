"""Counts: what a process counts of itself and tells with each pong, under the names of `tidegate.runtime.metrics.catalogue`.

Guarantee: a count only grows while its process lives. A histogram has a fixed number of buckets, and takes a bounded amount of
memory, whatever is observed.

Rule: plain numbers, no lock, no clock: whoever counts does it on its loop, and says itself how long something took.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

Labels = tuple[str, ...]
"""Values of labels, in the order in which the catalogue names them."""
Value = int | float | list[float]
"""Of a counter, or of a histogram: how many were in each bucket, the last one without a bound, and then their sum."""
Counts = dict[str, list[tuple[Labels, Value]]]
"""By name."""

TIMES_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of times, in seconds: from half a durable call on a fast disk to what a section may take."""
SIZES = (256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0)
"""The same of bytes."""
NUMBERS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)
"""The same of how many there are of something."""


NOTED_MAX = 250
"""To find the bucket of one number takes as long as to serve half a read; of so many at once, a tenth of that each."""


class Histogram:
    __slots__ = ("bounds", "buckets", "noted", "sum")

    def __init__(self, bounds: tuple[float, ...] = TIMES_S) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        """How many were observed up to each bound and above the one before; the last one has no bound."""
        self.sum = 0.0
        self.noted: list[float] = []
        """Observed, and in no bucket yet. Who adds to it himself calls `count_noted` when there are `NOTED_MAX`."""

    def observe(self, value: float, times: int = 1) -> None:
        """`times` things had this value."""
        if times == 1:
            noted = self.noted
            noted.append(value)
            if len(noted) >= NOTED_MAX:
                self.count_noted()
        else:
            self.buckets[bisect_left(self.bounds, value)] += times
            self.sum += value * times

    def count_noted(self) -> None:
        noted, counted = sorted(self.noted), 0
        self.noted.clear()
        for at, bound in enumerate(self.bounds):
            below = bisect_right(noted, bound)
            self.buckets[at] += below - counted
            counted = below
        self.buckets[-1] += len(noted) - counted
        self.sum += sum(noted)

    def value(self) -> list[float]:
        if self.noted:
            self.count_noted()
        return [*self.buckets, self.sum]

    @property
    def count(self) -> int:
        return sum(self.buckets) + len(self.noted)


def added(one: Value, other: Value) -> Value:
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    assert not isinstance(one, list)
    assert not isinstance(other, list)
    return one + other


def without(value: Value, before: Value | None) -> Value:
    """What has come since."""
    if before is None:
        return value
    if isinstance(value, list) and isinstance(before, list):
        return [a - b for a, b in zip(value, before, strict=True)]
    assert not isinstance(value, list)
    assert not isinstance(before, list)
    return value - before


def quantile(value: list[float], bounds: tuple[float, ...], share: float) -> float | None:
    """The value below which that share of what was observed lies, from the middle of its bucket: half a bucket is not known.
    None: nothing was observed."""
    *buckets, _ = value
    wanted = share * sum(buckets)
    if wanted <= 0:
        return None
    below = 0.0
    for at, count in enumerate(buckets[:-1]):
        if count and below + count >= wanted:
            lower = bounds[at - 1] if at else 0.0
            return lower + (bounds[at] - lower) * (wanted - below) / count
        below += count
    return bounds[-1]


def rows(values: Iterable[tuple[Labels, Histogram]]) -> list[tuple[Labels, Value]]:
    """Of those histograms in which something was observed."""
    return [(labels, value) for labels, histogram in values if any(value := histogram.value())]
