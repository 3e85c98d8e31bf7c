"""benchmarks/browse.py runs, tiny, in every test run; what it says of its windows is right."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tidegate.benchmarks import browse
from tidegate.benchmarks.browse import Browse, Looking
from tidegate.benchmarks.growth import SMALL, Window


def test_pages_and_searches_are_asked_for_beside_half_the_peak() -> None:
    command = [sys.executable, "-m", "tidegate.benchmarks", "browse", "--smoke", "--workers", "2", "--concurrency", "8", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)
    found = msgspec.json.decode(done.stdout, type=Browse)
    assert found.objects == SMALL
    assert [one.load for one in found.windows] == ["nobody", "objects ls", "nobody", "console search", "nobody"]
    assert found.offered == pytest.approx(found.peak / 2, rel=0.01)
    assert all(0 < one.rate <= found.offered * 1.1 for one in found.windows)
    assert [bool(one.pages_ms) for one in found.windows] == [False, True, False, True, False]
    assert [each.how for each in found.lookings] == ["objects ls", "console search"]
    assert all(each.pages > 0 and 0 < each.page_ms <= each.page_ms_p95 <= each.page_ms_max for each in found.lookings)


def window(load: str, rate: float, *pages_ms: float) -> Window:
    return Window(load, rate, {}, 0.0, 1.0, 0.0, 0.0, 0.0, 0, list(pages_ms), 0.0)


def test_a_window_is_compared_with_those_beside_it_and_the_median_counts() -> None:
    windows = [
        window("nobody", 90.0), window("objects ls", 95.0, 3.0, 1.0), window("nobody", 110.0),
        window("objects ls", 99.0, 2.0), window("nobody", 110.0), window("objects ls", 110.0, 9.0), window("nobody", 110.0),
    ]  # fmt: skip
    found = browse.summarise("objects ls", windows)
    assert found == Looking("objects ls", 4, 2.5, 9.0, 9.0, 0.05, 0.0, 0.1)


def test_pages_that_come_late_and_calls_that_are_lost_are_named() -> None:
    def looking(how: str, p95: float, loss: float) -> Looking:
        return Looking(how, 100, 1.0, p95, 500.0, loss, loss - 0.01, loss + 0.01)

    assert browse.dear([looking("objects ls", 100.0, 0.05), looking("console search", 300.0, -0.01)]) == []
    assert browse.dear([looking("objects ls", 101.0, 0.01), looking("console search", 120.0, 0.06)]) == [
        "objects ls: 95 of 100 pages within 101 ms, more than 100",
        "console search: 6.0% of the calls lost (5.0% to 7.0%), more than 5%",
    ]
