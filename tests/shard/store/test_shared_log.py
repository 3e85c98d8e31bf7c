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
from tidegate.shard.store.interface import ObjectWrites, ShardCommit, ShardDamaged, ShardElsewhere, ShardUnreachable
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
        self.gave: list[int] = []

    def claim(self, marks: Mapping[int, bytes], applied: Callable[[int, bytes], object]) -> Mapping[int, ShardDamaged]:
        if self.unreachable:
            raise OperatorError("connect to", "elsewhere", "nobody is there", "wait", passes=True)
        self.given = [(shard, record) for shard, mark in marks.items() for record in self._of(shard)[int(mark or b"0") :]]
        for shard, record in self.given:
            if shard not in self.refused:
                applied(shard, record)
        return self.refused

    def take(self, shard: int, mark: bytes, applied: Callable[[int, bytes], object]) -> ShardDamaged | None:
        return self.claim({shard: mark}, applied).get(shard)

    def give(self, shard: int) -> None:
        self.gave.append(shard)

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


async def take(store: WorkerStore, data: Path, shard: int) -> None:
    store.take_over(await asyncio.to_thread(store.replay, data, 0, shard))


def test_a_shard_that_could_not_be_had_is_taken_while_the_others_are_served(tmp_path: Path) -> None:
    log = Elsewhere()
    with_store(tmp_path, log, fill)
    refused = ShardUnreachable(1, "claim", "shard 1", "nothing was confirmed")
    log.refused = {1: refused}

    async def wait(store: WorkerStore) -> None:
        with pytest.raises(ShardUnreachable) as raised:
            await take(store, tmp_path, 1)
        assert raised.value is refused
        assert store.stopped == {1: refused}
        log.refused = {}
        put(store, 0, b"served meanwhile")
        await take(store, tmp_path, 1)
        assert store.stopped == {}
        assert store.shards[1].get(KEY, "k") == b"other"
        put(store, 1, b"written here")

    with_store(tmp_path, log, wait)


@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_shard_that_was_given_comes_back_with_what_was_written_elsewhere(tmp_path: Path, checkpointed: bool) -> None:
    log, ours, theirs = Elsewhere(), tmp_path / "ours", tmp_path / "theirs"

    async def move(store: WorkerStore) -> None:
        await fill(store)
        if checkpointed:
            await store.checkpointer.finish()
        before = store.shards[0]
        store.give(0)
        assert log.gave == [0]
        assert list(store.shards) == [1]
        await store.close_file(0)
        put(store, 1, b"served meanwhile")
        with_it = asyncio.to_thread(with_store, theirs, log, write)
        await with_it
        await take(store, ours, 0)
        assert store.shards[0] is not before
        assert store.shards[0].get(KEY, "k") == b"elsewhere"
        put(store, 0, b"here again")
        await store.checkpointer.finish()
        assert store.shards[0].state.applied_seq == store.shards[0].seq == 5
        with pytest.raises(ShardElsewhere):
            before.get(KEY, "another")  # Whoever has kept it reads no file that is another's now, and stops nothing.
        assert list(store.shards) == [1, 0]

    async def write(store: WorkerStore) -> None:
        put(store, 0, b"elsewhere")

    with_store(ours, log, move)


def test_a_checkpoint_under_way_leaves_a_shard_that_goes_as_it_was(tmp_path: Path) -> None:
    log = Elsewhere()

    async def move(store: WorkerStore) -> None:
        await fill(store)
        finishing = asyncio.create_task(store.checkpointer.finish())
        while store.shards[0].frozen is None:
            await asyncio.sleep(0)
        store.give(0)
        await store.close_file(0)
        await finishing
        assert store.checkpointer.statistics().checkpoints == 1
        await take(store, tmp_path, 0)
        assert store.shards[0].get(KEY, "k") == b"2"
        assert store.shards[1].state.applied_seq == 1

    with_store(tmp_path, log, move)


def test_a_shard_that_was_stopped_can_be_taken_again(tmp_path: Path) -> None:
    log = Elsewhere()

    async def lose(store: WorkerStore) -> None:
        await fill(store)
        assert store.stop(ShardElsewhere(0, "append to", "shard 0", "another host has it", undone=True))
        closing = asyncio.create_task(store.close_file(0))
        await asyncio.sleep(0)
        await store.close_file(0)  # Whoever asks for it later waits as well.
        assert not any(state.shard == 0 for state in store._states)
        await closing
        await store.close_file(0)
        await take(store, tmp_path, 0)
        assert store.stopped == {}
        assert store.shards[0].get(KEY, "k") == b"2"

    with_store(tmp_path, log, lose)


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
