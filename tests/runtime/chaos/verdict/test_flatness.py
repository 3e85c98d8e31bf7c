"""Which lines rise."""

from __future__ import annotations

from random import Random

import pytest

from tidegate.runtime.chaos.verdict.flatness import SAMPLES_MIN, trend


def line(values: list[float], floor: float = 1.0) -> bool:
    found = trend("memory", "MiB", list(enumerate(values)), floor)
    assert found is not None
    return found.is_flat


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        ([100.0] * 40, True),
        ([10.0 * at for at in range(10)] + [100.0] * 30, True),  # Warming up.
        ([100.0 + at for at in range(40)], False),
        ([140.0 - at for at in range(40)], True),
        ([100.0 + Random(at).uniform(-5, 5) for at in range(40)], True),
        ([50.0, 100.0] * 20, True),  # As a log does that is written and forgotten.
    ],
)
def test_a_line_that_rises_after_its_warm_up_is_not_flat(values: list[float], flat: bool) -> None:
    assert line(values) is flat


def test_a_rise_by_less_than_counts_is_flat() -> None:
    values = [0.1 * at for at in range(40)]
    assert not line(values, floor=1.0)
    assert line(values, floor=8.0)


def test_a_trend_is_told_with_its_ends_and_whether_it_rises() -> None:
    found = trend("log", "MiB", [(at, 10.0 + at) for at in range(40)], 1.0)
    assert str(found) == "log 20 → 49 MiB (rises)"


def test_too_few_samples_are_no_trend_at_all() -> None:
    assert trend("log", "MiB", [(at, at) for at in range(SAMPLES_MIN - 1)], 1.0) is None
