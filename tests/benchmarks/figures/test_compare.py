from __future__ import annotations

import msgspec

from tidegate.benchmarks.figures.compare import Step, compare, schedule, summarise
from tidegate.benchmarks.load.workloads import WORKLOADS
from tidegate.benchmarks.plan import Measurement, Plan


def measurement(peer: str, rate: float, p50: float = 1.0, concurrency: int = 64) -> Measurement:
    return Measurement(
        peer=peer,
        workload="unique",
        route="direct",
        generator="lean",
        concurrency=concurrency,
        requests=1,
        objects=1,
        rate=rate,
        percentiles_ms={"p50": p50},
        cpu_us={"load": 2.0},
        others_cores=0.0,
    )


def test_every_round_measures_every_plan_with_every_peer_and_reverses_the_order_of_peers() -> None:
    plan = Plan(WORKLOADS["unique"], "direct", concurrency=1, requests=1, objects=1)
    assert list(schedule([plan], peers=2, rounds=2)) == [
        Step(0, plan, 0),
        Step(0, plan, 1),
        Step(1, plan, 1),
        Step(1, plan, 0),
    ]


def test_a_ratio_is_taken_within_a_round_so_that_drift_of_the_machine_cancels_out() -> None:
    runs = [
        measurement("tidegate", 50.0), measurement("pipeline", 100.0),
        measurement("pipeline", 200.0), measurement("tidegate", 100.0),
        measurement("tidegate", 400.0), measurement("pipeline", 800.0),
    ]  # fmt: skip
    (ratio,) = compare(runs, "tidegate", "pipeline")
    assert (ratio.rate, ratio.rate_min, ratio.rate_max) == (0.5, 0.5, 0.5)


def test_a_case_measured_for_one_peer_only_has_no_ratio() -> None:
    runs = [measurement("tidegate", 1.0), measurement("pipeline", 1.0, concurrency=1)]
    assert compare(runs, "tidegate", "pipeline") == []


def test_a_summary_shows_the_median_and_the_spread_of_rounds() -> None:
    (summary,) = summarise([measurement("tidegate", rate, p50=rate) for rate in (5.0, 1.0, 3.0)])
    assert (summary.rate, summary.rate_min, summary.rate_max, summary.rounds) == (3.0, 1.0, 5.0, 3)
    assert summary.percentiles_ms == {"p50": 3.0}


def test_open_loops_are_other_cases_than_closed_ones() -> None:
    closed, opened = measurement("tidegate", 1.0, concurrency=0), measurement("tidegate", 2.0, concurrency=0)
    summaries = summarise([closed, msgspec.structs.replace(opened, offered=500)])
    assert [(one.rate, one.offered) for one in summaries] == [(1.0, 0), (2.0, 500)]
