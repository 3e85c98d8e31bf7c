"""Makes group commits durable, in a helper thread: whoever does not wait for the disk never does, however slow it becomes.

Guarantee: one commit at a time; the host is told of its end exactly once. The loop goes on meanwhile: calls that write nothing,
and what the supervisor asks.

A sync on the loop itself would spare two switches between threads, 4 % of the time of a call that comes alone. But nobody knows
beforehand which sync will take long: one that took 36 s held up every object of its worker, and the worker was killed for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import SLOW_DISK_KEPT_S, SLOW_DISK_S
from tidegate.shard.core.output_gate import PendingCommit
from tidegate.shard.host.host import Host
from tidegate.shard.log.commit_log import LogBroken, LogFull
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker.handover import Handover

ROOM_TIMEOUT_S = 5.0
"""How long a commit waits for a checkpoint to make room in a full log before it fails; it fails at once when that cannot."""
SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class CommitterStatistics:
    sync_us: int
    """Moving average of one append with its sync."""
    sync_waits_ms: int
    """How long the append in flight has taken so far; 0: none is in flight, or it has just begun."""


class Committer:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: Host,
        store: WorkerStore,
        end_turn: Callable[[], None],
        broken: Callable[[OperatorError], None],
    ) -> None:
        """`end_turn` ends a turn at once. `broken`: the log is unusable, the worker must end. Its callers have been answered by
        then."""
        self._loop = loop
        self._host = host
        self._store = store
        self._end_turn = end_turn
        self._broken = broken
        self._average_s = 0.0
        self._samples = 0
        self._commit: PendingCommit | None = None
        """In the hands of the helper, until the loop hears of its end."""
        self._record = b""
        self._began_s = 0.0
        self._outcome: int | LogFull | LogBroken = 0
        """The position of the record, or what went wrong: written by the helper, read by the loop once it has been woken."""
        self._elapsed_s = 0.0
        self._slow_s = self._slow_until_s = 0.0
        self._helper = Handover(loop, "tidegate-commit", self._append, self._appended)
        self._refused = 0
        self._say_at_s = 0.0

    def statistics(self) -> CommitterStatistics:
        waits_s = 0.0 if self._commit is None else time.perf_counter() - self._began_s
        return CommitterStatistics(round(self._average_s * 1e6), round(waits_s * 1e3))

    @property
    def slow_s(self) -> float:
        """How long the append in flight has taken, or a slow one took that is hardly over; 0: the disk does its work."""
        now_s = time.perf_counter()
        if self._commit is not None and now_s - self._began_s >= SLOW_DISK_S:
            return now_s - self._began_s
        return self._slow_s if now_s < self._slow_until_s else 0.0

    def commit_if_due(self) -> None:
        """To be called at the end of a turn."""
        host = self._host
        if host.output_gate.can_cut:
            commit = self._commit = host.cut()
            self._record = encode_record(CommitRecord(int(time.time() * 1_000), commit.shards, self._store.seqs_to_tell()))
            self._began_s = time.perf_counter()
            self._helper.give()

    def close(self) -> None:
        """Nothing may be in flight."""
        self._helper.close()

    # In the helper thread

    def _append(self) -> None:
        try:
            self._outcome = self._store.append(self._record)
        except Exception as exc:
            self._outcome = exc if isinstance(exc, LogFull) else _as_broken(exc)
        self._elapsed_s = time.perf_counter() - self._began_s

    # On the loop thread

    def _appended(self) -> None:
        commit, record, outcome = self._commit, self._record, self._outcome
        assert commit is not None
        self._commit, self._record = None, b""
        if self._elapsed_s >= SLOW_DISK_S:
            self._slow_s, self._slow_until_s = self._elapsed_s, time.perf_counter() + SLOW_DISK_KEPT_S
        if isinstance(outcome, LogFull):
            self._make_room(commit, record, outcome)
        elif isinstance(outcome, LogBroken):
            self._fail(commit, outcome)
        else:
            self._samples += 1
            self._average_s += (self._elapsed_s - self._average_s) / min(self._samples, 16)
            self._succeed(commit, outcome)
            if self._host.output_gate.can_cut:
                self._host.turn.end_soon()  # With whatever has arrived by now.
            else:
                self._end_turn()

    def _succeed(self, commit: PendingCommit, position: int) -> None:
        """The stores first: what leaves then may be asked for again at once."""
        self._store.applied(position, commit.shards)
        self._host.committed(commit)

    def _make_room(self, commit: PendingCommit, record: bytes, problem: LogFull) -> None:
        """The log is full. The commit stays in flight while a checkpoint empties the log; then it is tried once more."""
        task = self._loop.create_task(self._checkpoint_and_retry(commit, record, problem), context=NEUTRAL)
        task.add_done_callback(lambda task: task.exception())

    async def _checkpoint_and_retry(self, commit: PendingCommit, record: bytes, problem: LogFull) -> None:
        try:
            async with asyncio.timeout(ROOM_TIMEOUT_S):
                await self._store.checkpointer.make_room()
            position = await asyncio.to_thread(self._store.append, record)
        except LogBroken as exc:
            self._fail(commit, exc)
            return
        except (OperatorError, TimeoutError):
            self._say_refused(problem)
            self._store.checkpointer.found_no_room(problem)
            self._host.commit_failed(commit, str(problem))
        except Exception as exc:
            self._fail(commit, _as_broken(exc))
            return
        else:
            self._succeed(commit, position)
        self._host.turn.end_soon()

    def _say_refused(self, problem: LogFull) -> None:
        """Now and then: whoever wrote is told each time."""
        self._refused += 1
        now_s = self._loop.time()
        if now_s >= self._say_at_s:
            self._say_at_s = now_s + SAY_EVERY_S
            many = f"{self._refused} commits were" if self._refused > 1 else "a commit was"
            logging.getLogger("tidegate").error("%s refused: %s", many, problem)
            self._refused = 0

    def _fail(self, commit: PendingCommit, error: LogBroken) -> None:
        self._host.commit_failed(commit, str(error))
        self._broken(error)


def _as_broken(error: Exception) -> LogBroken:
    """Whatever it was: what of the record has reached the disk is unknown, and without an end the commit would never end."""
    if isinstance(error, LogBroken):
        return error
    return LogBroken("append", "the commit log", repr(error), "this worker restarts and recovers what is durable")
