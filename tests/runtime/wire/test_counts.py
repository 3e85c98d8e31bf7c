"""Histograms of a fixed number of buckets, and how counts are put together."""

from __future__ import annotations

from random import Random

import pytest

from tidegate.runtime.wire.counts import NOTED_MAX, TIMES_S, Histogram, added, quantile, rows, without


def test_a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.0, 1.0, 1.001, 2.0, 5.0, 5.001, 1e9):
        histogram.observe(value)
    *buckets, total = histogram.value()
    assert buckets == [2, 2, 1, 2]
    assert total == pytest.approx(0 + 1 + 1.001 + 2 + 5 + 5.001 + 1e9)
    assert histogram.count == 7


@pytest.mark.parametrize("count", [NOTED_MAX - 1, NOTED_MAX, NOTED_MAX + 1, 3 * NOTED_MAX + 7])
def test_it_does_not_matter_whether_values_come_alone_or_many_at_once(count: int) -> None:
    random = Random(count)
    values = [random.choice([*TIMES_S, random.expovariate(100), 60.0]) for _ in range(count)]
    histogram, at_once = Histogram(), Histogram()
    for value in values:
        histogram.observe(value)
        at_once.observe(value / 2, 2)
        at_once.observe(value, 2)
    for value in values:
        histogram.observe(value / 2, 2)
        histogram.observe(value)
    assert histogram.count == at_once.count == 4 * count
    assert histogram.value() == pytest.approx(at_once.value())
    assert histogram.value() == pytest.approx(at_once.value()), "asked once more"


def test_many_things_of_one_value_are_observed_at_once() -> None:
    histogram = Histogram()
    histogram.observe(0.002, 1_000)
    assert histogram.count == 1_000
    assert histogram.value()[-1] == pytest.approx(2.0)


def test_what_was_observed_since_is_what_was_added() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(0.5)
    before = histogram.value()
    histogram.observe(3.0, 2)
    since = without(histogram.value(), before)
    assert since == [0, 2, 6.0]
    assert added(before, since) == histogram.value()
    assert without(7, None) == 7


def test_a_quantile_lies_in_the_bucket_that_has_it() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    histogram.observe(0.5, 50)
    histogram.observe(1.5, 50)
    value = histogram.value()
    assert quantile(value, histogram.bounds, 0.5) == 1.0
    assert quantile(value, histogram.bounds, 0.75) == 1.5
    assert quantile(value, histogram.bounds, 1.0) == 2.0
    assert quantile(Histogram((1.0,)).value(), (1.0,), 0.5) is None


def test_a_quantile_above_all_bounds_is_the_last_bound() -> None:
    histogram = Histogram()
    histogram.observe(1e6)
    assert quantile(histogram.value(), TIMES_S, 0.99) == TIMES_S[-1]


def test_histograms_without_a_value_are_not_told() -> None:
    seen, unseen = Histogram((1.0,)), Histogram((1.0,))
    seen.observe(0.5)
    assert rows([(("a",), seen), (("b",), unseen)]) == [(("a",), [1, 0, 0.5])]
