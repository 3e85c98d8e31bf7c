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

from tests.sim import processes
from tests.sim.simulation import Result, simulate
from tidegate.shard.core import alarms
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.values import ABSENT, restore
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.waiting import WaitingRoom
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.checkpoints.checkpoint import Checkpointer
from tidegate.shard.store.interface import Done, Fetch, ShardCommit, Snapshot
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.state.thread_reader import look_up
from tidegate.shard.store.store import NotInMemory, ShardStore
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.testing.virtual_loop import ProcessLoop

SEEDS = 40
SEEDS_FULL = 2_000
SLOW_READ_S = 0.05
Patch = Callable[..., None]
READS: list[int] = [0]
"""Made by readers so far."""


class HelperReader:
    """What `ThreadReader` does, in the helper threads of a simulated process. One read in ten meets a slow disk."""

    def __init__(self, loop: ProcessLoop, random: Random) -> None:
        self._loop = loop
        self._random = random

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
        READS[0] += 1
        answer = partial(self._answer, snapshot, fetch, done)
        slow = self._random.random() < 0.1
        self._loop._time.after(self._random.random() * SLOW_READ_S * slow, self._loop.run_in_helper, answer)

    def _answer(self, snapshot: Snapshot, fetch: Fetch, done: Done) -> None:
        self._loop.call_soon_threadsafe(done, *look_up(snapshot, fetch), context=NEUTRAL)


class ChangingStore(WorkerStore):
    """Its shards come into memory and leave it, whenever a commit has been applied."""

    random: Random

    def __init__(self, states: Any, log: Any, *args: Any) -> None:
        super().__init__(states, log, *args)
        self._helper_reader = HelperReader(log._loop, self.random)
        for shard, store in self.shards.items():
            store.reader = store.apart = self._helper_reader
            store.state.waits_at = 1 + shard % 4  # type: ignore[attr-defined]  # It is a MemoryState.

    def applied(self, position: int, commits: Sequence[ShardCommit], record_bytes: int = 0) -> None:
        super().applied(position, commits, record_bytes)
        for store in self.shards.values():
            if self.random.random() < 0.1:
                store.reader = None if store.reader is not None else self._helper_reader


def simulate_cold(seed: int, **options: Any) -> Result:
    random = Random(seed)
    changing = type("SeededStore", (ChangingStore,), {"random": random})
    window = random.choice((1, 2, 1_000))
    with mock.patch.object(processes, "WorkerStore", changing), mock.patch.object(alarms, "WINDOW_ROWS", window):
        return simulate(seed, **options)


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


def checkpoints_do_not_wait_for_snapshots(patch: Patch) -> None:
    async def no_wait(store: Any) -> None:
        """Instead of waiting for the snapshots that are in use."""

    patch(Checkpointer, "_reads_over", staticmethod(no_wait))


def what_was_read_replaces_what_is_newer(patch: Patch) -> None:
    def learn(self: ObjectCache, entries: dict[str, Any], key: str, raw: bytes | None) -> Any:
        value = self.values[key] = ABSENT if raw is None else restore(raw)
        return value

    patch(ObjectCache, "learn", learn)


def the_gate_stays_open(patch: Patch) -> None:
    original = Activation.wait_fetched

    def wait_fetched(self: Activation, begin: Callable[[Done], object], finish: Any, concurrent: bool) -> Any:
        return original(self, begin, finish, True)

    patch(Activation, "wait_fetched", wait_fetched)


def calls_that_wait_for_a_header_are_overtaken(patch: Patch) -> None:
    """What the simulation found when it was new, brought back."""
    original = WaitingRoom.takes

    def takes(self: WaitingRoom, object_key: bytes, call: Any) -> bool:
        if self.stalled and object_key in self._reading:
            self.stall(call)
            return True
        return original(self, object_key, call)

    patch(WaitingRoom, "takes", takes)


def ranges_that_the_loop_cannot_end_are_cut(patch: Patch) -> None:
    original = MemoryState.scan

    def scan(self: MemoryState, *arguments: Any, may_wait: bool = True) -> Any:
        with contextlib.suppress(NotInMemory):
            yield from original(self, *arguments, may_wait=may_wait)

    patch(MemoryState, "scan", scan)


def ranges_lack_what_is_in_memory_only(patch: Patch) -> None:
    patch(ShardStore, "_written", staticmethod(lambda *_: []))


def deletes_of_what_is_on_disk_only_say_that_it_was_not_there(patch: Patch) -> None:
    patch(ObjectCache, "delete", lambda self, key, *, confirmed=True: bool(delete(self, key, confirmed=confirmed) is True))


delete = ObjectCache.delete
VARIANTS: dict[Callable[[Patch], None], set[str]] = {
    checkpoints_do_not_wait_for_snapshots: {"error"},  # The state refuses, and the worker ends.
    what_was_read_replaces_what_is_newer: {"reading", "atomicity"},
    the_gate_stays_open: {"unique", "atomicity"},
    calls_that_wait_for_a_header_are_overtaken: {"order"},
    ranges_that_the_loop_cannot_end_are_cut: {"reading"},
    ranges_lack_what_is_in_memory_only: {"reading"},
    deletes_of_what_is_on_disk_only_say_that_it_was_not_there: {"reading"},
}


NOTICED_LATE: dict[Callable[[Patch], None], int] = {calls_that_wait_for_a_header_are_overtaken: 5_199}
"""Where the search begins: a seed that noticed it when that was looked for."""


def _patch(stack: contextlib.ExitStack, where: type, name: str, wrong: Any) -> None:
    stack.enter_context(mock.patch.object(where, name, wrong))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_a_broken_rule_of_waiting_reads_is_noticed(variant: Callable[[Patch], None]) -> None:
    for seed in sorted(range(5_000, 5_300), key=lambda seed: seed < NOTICED_LATE.get(variant, 0)):
        with contextlib.ExitStack() as stack:
            variant(partial(_patch, stack))
            problems = simulate_cold(seed, patience_s=20.0).problems
        if {problem.partition(":")[0] for problem in problems} & VARIANTS[variant]:
            return
    pytest.fail("300 seeds and nobody noticed")
