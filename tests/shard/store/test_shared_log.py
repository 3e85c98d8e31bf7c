"""The store of a worker whose log others keep: what is in its directory is a cache, and says how far it has got."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from tests.support.damage import forget_newest_commit
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import NoLog
from tidegate.shard.store import worker_store
from tidegate.shard.store.interface import ObjectWrites, ShardCommit, ShardDamaged, ShardUnreachable
from tidegate.shard.store.record import CommitRecord, decode_unread_record, encode_record
from tidegate.shard.store.worker_store import WorkerStore

KEY = b"\0\1" + b"object".ljust(14)


class Elsewhere(NoLog):
    """A log in memory that outlives its users. A mark is the number of the shard's records that are known."""

    def __init__(self) -> None:
        super().__init__(OperatorError("append to", "elsewhere", "it is not there", "wait"))
        self.records: list[bytes] = []
        self.given: list[tuple[int, bytes]] = []
        self.refused: dict[int, ShardDamaged] = {}
        self.unreachable = False
        self.closed = 0
        self.asked: list[int] = []

    def claim(self, marks: Mapping[int, bytes], applied: Callable[[int, bytes], object]) -> Mapping[int, ShardDamaged]:
        if self.unreachable:
            raise OperatorError("connect to", "elsewhere", "nobody is there", "wait", passes=True)
        self.given = [(shard, record) for shard, mark in marks.items() for record in self._of(shard)[int(mark or b"0") :]]
        for shard, record in self.given:
            if shard not in self.refused:
                applied(shard, record)
        return self.refused

    def answers(self, shard: int) -> bool:
        self.asked.append(shard)
        return len(self.asked) > 1

    def mark(self, shard: int, position: int) -> bytes:
        """Records before the claim have no position: 0 stands for the end of what was given."""
        known = len(self.records) if position == 0 else position
        return b"%d" % len([each for each in self.records[:known] if each in self._of(shard)])

    def append(self, record: bytes) -> int:
        self.records.append(record)
        return len(self.records)

    def close(self) -> None:
        self.closed += 1

    def _of(self, shard: int) -> list[bytes]:
        return [each for each in self.records if decode_unread_record(each).shards[0].shard == shard]


def put(store: WorkerStore, shard: int, value: bytes) -> None:
    commit = ShardCommit(shard, store.shards[shard].seq + 1, [ObjectWrites(KEY, False, {"k": value})])
    record = CommitRecord(0, [commit])
    store.applied(store.append(encode_record(record)), record.shards)


def with_store(data: Path, log: Elsewhere, test: Callable[[WorkerStore], Awaitable[None]]) -> None:
    async def run() -> None:
        (data / "log").mkdir(parents=True, exist_ok=True)
        store = WorkerStore.open_shared(data, 0, (0, 1), lambda trouble: None, 1 << 20, log)
        try:
            async with asyncio.timeout(60):
                await test(store)
        finally:
            await store.close()

    asyncio.run(run())


async def fill(store: WorkerStore) -> None:
    for number in range(3):
        put(store, 0, b"%d" % number)
    put(store, 1, b"other")


def test_an_empty_directory_gets_everything_that_the_log_has(tmp_path: Path) -> None:
    log = Elsewhere()
    with_store(tmp_path, log, fill)
    shutil.rmtree(tmp_path)

    async def look(store: WorkerStore) -> None:
        assert [store.shards[shard].get(KEY, "k") for shard in (0, 1)] == [b"2", b"other"]
        assert [store.shards[shard].seq for shard in (0, 1)] == [3, 1]
        assert store.recovery.commits == 4

    with_store(tmp_path, log, look)
    assert log.closed == 2


def test_behind_a_checkpoint_only_what_follows_is_asked_for(tmp_path: Path) -> None:
    log = Elsewhere()

    async def checkpoint_in_between(store: WorkerStore) -> None:
        await fill(store)
        await store.checkpointer.finish()
        put(store, 0, b"later")

    async def look(store: WorkerStore) -> None:
        assert [shard for shard, _ in log.given] == [0]
        assert [store.shards[shard].get(KEY, "k") for shard in (0, 1)] == [b"later", b"other"]

    async def look_again(store: WorkerStore) -> None:
        assert log.given == [], "what a claim has given is in the states"
        assert store.shards[0].seq == 4

    for test in (checkpoint_in_between, look, look_again):
        with_store(tmp_path, log, test)


def test_a_shard_that_is_not_to_be_had_is_stopped_and_the_others_are_served(tmp_path: Path) -> None:
    log = Elsewhere()
    with_store(tmp_path, log, fill)
    log.refused = {1: ShardDamaged(1, "claim", "shard 1", "somebody else has it")}

    async def look(store: WorkerStore) -> None:
        assert list(store.shards) == [0]
        assert store.stopped == log.refused

    with_store(tmp_path, log, look)


def test_a_shard_for_which_nobody_answered_is_waited_for_until_somebody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_store, "UNWRITABLE_PAUSE_S", 0.01)
    log = Elsewhere()
    log.refused = {1: ShardUnreachable(1, "claim", "shard 1", "nothing was confirmed")}

    async def wait(store: WorkerStore) -> None:
        assert store.unreachable == [log.refused[1]]
        await store.wait_for_log()
        assert log.asked == [1, 1]
        put(store, 0, b"served meanwhile")

    with_store(tmp_path, log, wait)


def test_a_record_that_does_not_follow_stops_its_shard(tmp_path: Path) -> None:
    log = Elsewhere()
    with_store(tmp_path / "one", log, fill)
    del log.records[1]

    async def look(store: WorkerStore) -> None:
        assert list(store.shards) == [1]
        assert "commit 2 of shard 0 is missing" in str(store.stopped[0])

    with_store(tmp_path / "two", log, look)


def test_a_state_that_had_got_further_than_it_gets_with_the_log_is_stopped_as_it_is(tmp_path: Path) -> None:
    log = Elsewhere()

    async def checkpoint(store: WorkerStore) -> None:
        put(store, 0, b"a value")
        await store.checkpointer.finish()

    for _ in range(2):
        with_store(tmp_path, log, checkpoint)
    path = tmp_path / "shards" / "0000" / "data.mdb"
    forget_newest_commit(path)
    del log.records[-1]
    before = path.read_bytes()

    async def look(store: WorkerStore) -> None:
        assert list(store.shards) == [1]
        assert "lead to commit 1, but commit 2 was here" in str(store.stopped[0])

    with_store(tmp_path, log, look)
    assert path.read_bytes() == before


def test_a_log_that_nobody_keeps_is_closed_and_the_reason_told(tmp_path: Path) -> None:
    log = Elsewhere()
    log.unreachable = True
    with pytest.raises(OperatorError, match="nobody is there"):
        with_store(tmp_path, log, fill)
    assert log.closed == 1
