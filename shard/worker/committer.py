"""Makes group commits durable: on the loop thread while the disk is fast, in a helper thread when it is not.

Guarantee: one commit at a time; the host is told of its end exactly once.

Where the disk syncs in a fraction of a millisecond, waiting for it costs less than handing the work to a thread and back
(p50 0.35 ms against 0.47 ms for one call at a time). Where it takes long, waiting would stall calls that write nothing. So
the measured duration decides, with some distance between the two thresholds so that it does not flap.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.runtime.errors import OperatorError
from tidegate.shard.core.output_gate import PendingCommit
from tidegate.shard.host.host import Host
from tidegate.shard.log.commit_log import LogBroken, LogFull
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.worker_store import WorkerStore

INLINE_BELOW_S = 0.000_6
HELPER_ABOVE_S = 0.001_5
PROBES = 4
"""Commits made in the helper thread before the duration is believed."""
ROOM_TIMEOUT_S = 5.0
"""How long a commit waits for a checkpoint to make room in a full log before it fails; it fails at once when that cannot."""
SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class CommitterStatistics:
    inline: bool
    sync_us: int
    """Moving average of one append with its sync."""


class Committer:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, host: Host, store: WorkerStore, broken: Callable[[OperatorError], None]
    ) -> None:
        """`broken`: the log is unusable, the worker must end. Its callers have been answered by then."""
        self._loop = loop
        self._host = host
        self._store = store
        self._broken = broken
        self._inline = False
        self._average_s = 0.0
        self._samples = 0
        self._jobs: queue.SimpleQueue[tuple[PendingCommit, bytes] | None] = queue.SimpleQueue()
        """Commits and their records."""
        self._helper = threading.Thread(target=self._help, name="tidegate-commit", daemon=True)
        self._helper.start()
        self._refused = 0
        self._say_at_s = 0.0

    def statistics(self) -> CommitterStatistics:
        return CommitterStatistics(self._inline, round(self._average_s * 1e6))

    @property
    def will_block(self) -> bool:
        """Whether `commit_if_due` will wait for the disk."""
        return self._inline and self._host.output_gate.can_cut

    def commit_if_due(self) -> None:
        """To be called at the end of a turn."""
        host = self._host
        while host.output_gate.can_cut:
            commit = host.cut()
            record = encode_record(CommitRecord(int(time.time() * 1_000), commit.shards))
            if not self._inline:
                self._jobs.put((commit, record))
                return
            started_s = time.perf_counter()
            try:
                position = self._store.append(record)
            except LogFull as exc:
                self._make_room(commit, record, exc)
                return
            except Exception as exc:
                self._fail(commit, _as_broken(exc))
                return
            self._observe(time.perf_counter() - started_s)
            self._succeed(commit, position)

    def close(self) -> None:
        """Nothing may be in flight."""
        self._jobs.put(None)
        self._helper.join()

    # In the helper thread

    def _help(self) -> None:
        while (job := self._jobs.get()) is not None:
            commit, record = job
            started_s = time.perf_counter()
            try:
                position = self._store.append(record)
            except Exception as exc:
                error = exc if isinstance(exc, LogFull) else _as_broken(exc)
                self._loop.call_soon_threadsafe(self._helper_failed, commit, record, error, context=NEUTRAL)
            else:
                elapsed_s = time.perf_counter() - started_s
                self._loop.call_soon_threadsafe(self._helped, commit, position, elapsed_s, context=NEUTRAL)

    # On the loop thread

    def _helped(self, commit: PendingCommit, position: int, elapsed_s: float) -> None:
        self._observe(elapsed_s)
        self._succeed(commit, position)
        self._host.turn.end_soon()

    def _helper_failed(self, commit: PendingCommit, record: bytes, error: LogFull | LogBroken) -> None:
        if isinstance(error, LogFull):
            self._make_room(commit, record, error)
        else:
            self._fail(commit, error)

    def _observe(self, elapsed_s: float) -> None:
        self._samples += 1
        self._average_s += (elapsed_s - self._average_s) / min(self._samples, 16)
        if self._inline:
            self._inline = self._average_s < HELPER_ABOVE_S
        elif self._samples >= PROBES:
            self._inline = self._average_s < INLINE_BELOW_S

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
