"""Sorting in steps, none of which takes long, for a loop that has other things to do.

Rule: no clock; a step is bounded by what it touches.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

Sortable = TypeVar("Sortable", str, bytes)
SORT_STEP = 2_048


def sorted_steps(keys: Callable[[], Iterator[Sortable]], count: int) -> Iterator[list[Sortable]]:
    """The keys in order, in pieces; sometimes an empty piece, so that no step takes long: sorting a million keys at once would
    stop the loop for a second. Samples the keys for pivots, deals them to buckets, sorts bucket by bucket. `keys` is asked
    for its iterator twice."""
    if count <= SORT_STEP:
        yield sorted(keys())
        return
    sample: list[Sortable] = []
    rest = keys()
    while piece := list(islice(rest, SORT_STEP * 4)):
        sample.extend(piece[:: SORT_STEP // 8])
        yield []
    pivots = sorted(sample)[::4]
    buckets: list[list[Sortable]] = [[] for _ in range(len(pivots) + 1)]
    rest = keys()
    while piece := list(islice(rest, SORT_STEP)):
        for key in piece:
            buckets[bisect_left(pivots, key)].append(key)
        yield []
    for index, bucket in enumerate(buckets):
        bucket.sort()
        yield bucket
        buckets[index] = []
