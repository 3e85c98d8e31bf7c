"""Commits on a disk that is fast, slow, full or broken: one at a time, and the host is told of the end of each exactly once."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.begun_appends import BegunAppends
from tests.support.host_world import Call, World
from tests.support.objects import Thing
from tests.support.records import decode_record
from tests.support.waiting import wait_until_in_loop
from tidegate.runtime.errors import ObjectReset, OperatorError
from tidegate.shard.log.commit_log import LogBroken, LogFull
from tidegate.shard.store.interface import PartlyStored, ShardCommit, ShardDamaged
from tidegate.shard.store.record import CommitRecord
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker import committer, gathering, slow_disk
from tidegate.shard.worker.committer import Committer
from tidegate.shard.worker.kernel_sync import KernelSync, SyncRefused


class Disk(BegunAppends):
    """A commit log that does what the test wrote into its script, and then what it is asked. What is in the script, the helper
    does, unless `writes` says so."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.writes = False
        self.is_written_at_once = True
        self.written = b""
        self.script: deque[Callable[[], None]] = deque()
        self.records: list[CommitRecord] = []
        self.threads: list[int] = []
        """Of appends that are over."""
        self.writers: list[int] = []
        """Of calls of `write`."""
        self.checkpoints = 0
        self.log = self.checkpointer = self

    def append(self, record: bytes) -> int:
        self.threads.append(threading.get_ident())
        if self.script:
            self.script.popleft()()
        self.records.append(decode_record(record))
        return len(self.records)

    def write(self, record: bytes) -> int | None:
        self.writers.append(threading.get_ident())
        if self.script and not self.writes:
            return None
        if self.script:
            self.script.popleft()()
        self.written = record
        self.file.write(record)
        self.file.flush()
        return self.file.fileno()

    def sync(self) -> int:
        return self.synced(None)

    def synced(self, error: Exception | None) -> int:
        if error is not None:
            raise LogBroken("append", "log", str(error), "restart")
        return self.append(self.written)

    async def make_room(self) -> None:
        self.checkpoints += 1

    def found_no_room(self, problem: OperatorError) -> None:
        self.no_room = problem

    def seqs_to_tell(self) -> dict[int, int]:
        return {}

    def applied(self, position: int, commits: Sequence[ShardCommit], record_bytes: int = 0) -> None:
        self.world.applied(position, commits)


def full() -> None:
    raise LogFull("append", "log", "every segment is in use", "wait")


def broken() -> None:
    raise LogBroken("append", "log", "I/O error", "restart")


def strange() -> None:
    raise MemoryError("nobody expects it")


class DiskWorld(World):
    """Its commits are made by a real committer."""

    def __init__(self, *, is_written_at_once: bool = True) -> None:
        super().__init__(Thing)
        self.disk = Disk(self)
        self.disk.is_written_at_once = is_written_at_once
        self.would_wait: list[bool] = []
        """By turn."""
        self.trouble: list[OperatorError] = []
        self.committer = Committer(
            self.loop, self.host, cast("WorkerStore", self.disk), self.host.turn.end, self.trouble.append, self.trouble.append
        )

    def _end_turn(self) -> None:
        self.would_wait.append(self.committer.will_wait)
        self.committer.commit_if_due()

    async def put(self, value: Any, name: str = "a") -> None:
        await self.ask(Thing, name, "put", "k", value)


async def answers(calls: list[Call]) -> list[type[BaseException] | None]:
    return [type(error) if (error := (await asyncio.wait([call.reply]) and call.reply.exception())) else None for call in calls]


def syncs_slowly(made: DiskWorld) -> None:
    """Like a disk that has done so for a while."""
    made.committer._kernels_s = 1.0
    made.committer._by_helper = 0


async def test_the_kernel_syncs_on_a_fast_disk_and_no_thread_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "FAST_BELOW_S", 60.0)  # Others may be at work on this one.
    made = DiskWorld()
    for number in range(100):
        await made.put(number)
    assert made.disk.threads == [threading.get_ident()] * 100
    assert made.committer.statistics().sync_us > 0
    made.committer.close()


async def test_no_commit_is_made_on_the_loop_thread_once_the_disk_is_slow() -> None:
    made = DiskWorld()
    for number in range(100):
        syncs_slowly(made)
        await made.put(number)
    assert len(made.disk.threads) == 100
    assert threading.get_ident() not in made.disk.threads
    made.committer.close()


async def test_a_large_record_is_written_by_the_helper_however_fast_the_disk_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "FAST_BELOW_S", 60.0)
    made = DiskWorld()
    await made.put(b"x" * (committer.LOOP_WRITE_BYTES_MAX // 2))
    await made.put(b"x" * committer.LOOP_WRITE_BYTES_MAX)
    here = threading.get_ident()
    assert [thread == here for thread in made.disk.threads] == [True, False]
    made.committer.close()


async def test_a_kernel_that_takes_no_orders_leaves_the_sync_to_the_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise SyncRefused("no more orders")

    monkeypatch.setattr(KernelSync, "begin", refuse)
    made = DiskWorld()
    await made.put("kept")
    assert made.durable(Thing, "a") == {"k": "kept"}
    assert threading.get_ident() not in made.disk.threads
    made.committer.close()
    monkeypatch.setattr(KernelSync, "__init__", refuse)
    made = DiskWorld()
    await made.put("kept")
    assert threading.get_ident() not in made.disk.threads
    made.committer.close()


async def test_a_kernel_that_never_takes_orders_is_asked_by_one_commit_in_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop would write every record, however slow the disk is that the helper waits for."""

    def refuse(*_: Any) -> None:
        raise SyncRefused("no more orders")

    monkeypatch.setattr(KernelSync, "begin", refuse)
    made = DiskWorld()
    commits = 0
    while made.committer._kernels_s < committer.FAST_BELOW_S:
        await made.put(commits)
        commits += 1
        assert commits <= 100
    asked = len(made.disk.writers)
    assert asked == commits, "once refused it may be taken the next time"
    for number in range(3 * (committer.ASK_AGAIN_COMMITS + 1)):
        await made.put(number)
    assert len(made.disk.writers) == asked + 3
    made.committer.close()


async def test_a_log_that_is_never_written_at_once_is_not_waited_for_by_the_loop() -> None:
    made = DiskWorld(is_written_at_once=False)
    for number in range(2 * committer.ASK_AGAIN_COMMITS):
        await made.put(number)
    assert not any(made.would_wait)
    assert made.disk.writers == []
    assert threading.get_ident() not in made.disk.threads
    made.committer.close()


async def call_beside_a_commit(made: DiskWorld) -> Call:
    """One that waits for the next commit. The caller of the one before has just been answered."""
    under_way, go_on = threading.Event(), threading.Event()

    def waits() -> None:
        under_way.set()
        assert go_on.wait(60.0)

    made.disk.script.append(waits)
    first = made.call(Thing, "a", "put", "k", 1)
    await asyncio.to_thread(under_way.wait, 60.0)
    second = made.call(Thing, "b", "put", "k", 1)
    await asyncio.sleep(0)
    go_on.set()
    await first.reply
    return second


async def test_a_log_with_a_thread_of_its_own_gathers_those_who_were_answered_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "SHARE", 1e9)
    monkeypatch.setattr(gathering, "GATHER_S_MAX", 60.0)
    made = DiskWorld(is_written_at_once=False)
    second = await call_beside_a_commit(made)
    assert not second.reply.done()
    third = made.call(Thing, "a", "put", "k", 2)
    await asyncio.wait_for(asyncio.gather(second.reply, third.reply), 30.0)
    assert len(made.disk.records) == 2, "both in one"
    made.committer.close()


async def test_who_is_not_joined_by_those_who_were_answered_is_committed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "SHARE", 1e9)
    made = DiskWorld(is_written_at_once=False)
    second = await call_beside_a_commit(made)
    await second.reply
    assert len(made.disk.records) == 2
    made.committer.close()


class LongSync:
    """A kernel whose syncs end when the test says so."""

    def __init__(self, _: Any, done: Callable[[], None]) -> None:
        self.done = done
        self.error: Exception | None = None
        self.under_way = False

    def begin(self, fd: int, patience_ms: int) -> bool:
        self.under_way = True
        return False

    def problem(self) -> Exception | None:
        return self.error

    def close(self) -> None:
        pass


@pytest.fixture
def long_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "KernelSync", LongSync)
    monkeypatch.setattr(committer, "FAST_BELOW_S", 60.0)  # Long as it is, the thread is not to take over.


class QuickSync(LongSync):
    """One that waits for their ends."""

    def begin(self, fd: int, patience_ms: int) -> bool:
        return True


async def test_a_disk_that_was_slow_is_found_to_be_fast_again_by_one_commit_in_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "KernelSync", QuickSync)
    monkeypatch.setattr(committer, "FAST_BELOW_S", 60.0)
    made = DiskWorld()
    made.committer._kernels_s = 120.0
    here, commits = threading.get_ident(), 0
    while made.committer._kernels_s >= committer.FAST_BELOW_S:
        await made.put(commits)
        commits += 1
        assert commits <= 1_000
    by_kernel = [number for number, thread in enumerate(made.disk.threads, 1) if thread == here]
    every = committer.ASK_AGAIN_COMMITS + 1
    assert by_kernel == list(range(every, commits + 1, every))
    await made.put(commits)
    assert made.disk.threads[-1] == here
    made.committer.close()


async def test_one_sync_of_many_that_takes_long_does_not_make_the_disk_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "KernelSync", QuickSync)
    monkeypatch.setattr(committer, "FAST_BELOW_S", 60.0)
    monkeypatch.setattr(committer, "COUNTED_S_MAX", 120.0)
    made = DiskWorld()

    def begin(*_: object) -> bool:
        if len(made.disk.records) % 8 == 0:
            made.committer._began_s -= 10_000.0
        return True

    monkeypatch.setattr(QuickSync, "begin", begin)
    for number in range(100):
        await made.put(number)
    assert made.disk.threads == [threading.get_ident()] * 100
    made.committer.close()


async def test_calls_that_write_nothing_are_answered_while_the_kernel_syncs(long_sync: None) -> None:
    made = DiskWorld()
    kernel = cast("LongSync", made.committer._kernel)
    writing = made.call(Thing, "a", "put", "k", 1)
    assert await made.ask(Thing, "b", "put_nothing") == "nothing"
    assert kernel.under_way
    later = made.call(Thing, "b", "put", "k", 2)
    await made.settle()
    assert not writing.answered
    assert not later.answered
    kernel.done()
    await writing.reply
    await made.settle()
    assert not later.answered, "it is in the next commit"
    kernel.done()
    await later.reply
    made.committer.close()


async def test_a_sync_that_fails_in_the_kernel_answers_everybody_and_ends_the_worker(long_sync: None) -> None:
    made = DiskWorld()
    kernel = cast("LongSync", made.committer._kernel)
    call = made.call(Thing, "a", "put", "k", 1)
    await made.settle()
    kernel.error = SystemError("Input/output error")
    kernel.done()
    with pytest.raises(ObjectReset, match="Input/output error"):
        await call.reply
    assert len(made.trouble) == 1


@pytest.mark.parametrize("fault", [broken, strange])
async def test_a_log_that_breaks_as_the_loop_writes_to_it_ends_the_worker(fault: Callable[[], None]) -> None:
    made = DiskWorld()
    made.disk.writes = True
    made.disk.script.append(fault)
    with pytest.raises(ObjectReset, match="durable"):
        await made.put("lost")
    await made.settle()
    assert len(made.trouble) == 1


async def test_a_log_that_is_full_as_the_loop_writes_to_it_is_emptied_by_a_checkpoint() -> None:
    made = DiskWorld()
    made.disk.writes = True
    made.disk.script.append(full)
    await made.put("kept")
    assert made.disk.checkpoints == 1
    assert made.durable(Thing, "a") == {"k": "kept"}
    made.committer.close()


async def test_what_is_written_in_one_turn_is_one_append_and_what_comes_during_it_is_the_next() -> None:
    made = DiskWorld()
    calls = [made.call(Thing, str(number), "put", "k", number) for number in range(20)]
    await made.ask_all(calls)
    records = made.disk.records
    written = [writes.key for record in records for shard in record.shards for writes in shard.objects]
    assert len(written) == len(set(written)) == 20
    assert len(records) <= 20
    assert made.position == len(made.disk.records)
    made.committer.close()


@pytest.fixture
def soon_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_disk, "SLOW_DISK_S", 0.3)
    monkeypatch.setattr(slow_disk, "SLOW_DISK_KEPT_S", 0.5)


async def test_a_disk_that_is_slow_is_said_while_a_commit_waits_and_for_a_while_after(soon_slow: None) -> None:
    made, may_end = DiskWorld(), threading.Event()
    await made.put("fast")
    assert made.committer.slow_s == 0

    def wait() -> None:
        may_end.wait()

    made.disk.script.append(wait)
    call = made.call(Thing, "a", "put", "k", "slow")
    await wait_until_in_loop(lambda: made.committer.slow_s > 0, "the disk to be called slow")
    assert not call.answered
    may_end.set()
    await made.ask_all([call])
    assert made.committer.slow_s >= 0.3
    await wait_until_in_loop(lambda: made.committer.slow_s == 0, "the disk to be called fast again")
    made.committer.close()


@pytest.mark.parametrize("was_fast", [True, False])
async def test_a_disk_that_stalls_is_not_written_to_by_the_loop_until_it_has_not_for_a_while(
    monkeypatch: pytest.MonkeyPatch, was_fast: bool
) -> None:
    """Its answer to when it is over is the test's (`SlowDisk` has tests of its own)."""
    monkeypatch.setattr(committer, "KernelSync", QuickSync)
    monkeypatch.setattr(committer, "FAST_BELOW_S", 60.0)
    made = DiskWorld()
    if not was_fast:
        made.committer._kernels_s = 120.0
    monkeypatch.setattr(slow_disk.SlowDisk, "was_slow", True)
    monkeypatch.setattr(slow_disk.SlowDisk, "slow_s", lambda *_: 4.0)
    for number in range(2 * committer.ASK_AGAIN_COMMITS):
        await made.put(number)
    assert not any(made.would_wait)
    assert made.disk.writers == []
    monkeypatch.setattr(slow_disk.SlowDisk, "slow_s", lambda *_: 0.0)
    await made.put("fast again")
    assert made.disk.writers == [threading.get_ident()]
    made.committer.close()


async def test_code_that_holds_up_the_loop_during_a_sync_does_not_make_the_disk_a_slow_one(
    long_sync: None, soon_slow: None
) -> None:
    """The sync is over at once; the loop cannot hear of it."""
    made = DiskWorld()
    kernel = cast("LongSync", made.committer._kernel)
    call = made.call(Thing, "a", "put", "k", 1)
    await made.settle()
    assert kernel.under_way
    time.sleep(0.5)  # noqa: ASYNC251  # what it is about
    assert made.committer.slow_s == 0
    kernel.done()
    await call.reply
    assert made.committer.slow_s == 0
    made.committer.close()


async def test_a_full_log_is_emptied_by_a_checkpoint_and_the_commit_succeeds() -> None:
    made = DiskWorld()
    made.disk.script.append(full)
    await made.put("kept")
    assert made.disk.checkpoints == 1
    assert made.durable(Thing, "a") == {"k": "kept"}
    assert made.trouble == []
    made.committer.close()


async def test_a_log_that_stays_full_refuses_one_commit_and_takes_the_next() -> None:
    made = DiskWorld()
    made.disk.script += [full, full]
    with pytest.raises(ObjectReset, match="every segment is in use"):
        await made.put("refused")
    await made.put("kept")
    assert made.durable(Thing, "a") == {"k": "kept"}
    assert made.trouble == []
    made.committer.close()


@pytest.mark.parametrize("fault", [broken, strange])
async def test_a_log_that_breaks_answers_everybody_and_ends_the_worker(fault: Callable[[], None]) -> None:
    made = DiskWorld()
    made.disk.script.append(fault)
    with pytest.raises(ObjectReset, match="durable"):
        await made.put("lost")
    await made.settle()
    assert len(made.trouble) == 1
    assert made.host.output_gate.in_flight is None


async def test_a_log_that_breaks_at_the_second_try_ends_the_worker_too() -> None:
    made = DiskWorld()
    made.disk.script += [full, broken]
    with pytest.raises(ObjectReset):
        await made.put("lost")
    await made.settle()
    assert len(made.trouble) == 1


async def test_a_checkpoint_that_takes_too_long_fails_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.worker.committer.ROOM_TIMEOUT_S", 0.01)
    made = DiskWorld()

    async def for_ever() -> None:
        await asyncio.sleep(60)

    made.disk.checkpointer = cast("Any", SimpleNamespace(make_room=for_ever, found_no_room=lambda problem: None))
    made.disk.script.append(full)
    with pytest.raises(ObjectReset):
        await made.put("refused")
    await made.put("kept")
    assert made.durable(Thing, "a") == {"k": "kept"}
    made.committer.close()


async def test_calls_that_write_nothing_are_answered_while_a_slow_commit_is_made() -> None:
    made = DiskWorld()
    gate = threading.Event()
    made.disk.script.append(lambda: cast("None", gate.wait(5)))
    writing = made.call(Thing, "a", "put", "k", 1)
    assert await made.ask(Thing, "b", "put_nothing") == "nothing"
    assert not writing.answered
    while made.committer.statistics().sync_waits_ms == 0:
        await asyncio.sleep(0.001)
    gate.set()
    await writing.reply
    made.committer.close()


async def test_what_one_shard_has_lost_is_told_and_the_shard_given_up_if_it_is_lost_for_good() -> None:
    made = DiskWorld()
    kept, lost = (next(str(each) for each in range(99) if made.shard_of("Thing", str(each)) == shard) for shard in (0, 1))
    for error in (LogFull("append", "log", "it is full", "wait"), ShardDamaged(1, "append", "log", "another has it", "ask it")):

        def fails(error: OperatorError = error) -> None:
            raise PartlyStored(7, {1: error})

        syncs_slowly(made)
        made.disk.script.append(fails)
        assert await answers([made.call(Thing, lost, "put", "k", str(error))]) == [ObjectReset]
        assert await answers([made.call(Thing, kept, "put", "k", str(error))]) == [None]
        assert (made.durable(Thing, kept), made.durable(Thing, lost)) == ({"k": str(error)}, {})
        assert made.trouble == ([] if isinstance(error, LogFull) else [error])
    made.committer.close()
