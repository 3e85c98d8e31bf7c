"""Owners, and an engine that does all that was seen of it: nothing confirmed is lost or doubled, whoever claims, and when.

One seed: `python -m tests.sim.replicated --seeds 1 --start N`; the ten thousand: `python -m tests.sim.replicated --seeds 10000`.
"""

from __future__ import annotations

import concurrent.futures
import os

import pytest

from tests.sim.replicated.__main__ import judged
from tests.sim.replicated.simulation import simulate
from tests.sim.replicated.variants import VARIANTS

SEEDS = 600
SEEDS_FULL = 10_000
SEEDS_UNTIL_NOTICED = 1_000


@pytest.mark.parametrize("first", range(0, SEEDS, 200))
def test_no_seed_loses_doubles_or_leaves_open_what_was_confirmed(first: int) -> None:
    problems = [problem for seed in range(first, first + 200) if (problem := judged(seed)[1])]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.environ.get("TIDEGATE_FULL") != "1", reason="takes minutes; TIDEGATE_FULL=1 runs it")
def test_no_seed_of_ten_thousand_does() -> None:
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        problems = [problem for _, problem, _ in pool.map(judged, range(SEEDS_FULL), chunksize=50) if problem]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("believes", VARIANTS)
def test_an_owner_that_believes_one_wrong_thing_is_noticed(believes: str) -> None:
    """By what it does to callers, not by an assertion somewhere inside."""
    host, noticed = VARIANTS[believes]
    for seed in range(SEEDS_UNTIL_NOTICED):
        if any(noticed in problem for problem in simulate(seed, host).problems):
            return
    pytest.fail(f"{SEEDS_UNTIL_NOTICED} seeds have not noticed an owner that {believes}")


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_a_seed_runs_the_same_way_every_time(seed: int) -> None:
    assert simulate(seed) == simulate(seed)


def test_the_seeds_reach_what_they_are_there_for() -> None:
    totals: dict[str, int] = {}
    for seed in range(150):
        for what, count in simulate(seed).counts.items():
            totals[what] = totals.get(what, 0) + count
    wanted = ["answers", "owners", "claims", "shut out", "waits", "reads", "refused for want of room", "purges", "crashes"]
    wanted += ["majorities lost", "leaders killed", "pauses", "partitions", "messages deleted", "claims forgotten"]
    wanted += ["stopped at a hole", "snapshots fetched", "proofs", "torn", "looks", "stores that failed"]
    wanted += ["purges of everything", "older ends put back", "ends that went back", "read ahead"]
    missing = [what for what in wanted if totals.get(what, 0) < 2]
    assert not missing, totals
