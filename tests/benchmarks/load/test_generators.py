from __future__ import annotations

from dataclasses import replace

import pytest

from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.generators import make_jobs, run_processes, together
from tidegate.benchmarks.load.job import Door
from tidegate.benchmarks.load.workloads import WORKLOADS, BenchmarkFailed
from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.plan import Load, Plan

DOOR = Door(("ipc://nowhere",))
PLAN = Plan(WORKLOADS["unique"], "direct", concurrency=10, requests=100, objects=7, generators=3)


def test_calls_and_objects_are_dealt_to_the_generators_and_no_two_call_the_same_object() -> None:
    jobs = make_jobs(DOOR, PLAN, "lean")
    assert [job.concurrency for job in jobs] == [4, 3, 3]
    assert sum(job.requests for job in jobs) == 100
    assert [job.objects for job in jobs] == [3, 2, 2]
    assert len({job.prefix for job in jobs}) == 3
    assert not any(job.shared for job in jobs)


def test_the_one_object_of_the_hot_workload_is_the_same_for_all() -> None:
    jobs = make_jobs(DOOR, replace(PLAN, workload=WORKLOADS["hot"], objects=1), "lean")
    assert [(job.objects, job.shared) for job in jobs] == [(1, True)] * 3
    assert len({job.prefix for job in jobs}) == 1


def test_there_are_no_more_generators_than_calls_in_flight_and_an_open_rate_is_shared() -> None:
    assert len(make_jobs(DOOR, replace(PLAN, concurrency=2), "lean")) == 2
    assert [job.rate for job in make_jobs(DOOR, replace(PLAN, concurrency=0, rate=300), "lean")] == [100.0] * 3


def test_the_time_of_all_is_from_the_first_start_to_the_last_end() -> None:
    loads = [Load(10, 1.0, 3.0, Histogram.of([0.1] * 10), 0.5, "lean"), Load(20, 1.5, 6.0, Histogram.of([0.2] * 20), 0.5, "lean")]
    load = together(loads)
    assert (load.requests, load.elapsed_s, load.cpu_s, load.histogram.count) == (30, 5.0, 1.0, 30)


def test_a_generator_that_dies_fails_the_run_and_is_named() -> None:
    with pytest.raises(BenchmarkFailed, match=r"unique, direct, 10 at once: a load generator ended with code 1"):
        run_processes("tidegate.benchmarks.load.generator", [b"no job"], PLAN, Meter(dict))
