"""Makes group commits durable: what does not wait for the disk does not wait long, however slow it becomes.

Guarantee: one commit at a time; the host is told of its end exactly once. The loop never waits longer than `PATIENCE_MS` for one;
then it goes on: calls that write nothing, and what the supervisor asks.

While the disk has been fast, the loop writes the record and the kernel syncs it, for which the loop waits. Without that the
callers in flight fall into two halves, of which one waits for the other's sync, and a thread costs five more switches a commit:
one call at a time took 0.35 ms instead of 0.28, and 64 callers had a quarter fewer calls a second. The sync is not the loop's
own, because nobody knows beforehand which one will take long: one of 36 s held up every object of its worker, and the worker was
killed for it. Where a record would have to wait, the disk has been slow, or the kernel takes no orders, a helper thread does it.
A log that servers keep has a thread of its own, to which each commit goes; there, the next one waits a moment for those who were
answered with the last (`gathering`).

How fast the disk is, the loop finds out itself, by every commit that the kernel syncs. What the helper takes says little: it has
to wait for the interpreter, half a millisecond where the loop is busy, so that a disk that was slow for a moment would be held to
be slow for ever. One commit in so many is synced by the kernel all the same, unless the disk is one that stalls (`slow_disk`): to
write, and to give the order, may wait for it as well. A kernel that refuses the order is like a slow disk: asked as seldom.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from tidegate.runtime.errors import ObjectReset, OperatorError
from tidegate.runtime.limits import HELD_BYTES_MAX, UNDURABLE_BYTES_MAX
from tidegate.runtime.wire.counts import NOTED_MAX, NUMBERS, SIZES, Counts, Histogram, rows
from tidegate.shard.core.output_gate import PendingCommit
from tidegate.shard.host.host import Host
from tidegate.shard.log.commit_log import LogBroken, LogFull
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import PartlyStored, ShardDamaged
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.worker_store import SharedLog, WorkerStore
from tidegate.shard.worker.gathering import CommitGathering
from tidegate.shard.worker.handover import Delegation, Handover
from tidegate.shard.worker.kernel_sync import KernelSync, SyncRefused
from tidegate.shard.worker.slow_disk import LOOK_S, SlowDisk

FAST_BELOW_S = 0.000_8
"""A disk that syncs in less is fast."""
COUNTED_S_MAX = 2 * FAST_BELOW_S
"""No sync counts for more: one of many that had to wait long, perhaps only for a processor, does not make the disk slow."""
ASK_AGAIN_COMMITS = 16
"""After so many commits a slow disk is asked whether it is fast. It costs the loop a write into the page cache, an order, and
`PATIENCE_MS` of waiting at most."""
PATIENCE_MS = 1
LOOP_WRITE_BYTES_MAX = 128 << 10
"""A larger record is the helper's: to copy a megabyte takes a millisecond, and its sync more."""
ROOM_TIMEOUT_S = 5.0
"""How long a commit waits for a checkpoint to make room in a full log before it fails; it fails at once when that cannot."""
SAY_EVERY_S = 10.0

log = logging.getLogger("tidegate")


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
        lost: Callable[[ShardDamaged], None],
    ) -> None:
        """`end_turn` ends a turn at once. `broken`: the log is unusable, the worker must end. Its callers have been answered by
        then. `lost`: this shard cannot be written by this worker any longer; those that had written have been answered."""
        self._loop = loop
        self._host = host
        self._store = store
        self._end_turn = end_turn
        self._broken = broken
        self._lost = lost
        self._average_s = 0.0
        self._kernels_s = 0.0
        """Moving average of those by the kernel, as far as they count."""
        self._by_helper = 0
        """Commits since the newest one that the kernel was asked to sync."""
        self._commits, self._syncs = Histogram(), Histogram()
        self._records, self._released = Histogram(SIZES), Histogram(NUMBERS)
        self._samples = 0
        self._commit: PendingCommit | None = None
        """In the hands of the helper, until the loop hears of its end."""
        self._record = b""
        self._began_s = 0.0
        self._outcome: int | LogFull | LogBroken | PartlyStored = 0
        """The position of the record, or what went wrong: written by the helper, read by the loop once it has been woken."""
        self._elapsed_s = 0.0
        self._slow_disk = SlowDisk()
        self._looking: asyncio.TimerHandle | None = None
        self._is_written = False
        """The record is, and has to be synced."""
        self._gathering = None if store.log.is_written_at_once else CommitGathering()
        self._gathered: asyncio.TimerHandle | None = None
        self._helper = self._new_helper()
        self._kernel = self._new_kernel()
        self._refused = 0
        self._say_at_s = 0.0
        self.without_room: dict[int, LogFull] = {}
        """By shard with a log of its own, why the last commit of it was refused."""

    def _new_helper(self) -> Handover | Delegation:
        if self._store.log.is_written_at_once:
            return Handover(self._loop, "tidegate-commit", self._append, self._appended)
        return Delegation(self._loop, self._begin, self._appended)

    def _new_kernel(self) -> KernelSync | None:
        """None: the helper makes every commit."""
        if not self._store.log.is_written_at_once:
            return None
        try:
            return KernelSync(self._loop, self._synced)
        except SyncRefused as exc:
            log.info("commits are synced by a thread: the kernel does not do that here (%s)", exc)
            return None

    def statistics(self) -> CommitterStatistics:
        return CommitterStatistics(round(self._average_s * 1e6), round(self.waits_s * 1e3))

    def counts(self) -> Counts:
        return {
            "commit_seconds": rows([((), self._commits)]),
            "sync_seconds": rows([((), self._syncs)]),
            "commit_bytes": rows([((), self._records)]),
            "commit_messages": rows([((), self._released)]),
        }

    @property
    def waits_s(self) -> float:
        """How long the append in flight has taken so far."""
        return 0.0 if self._commit is None else time.perf_counter() - self._began_s

    @property
    def slow_s(self) -> float:
        """How long the append in flight has taken, or a slow one took that is hardly over; 0: the disk does its work."""
        return self._slow_disk.slow_s(time.perf_counter())

    @property
    def will_wait(self) -> bool:
        """Whether `commit_if_due` will wait for the disk, if only for a moment."""
        return self._host.output_gate.is_due() and self._may_wait()

    def _may_wait(self) -> bool:
        """The kernel syncs the next commit, unless its record is large."""
        if self._kernel is None or (self._slow_disk.was_slow and self.slow_s):
            return False
        return self._kernels_s < FAST_BELOW_S or self._by_helper >= ASK_AGAIN_COMMITS

    def commit_if_due(self) -> None:
        """To be called at the end of a turn."""
        host = self._host
        while host.output_gate.is_due():
            if self._gathering is not None and self._gathers(self._gathering):
                return
            if self._gathered is not None:
                self._gathered.cancel()
                self._gathered = None
            commit = self._commit = host.cut()
            self._record = encode_record(CommitRecord(int(time.time() * 1_000), commit.shards, self._store.seqs_to_tell()))
            self._began_s = time.perf_counter()
            if not self._append_at_once():
                if self._looking is None:
                    self._looking = self._loop.call_later(LOOK_S, self._look, context=NEUTRAL)
                return
            self._ended()

    def _gathers(self, gathering: CommitGathering) -> bool:
        """Whether the next commit waits for more to come. One that nobody is answered with does not, nor one that others have to
        wait for before they are begun."""
        gate = self._host.output_gate
        if not gate.held or gate.open_bytes >= UNDURABLE_BYTES_MAX or gate.held_bytes >= HELD_BYTES_MAX:
            return False
        wait_s = gathering.wait_s(time.perf_counter(), len(gate.held))
        if wait_s and self._gathered is None:  # A shorter time the loop takes for none, and asks again at once.
            self._gathered = self._loop.call_later(max(wait_s, 0.001), self._have_gathered, context=NEUTRAL)
        return wait_s > 0

    def _gather_after(self, gathering: CommitGathering, commit: PendingCommit) -> None:
        gathering.committed(time.perf_counter(), self._elapsed_s, len(commit.held), len(self._host.output_gate.held))

    def _have_gathered(self) -> None:
        self._gathered = None
        self._end_turn()

    def _append_at_once(self) -> bool:
        """Whether the append has ended, for good or ill. Else somebody is at work on it."""
        self._is_written, kernel = False, self._kernel
        if kernel is not None and self._may_wait() and len(self._record) <= LOOP_WRITE_BYTES_MAX:
            try:
                fd = self._store.log.write(self._record)
            except Exception as exc:
                self._end(exc)
                return True
            if fd is not None:
                self._is_written = True
                try:
                    if not kernel.begin(fd, PATIENCE_MS):
                        return False
                except SyncRefused:
                    self._kernel_took(COUNTED_S_MAX)
                else:
                    self._take_result(kernel)
                    return True
        self._by_helper += 1
        self._helper.give()
        return False

    def close(self) -> None:
        """Nothing may be in flight."""
        for timer in (self._looking, self._gathered):
            if timer is not None:
                timer.cancel()
        self._helper.close()
        if self._kernel is not None:
            self._kernel.close()

    def _begin(self, ended: Callable[[], None]) -> None:
        def tell(outcome: int | BaseException) -> None:
            self._end(outcome)
            ended()

        cast("SharedLog", self._store.log).begin(self._record, tell)

    # In the helper thread, or that of the log

    def _append(self) -> None:
        try:
            self._end(self._store.log.sync() if self._is_written else self._store.append(self._record))
        except Exception as exc:
            self._end(exc)

    def _end(self, outcome: int | BaseException) -> None:
        self._elapsed_s = time.perf_counter() - self._began_s
        if outcome.__class__ is int or isinstance(outcome, int | LogFull | PartlyStored):
            self._outcome = outcome
        else:
            self._outcome = _as_broken(outcome)

    # On the loop thread

    def _look(self) -> None:
        self._looking = None
        if self._commit is not None:
            self._slow_disk.look(self._began_s, time.perf_counter())
            self._looking = self._loop.call_later(LOOK_S, self._look, context=NEUTRAL)

    def _take_result(self, kernel: KernelSync) -> None:
        try:
            self._end(self._store.log.synced(kernel.problem()))
        except Exception as exc:
            self._end(exc)
        self._kernel_took(self._elapsed_s)

    def _kernel_took(self, seconds: float) -> None:
        self._by_helper = 0
        self._kernels_s += ((seconds if seconds < COUNTED_S_MAX else COUNTED_S_MAX) - self._kernels_s) / 16

    def _synced(self) -> None:
        assert self._kernel is not None
        self._take_result(self._kernel)
        self._appended()

    def _appended(self) -> None:
        self._ended()
        if self._host.output_gate.is_due():
            self._host.turn.end_soon()  # With whatever has arrived by now.
        else:
            self._end_turn()

    def _ended(self) -> None:
        commit, self._commit = self._commit, None
        record, self._record, outcome = self._record, b"", self._outcome
        assert commit is not None
        if isinstance(outcome, int):
            if self._samples < 16:
                self._samples += 1
            elapsed_s = self._elapsed_s
            self._average_s += (elapsed_s - self._average_s) / self._samples
            self._syncs.noted.append(elapsed_s)
            self._records.noted.append(len(record))
            self._succeed(commit, outcome, len(record))
        elif isinstance(outcome, LogFull):
            self._make_room(commit, record, outcome)
        elif isinstance(outcome, LogBroken):
            self._fail(commit, outcome)
        else:
            self._succeed_partly(commit, outcome)

    def _succeed(self, commit: PendingCommit, position: int, record_bytes: int) -> None:
        """The stores first: what leaves then may be asked for again at once."""
        self._store.applied(position, commit.shards, record_bytes)
        if self.without_room:
            self._forget_room(commit)
        self._released.noted.append(len(commit.held))
        self._host.committed(commit)
        if self._gathering is not None:
            self._gather_after(self._gathering, commit)
        noted = self._commits.noted
        noted.append(time.perf_counter() - self._began_s)
        if len(noted) >= NOTED_MAX:
            for each in (self._commits, self._syncs, self._records, self._released):
                each.count_noted()

    def _succeed_partly(self, commit: PendingCommit, outcome: PartlyStored) -> None:
        failed = outcome.failed
        self._store.applied(outcome.position, [each for each in commit.shards if each.shard not in failed])
        told = {shard: ObjectReset(f"a write could not be made durable: {error}") for shard, error in failed.items()}
        self._host.committed_but_for(commit, told)
        if self._gathering is not None:
            self._gather_after(self._gathering, commit)
        self._forget_room(commit)
        for shard, error in failed.items():
            if isinstance(error, ShardDamaged):
                self._lost(error)
            else:
                self._say_refused(error)
                if isinstance(error, LogFull):
                    self.without_room[shard] = error

    def _forget_room(self, commit: PendingCommit) -> None:
        """What is known of its shards is what has become of this one."""
        for each in commit.shards:
            self.without_room.pop(each.shard, None)

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
            self._succeed(commit, position, len(record))
        self._host.turn.end_soon()

    def _say_refused(self, problem: OperatorError) -> None:
        """Now and then: whoever wrote is told each time."""
        self._refused += 1
        now_s = self._loop.time()
        if now_s >= self._say_at_s:
            self._say_at_s = now_s + SAY_EVERY_S
            many = f"{self._refused} commits were" if self._refused > 1 else "a commit was"
            log.error("%s refused: %s", many, problem)
            self._refused = 0

    def _fail(self, commit: PendingCommit, error: LogBroken) -> None:
        self._host.commit_failed(commit, str(error))
        self._broken(error)


def _as_broken(error: BaseException) -> LogBroken:
    """Whatever it was: what of the record has reached the disk is unknown, and without an end the commit would never end."""
    if isinstance(error, LogBroken):
        return error
    return LogBroken("append", "the commit log", repr(error), "this worker restarts and recovers what is durable")
