"""Commits on a disk that is fast, slow, full or broken: one at a time, and the host is told of the end of each exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.host_world import Call, World
from tests.support.objects import Thing
from tests.support.records import decode_record
from tidegate.runtime.errors import ObjectReset, OperatorError
from tidegate.shard.log.commit_log import LogBroken, LogFull
from tidegate.shard.store.interface import ShardCommit
from tidegate.shard.store.record import CommitRecord
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker.committer import HELPER_ABOVE_S, PROBES, Committer


class Disk:
    """A commit log that does what the test wrote into its script, and then what it is asked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.script: deque[Callable[[], None]] = deque()
        self.records: list[CommitRecord] = []
        self.threads: list[int] = []
        self.checkpoints = 0
        self.log = self.checkpointer = self

    def append(self, record: bytes) -> int:
        self.threads.append(threading.get_ident())
        if self.script:
            self.script.popleft()()
        self.records.append(decode_record(record))
        return len(self.records)

    async def make_room(self) -> None:
        self.checkpoints += 1

    def applied(self, position: int, commits: Sequence[ShardCommit]) -> None:
        self.world.applied(position, commits)


def full() -> None:
    raise LogFull("append", "log", "every segment is in use", "wait")


def broken() -> None:
    raise LogBroken("append", "log", "I/O error", "restart")


def strange() -> None:
    raise MemoryError("nobody expects it")


def slow() -> None:
    time.sleep(HELPER_ABOVE_S * 3)


class DiskWorld(World):
    """Its commits are made by a real committer."""

    def __init__(self) -> None:
        super().__init__(Thing)
        self.disk = Disk(self)
        self.trouble: list[OperatorError] = []
        self.committer = Committer(self.loop, self.host, cast("WorkerStore", self.disk), self.trouble.append)

    def _end_turn(self) -> None:
        self.committer.commit_if_due()

    async def put(self, value: Any, name: str = "a") -> None:
        await self.ask(Thing, name, "put", "k", value)

    async def warm_up(self) -> None:
        """Until commits are made on the loop thread."""
        while not self.committer.statistics().inline:
            await self.put(time.perf_counter())
            assert len(self.disk.records) < 1_000


async def world(*, inline: bool) -> DiskWorld:
    made = DiskWorld()
    if inline:
        await made.warm_up()
    return made


async def answers(calls: list[Call]) -> list[type[BaseException] | None]:
    return [type(error) if (error := (await asyncio.wait([call.reply]) and call.reply.exception())) else None for call in calls]


async def test_commits_move_to_the_loop_thread_once_the_disk_has_proved_fast_and_away_when_it_is_slow() -> None:
    made = DiskWorld()
    here = threading.get_ident()
    await made.warm_up()
    assert here not in made.disk.threads[:PROBES]
    await made.put("inline")
    assert made.disk.threads[-1] == here
    for number in range(200):
        made.disk.script.append(slow)
        await made.put(number)
        if not made.committer.statistics().inline:
            break
    await made.put("helped")
    assert made.disk.threads[-1] != here
    assert made.committer.statistics().sync_us > 0
    made.committer.close()


@pytest.mark.parametrize("inline", [False, True])
async def test_what_is_written_in_one_turn_is_one_append_and_what_comes_during_it_is_the_next(inline: bool) -> None:
    made = await world(inline=inline)
    before = len(made.disk.records)
    calls = [made.call(Thing, str(number), "put", "k", number) for number in range(20)]
    await made.ask_all(calls)
    records = made.disk.records[before:]
    written = [writes.key for record in records for shard in record.shards for writes in shard.objects]
    assert len(written) == len(set(written)) == 20
    assert len(records) <= 20
    assert made.position == len(made.disk.records)
    made.committer.close()


@pytest.mark.parametrize("inline", [False, True])
async def test_a_full_log_is_emptied_by_a_checkpoint_and_the_commit_succeeds(inline: bool) -> None:
    made = await world(inline=inline)
    made.disk.script.append(full)
    await made.put("kept")
    assert made.disk.checkpoints == 1
    assert made.durable(Thing, "a") == {"k": "kept"}
    assert made.trouble == []
    made.committer.close()


@pytest.mark.parametrize("inline", [False, True])
async def test_a_log_that_stays_full_refuses_one_commit_and_takes_the_next(inline: bool) -> None:
    made = await world(inline=inline)
    made.disk.script += [full, full]
    with pytest.raises(ObjectReset, match="every segment is in use"):
        await made.put("refused")
    await made.put("kept")
    assert made.durable(Thing, "a") == {"k": "kept"}
    assert made.trouble == []
    made.committer.close()


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("fault", [broken, strange])
async def test_a_log_that_breaks_answers_everybody_and_ends_the_worker(inline: bool, fault: Callable[[], None]) -> None:
    made = await world(inline=inline)
    made.disk.script.append(fault)
    with pytest.raises(ObjectReset, match="durable"):
        await made.put("lost")
    await made.settle()
    assert len(made.trouble) == 1
    assert made.host.output_gate.in_flight is None


@pytest.mark.parametrize("inline", [False, True])
async def test_a_log_that_breaks_at_the_second_try_ends_the_worker_too(inline: bool) -> None:
    made = await world(inline=inline)
    made.disk.script += [full, broken]
    with pytest.raises(ObjectReset):
        await made.put("lost")
    await made.settle()
    assert len(made.trouble) == 1


async def test_a_checkpoint_that_takes_too_long_fails_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.worker.committer.ROOM_TIMEOUT_S", 0.01)
    made = await world(inline=False)

    async def for_ever() -> None:
        await asyncio.sleep(60)

    made.disk.checkpointer = cast("Any", SimpleNamespace(make_room=for_ever))
    made.disk.script.append(full)
    with pytest.raises(ObjectReset):
        await made.put("refused")
    await made.put("kept")
    assert made.durable(Thing, "a") == {"k": "kept"}
    made.committer.close()


async def test_calls_that_write_nothing_are_answered_while_a_slow_commit_is_made() -> None:
    made = await world(inline=False)
    gate = threading.Event()
    made.disk.script.append(lambda: cast("None", gate.wait(5)))
    writing = made.call(Thing, "a", "put", "k", 1)
    assert await made.ask(Thing, "b", "put_nothing") == "nothing"
    assert not writing.answered
    gate.set()
    await writing.reply
    made.committer.close()
