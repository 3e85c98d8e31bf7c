"""Latencies as counts by size: any number of them in little memory, mergeable over processes and rounds.

Pure. A bucket is 1 % wide (64 to a doubling), from a microsecond to minutes, so a percentile read from it is at most 1 %
too high and never too low. The largest latency is kept exactly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import msgspec

_STEPS = 64
_DOUBLINGS = 28
_BOUNDS_S = tuple(1e-6 * 2 ** (step / _STEPS) for step in range(_STEPS * _DOUBLINGS))
"""Upper bound of each bucket."""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Histogram(msgspec.Struct, frozen=True):
    counts: dict[int, int]
    """By index of the bucket; only what is not zero."""
    max_s: float = 0.0

    @classmethod
    def of(cls, latencies_s: Iterable[float]) -> Histogram:
        ordered = sorted(latencies_s)
        counts: dict[int, int] = {}
        at, end = 0, len(ordered)
        while at < end:  # One step a bucket, not one a latency.
            bucket = min(bisect_right(_BOUNDS_S, ordered[at]), len(_BOUNDS_S) - 1)
            beyond = bisect_right(ordered, _BOUNDS_S[bucket], at) if bucket < len(_BOUNDS_S) - 1 else end
            beyond = max(beyond, at + 1)
            counts[bucket] = beyond - at
            at = beyond
        return cls(counts, ordered[-1] if ordered else 0.0)

    @classmethod
    def of_cumulative(cls, steps: Iterable[tuple[float, int]]) -> Histogram:
        """From what others print: how many took no longer than so many seconds, ascending."""
        counts: dict[int, int] = {}
        seen, max_s = 0, 0.0
        for bound_s, count in steps:
            bucket = min(bisect_left(_BOUNDS_S, bound_s), len(_BOUNDS_S) - 1)
            counts[bucket] = counts.get(bucket, 0) + count - seen
            seen, max_s = count, bound_s
        return cls(counts, max_s)

    @classmethod
    def merged(cls, parts: Sequence[Histogram]) -> Histogram:
        counts: dict[int, int] = {}
        for part in parts:
            for bucket, count in part.counts.items():
                counts[bucket] = counts.get(bucket, 0) + count
        return cls(counts, max((part.max_s for part in parts), default=0.0))

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def percentile_s(self, share: float) -> float:
        """A latency that `share` of all did not exceed."""
        rank = min(int(self.count * share), self.count - 1)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen > rank:
                return min(_BOUNDS_S[bucket], self.max_s)
        return self.max_s

    def percentiles_ms(self) -> dict[str, float]:
        result = {name: round(self.percentile_s(share) * 1e3, 3) for name, share in SHARES.items()}
        return {**result, "max": round(self.max_s * 1e3, 3)}
