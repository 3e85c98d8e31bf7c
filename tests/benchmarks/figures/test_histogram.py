from __future__ import annotations

from random import Random

import pytest

from tidegate.benchmarks.figures.histogram import SHARES, Histogram


def test_percentiles_are_at_most_one_percent_above_those_of_the_sorted_latencies_and_never_below() -> None:
    draw = Random(7)
    latencies = [draw.lognormvariate(-7, 1.5) for _ in range(20_000)]
    ordered, histogram = sorted(latencies), Histogram.of(latencies)
    for share in SHARES.values():
        exact = ordered[int(len(ordered) * share)]
        assert exact <= histogram.percentile_s(share) <= exact * 1.011
    assert histogram.count == len(latencies)
    assert histogram.max_s == ordered[-1]


def test_merged_parts_say_what_one_histogram_of_everything_says() -> None:
    draw = Random(8)
    parts = [[draw.expovariate(1_000) for _ in range(500)] for _ in range(4)]
    whole = Histogram.of(latency for part in parts for latency in part)
    merged = Histogram.merged([Histogram.of(part) for part in parts])
    assert (merged.counts, merged.max_s) == (whole.counts, whole.max_s)


def test_nothing_is_too_small_or_too_large() -> None:
    histogram = Histogram.of([1e-9, 1e-6, 0.5, 10_000.0])
    assert histogram.count == 4
    assert histogram.percentiles_ms()["max"] == 10_000_000.0
    assert histogram.percentile_s(0.0) == 1e-6
    assert Histogram.of([]).percentile_s(0.5) == 0.0


def test_cumulative_counts_of_others_are_read() -> None:
    histogram = Histogram.of_cumulative([(0.001, 50), (0.002, 90), (0.004, 100)])
    assert histogram.count == 100
    assert histogram.percentile_s(0.49) == pytest.approx(0.001, rel=0.011)
    assert histogram.percentile_s(0.95) == pytest.approx(0.004, rel=0.011)
    assert histogram.percentiles_ms()["max"] == 4.0
