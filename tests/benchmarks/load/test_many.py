"""benchmarks/load/many.py draws objects as it says. (That it notices what is missing: see the benchmark.)"""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from tidegate.benchmarks.load.many import chooser


@pytest.mark.parametrize("skew", [0.8, 1.0, 1.2])
def test_zipf_calls_few_objects_often_and_all_of_them_at_all(skew: float) -> None:
    objects, calls = 1_000, 200_000
    choose = chooser(objects, skew, random.Random(1))
    counts = Counter(choose() for _ in range(calls))
    assert set(counts) == set(range(objects))
    often = sum(count for _, count in counts.most_common(100)) / calls
    assert often == pytest.approx(_share(100, skew) / _share(objects, skew), rel=0.02)


def _share(ranks: int, skew: float) -> float:
    """Of the first ones, up to a factor."""
    return math.log(ranks + 1) if skew == 1.0 else ((ranks + 1) ** (1 - skew) - 1) / (1 - skew)


def test_without_a_skew_every_object_is_as_likely_as_any_other() -> None:
    choose = chooser(100, None, random.Random(1))
    counts = Counter(choose() for _ in range(100_000))
    assert len(counts) == 100
    assert max(counts.values()) < 1.2 * min(counts.values())
