"""The simulation with shards that are in memory at one moment and not at the next: reads wait for the disk, nothing else does.

The same service, seeds and judgement as everywhere here; only the stores have readers, whose answers come when the seed says.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any
from unittest import mock

import pytest

from shard.activation import Activation
from shard.cache import ABSENT, ObjectCache, restore
from shard.checkpoint import Checkpointer
from shard.cold_reads import Done, Fetch, Snapshot
from shard.reader import ThreadReader
from shard.record import ShardCommit
from shard.worker_store import WorkerStore
from tests.sim import processes
from tests.sim.simulation import Result, simulate
from tests.sim.virtual_loop import ProcessLoop

SEEDS = 40
SEEDS_FULL = 2_000
READS: list[int] = [0]
"""Made by readers so far."""


class HelperReader:
    """What `ThreadReader` does, in the helper threads of a simulated process."""

    def __init__(self, loop: ProcessLoop) -> None:
        self._loop = loop

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done) -> None:
        READS[0] += 1
        self._loop.run_in_helper(partial(ThreadReader.answer, self._loop, snapshot, fetch, done))


class ChangingStore(WorkerStore):
    """Its shards come into memory and leave it, whenever a commit has been applied."""

    random: Random

    def __init__(self, states: Any, log: Any, *args: Any) -> None:
        super().__init__(states, log, *args)
        self._helper_reader = HelperReader(log._loop)
        for store in self.shards.values():
            store.reader = self._helper_reader

    def applied(self, position: int, commits: Sequence[ShardCommit]) -> None:
        super().applied(position, commits)
        for store in self.shards.values():
            if self.random.random() < 0.1:
                store.reader = None if store.reader is not None else self._helper_reader


def simulate_cold(seed: int) -> Result:
    changing = type("SeededStore", (ChangingStore,), {"random": Random(seed)})
    with mock.patch.object(processes, "WorkerStore", changing):
        return simulate(seed)


def judged(seed: int) -> str:
    result = simulate_cold(seed)
    return str(result) if result.problems else ""


def test_no_seed_breaks_a_promise_while_reads_wait_for_the_disk() -> None:
    before = READS[0]
    problems = [problem for seed in range(5_000, 5_000 + SEEDS) if (problem := judged(seed))]
    assert not problems, "\n".join(problems)
    assert READS[0] - before > SEEDS * 10


def test_a_seed_with_waiting_reads_runs_the_same_way_every_time() -> None:
    assert simulate_cold(3).digest == simulate_cold(3).digest


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(os.environ.get("TIDEGATE_FULL") != "1", reason="takes minutes; TIDEGATE_FULL=1 runs it")
def test_no_seed_of_thousands_breaks_a_promise_while_reads_wait_for_the_disk() -> None:
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        problems = [problem for problem in pool.map(judged, range(20_000, 20_000 + SEEDS_FULL), chunksize=20) if problem]
    assert not problems, "\n".join(problems)


# The checkers are checked


async def no_wait(store: Any) -> None:
    """Instead of waiting for the snapshots that are in use."""


def learn_anything(self: ObjectCache, entries: dict[str, Any], key: str, raw: bytes | None) -> Any:
    value = ABSENT if raw is None else restore(raw)
    self.values[key] = value
    return value


def fetch_with_the_gate_open(original: Any) -> Any:
    def wait_fetched(self: Activation, begin: Callable[[Done], object], finish: Any, concurrent: bool) -> Any:
        return original(self, begin, finish, True)

    return wait_fetched


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (Checkpointer, "_reads_over", staticmethod(no_wait)),
        (ObjectCache, "learn", learn_anything),
        (Activation, "wait_fetched", fetch_with_the_gate_open(Activation.wait_fetched)),
    ],
    ids=["checkpoints_do_not_wait_for_snapshots", "what_was_read_replaces_what_is_newer", "the_gate_stays_open"],
)
def test_a_broken_rule_of_waiting_reads_is_noticed(where: type, name: str, wrong: Any) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(where, name, wrong))
        assert any(judged(seed) for seed in range(5_000, 5_300))
