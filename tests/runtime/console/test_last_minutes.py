"""What the console remembers of a service."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tidegate.runtime.console.last_minutes import POINT_MS, POINTS_MAX, QUIET_MS, LastMinutes


def status(calls_per_s: float = 0.0, start: int = 1, **workers: dict[str, int]) -> dict[str, Any]:
    processes = [{"name": name, "statistics": {"shard_calls": calls}} for name, calls in workers.items()]
    rates = {"calls_per_s": calls_per_s, "errors_per_s": 1.0, "answer_p50_ms": 0.5, "answer_p99_ms": None}
    return {"start": start, "rates": rates, "processes": [{"name": "router", "statistics": {}}, *processes]}


def test_points_come_as_often_as_processes_tell_and_the_oldest_are_forgotten() -> None:
    history = LastMinutes()
    for number in range(2 * POINTS_MAX + 4):
        history.saw(status(number), 1_000_000 + number * POINT_MS // 2)
    points = history.points(0)
    assert len(points) == POINTS_MAX
    assert points[-1][1:] == (2 * POINTS_MAX + 2, 1.0, 0.5, None)
    assert [later[0] - earlier[0] for earlier, later in pairwise(points)] == [POINT_MS] * (POINTS_MAX - 1)
    assert history.points(points[-3][0]) == points[-2:]


def test_how_fast_a_shard_goes_is_what_came_since_its_worker_told_something_else() -> None:
    history = LastMinutes()
    history.saw(status(w0={"0": 100, "1": 0}, w1={"2": 5}), 10_000)
    history.saw(status(w0={"0": 100, "1": 0}, w1={"2": 5}), 11_000)
    history.saw(status(w0={"0": 300, "1": 10}, w1={"2": 5}), 12_000)
    assert history.shard_rates() == {"0": 100.0, "1": 5.0}


def test_a_worker_that_was_started_again_counts_from_none() -> None:
    history = LastMinutes()
    history.saw(status(w0={"0": 1_000}), 10_000)
    history.saw(status(w0={"0": 40}), 12_000)
    assert history.shard_rates() == {"0": 20.0}


def test_a_worker_that_tells_nothing_new_has_no_calls_after_a_while() -> None:
    history = LastMinutes()
    history.saw(status(w0={"0": 0}), 10_000)
    history.saw(status(w0={"0": 40}), 12_000)
    history.saw(status(w0={"0": 40}), 12_000 + QUIET_MS - 1)
    assert history.shard_rates() == {"0": 20.0}
    history.saw(status(w0={"0": 40}), 12_000 + QUIET_MS)
    assert history.shard_rates() == {}


def test_a_worker_that_is_gone_has_no_calls_and_none_of_an_earlier_start_has() -> None:
    history = LastMinutes()
    history.saw(status(w0={"0": 0}, w1={"1": 0}), 10_000)
    history.saw(status(w0={"0": 40}, w1={"1": 40}), 12_000)
    history.saw(status(w0={"0": 40}), 12_500)
    assert history.shard_rates() == {"0": 20.0}
    history.saw(status(start=2, w0={"0": 1_000}), 13_000)
    assert history.shard_rates() == {}
    history.saw(status(start=2, w0={"0": 1_020}), 15_000)
    assert history.shard_rates() == {"0": 10.0}
