"""The simulation itself: many seeds, and those that once found something. Reproduce one by `python -m tests.sim --seed N -v`."""

from __future__ import annotations

import concurrent.futures
import os

import pytest

from tests.sim.__main__ import judged
from tests.sim.simulation import KEYED, simulate
from tidegate.shard.worker.worker import Worker

SEEDS = 150
SEEDS_FULL = 10_000

FOUND = {
    69: "calls that waited for backpressure were overtaken",
    94: "a call ran although its caller had lost what it revealed",
    115: "stalled calls of a reset object were overtaken by each other",
    147: "a call overtook stalled ones while its object was reset",
    195: "backpressure opened the input gate before its result was delivered",
    197: "delete_all by code of a reset object deleted what its successor had written",
    219: "calls that waited for the last commit of a reset object were overtaken",
    323: "a call ran although its caller had lost what it revealed",
    404: "calls to another worker were refused before the first topology had arrived",
    764: "the same, after a failed commit",
    6103: "the simulator took a record for lost that was durable at the instant of a death: a sum of floats",
    30384: "a worker had ended its drain when the call of another one reached it",
    31564: "the same, and the caller's object waited for it to come back",
    540150: "who had seen a write was not reset when it was lost, for its writer had been reset before",
    1095: "who gave up the wait for a section ran beside the section of another",
    2000326: "an alarm that rang while an earlier ring waited for its mark to be durable was forgotten",
}
"""By seed: what went wrong once. Scenarios change with the simulator, so these are reminders more than proofs."""


@pytest.mark.parametrize("seed", sorted(FOUND))
def test_what_was_found_once_stays_mended(seed: int) -> None:
    result = simulate(seed)
    assert not result.problems, f"{FOUND[seed]}?\n{result}"


@pytest.mark.parametrize("first", range(1_000, 1_000 + SEEDS, 50))
def test_no_seed_breaks_a_promise(first: int) -> None:
    problems = [problem for seed in range(first, first + 50) if (problem := judged(seed)[1])]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("first", [2_000, 2_025])
def test_no_seed_breaks_a_promise_where_each_call_has_a_task_of_its_own(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """As in a worker where CPython does not count references as assumed."""
    monkeypatch.setitem(Worker.__init__.__kwdefaults__ or {}, "spare_task", False)
    problems = [problem for seed in range(first, first + 25) if (problem := judged(seed)[1])]
    assert not problems, "\n".join(problems)


def test_no_seed_breaks_a_promise_where_every_call_has_a_key_and_is_asked_again() -> None:
    seeds = [seed for seed in range(40_000, 40_320) if seed % 16 in KEYED]
    totals: dict[str, int] = {}
    for seed in seeds:
        result = simulate(seed)
        assert not result.problems, str(result)
        for what, count in result.counts.items():
            totals[what] = totals.get(what, 0) + count
    wanted = ["asked again", "answered alike", "kills", "error interrupted", "error shard_lost"]
    wanted.append("counters that were called exactly so often")
    assert not [what for what in wanted if totals.get(what, 0) < 3], totals


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(os.environ.get("TIDEGATE_FULL") != "1", reason="takes minutes; TIDEGATE_FULL=1 runs it")
def test_no_seed_of_ten_thousand_breaks_a_promise() -> None:
    workers = len(os.sched_getaffinity(0))
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        found = pool.map(judged, range(10_000, 10_000 + SEEDS_FULL), chunksize=20)
        problems = [problem for _, problem, _ in found if problem]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_a_seed_runs_the_same_way_every_time(seed: int) -> None:
    assert simulate(seed).digest == simulate(seed).digest


def test_a_world_leaves_no_descriptor_open() -> None:
    """Ten thousand of them run in one process."""
    simulate(1)
    before = len(os.listdir("/proc/self/fd"))
    simulate(2)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_seeds_reach_what_they_are_there_for() -> None:
    """A simulator in which nothing fails proves nothing."""
    totals: dict[str, int] = {}
    for seed in range(64):
        for what, count in simulate(seed).counts.items():
            totals[what] = totals.get(what, 0) + count
    wanted = ["answers", "segments", "callbacks", "kills", "failed appends", "torn", "inner ok", "inner object_reset"]
    codes = ("object_reset", "shard_lost", "unavailable", "deadline_exceeded", "overloaded", "exception", "start_failed")
    wanted += [f"error {code}" for code in codes]
    wanted += ["error deadline_exceeded, unknown", "calls in a chain", "calls into their section", "inner deadlock"]
    wanted += ["deaths by an alarm"]
    missing = [what for what in wanted if totals.get(what, 0) < 3]
    assert not missing, totals
