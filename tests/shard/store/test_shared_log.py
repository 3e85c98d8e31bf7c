"""The store of a worker whose log others keep: what is in its directory is a cache, and says how far it has got."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from tests.support.begun_appends import BegunAppends
from tests.support.damage import forget_newest_commit
from tests.support.no_snapshots import NoSnapshots
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import NoLog
from tidegate.shard.store.interface import (
    ObjectWrites,
    ShardCommit,
    ShardDamaged,
    ShardElsewhere,
    ShardLeftBehind,
    ShardUnreachable,
    ShardUnwritable,
)
from tidegate.shard.store.record import CommitRecord, decode_unread_record, encode_record
from tidegate.shard.store.worker_store import WorkerStore

KEY = b"\0\1" + b"object".ljust(14)


class Elsewhere(BegunAppends, NoLog):
    """A log in memory that outlives its users. A mark is the number of the shard's records that are known."""

    def __init__(self) -> None:
        super().__init__(OperatorError("append to", "elsewhere", "it is not there", "wait"))
        self.records: list[bytes] = []
        self.given: list[tuple[int, bytes]] = []
        self.refused: dict[int, ShardDamaged] = {}
        self.unreachable = False
        self.closed = 0
        self.gave: list[int] = []
        self.first: dict[int, int] = {}
        """By shard, so many of its first records were purged."""
        self.taken: dict[int, list[tuple[bytes, bytes, int]]] = {}
        """Snapshots: a data file, its mark and its commit."""
        self.fetched: list[int] = []
        self.not_accepted: list[str] = []

    snapshots = NoSnapshots()

    def claim(self, marks: Mapping[int, bytes], applied: Callable[[int, bytes], object]) -> Mapping[int, ShardDamaged]:
        if self.unreachable:
            raise OperatorError("connect to", "elsewhere", "nobody is there", "wait", passes=True)
        behind: dict[int, ShardDamaged] = {}
        for shard, mark in marks.items():
            if (has := int(mark or b"0")) < self.first.get(shard, 0):
                behind[shard] = ShardLeftBehind(shard, "claim", f"shard {shard}", f"what follows record {has} is gone", has)
        marks = {shard: mark for shard, mark in marks.items() if shard not in behind}
        self.given = [(shard, record) for shard, mark in marks.items() for record in self._of(shard)[int(mark or b"0") :]]
        for shard, record in self.given:
            if shard not in self.refused:
                applied(shard, record)
        return self.refused | behind

    def take(
        self, shard: int, mark: bytes, applied: Callable[[int, bytes], object], is_wanted: Callable[[], bool] = lambda: True
    ) -> ShardDamaged | None:
        return self.claim({shard: mark}, applied).get(shard)

    def follow(self, shard: int, mark: bytes, applied: Callable[[int, bytes], object]) -> bytes | ShardDamaged:
        return self.take(shard, mark, applied) or b"%d" % len(self._of(shard))

    def give(self, shard: int) -> None:
        self.gave.append(shard)

    def mark(self, shard: int, position: int) -> bytes:
        """Records before the claim have no position: 0 stands for the end of what was given."""
        known = len(self.records) if position == 0 else position
        return b"%d" % len([each for each in self.records[:known] if each in self._of(shard)])

    def fetch(self, behind: ShardLeftBehind, file: Path, accept: Callable[[bytes, int], None], *, is_ahead: bool = False) -> None:
        """The newest first, as far as they are accepted."""
        self.fetched.append(behind.has)
        for data, mark, commit in reversed(self.taken.get(behind.shard, [])):
            file.write_bytes(data)
            try:
                accept(mark, commit)
            except ShardDamaged as error:
                self.not_accepted.append(error.problem)
            else:
                return
        raise ShardDamaged(behind.shard, "take", f"shard {behind.shard}", f"{behind.problem}, and there is no snapshot", "wait")

    def append(self, record: bytes) -> int:
        self.records.append(record)
        return len(self.records)

    def close(self) -> None:
        self.closed += 1

    def _of(self, shard: int) -> list[bytes]:
        return [each for each in self.records if decode_unread_record(each).shards[0].shard == shard]


async def snapshot(store: WorkerStore, log: Elsewhere, shard: int) -> None:
    copy = await store.copy_of(shard)
    assert copy is not None
    copy.look_through()
    log.taken.setdefault(shard, []).append((copy.file.read_bytes(), copy.mark, copy.commit))
    copy.remove()


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


def after_snapshots(tmp_path: Path, log: Elsewhere) -> None:
    """Two of shard 0, and only what follows the first of them is left of its log."""

    async def take_them(store: WorkerStore) -> None:
        await fill(store)
        await snapshot(store, log, 0)
        put(store, 0, b"between")
        await snapshot(store, log, 0)
        put(store, 0, b"last")

    with_store(tmp_path, log, take_them)
    log.first = {0: 3}
    assert [(mark, commit) for _, mark, commit in log.taken[0]] == [(b"3", 3), (b"4", 4)]


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_an_empty_directory_gets_a_snapshot_and_what_follows_it(tmp_path: Path, when: str) -> None:
    log = Elsewhere()
    after_snapshots(tmp_path / "one", log)
    two = tmp_path / "two"

    async def look(store: WorkerStore) -> None:
        assert store.stopped == {}
        assert store.shards[0].get(KEY, "k") == b"last"
        assert store.shards[0].seq == 5
        assert store.shards[1].get(KEY, "k") == b"other"
        assert log.fetched == [0]
        assert [shard for shard, _ in log.given] == [0], "the last claim has given what follows the newest snapshot"
        put(store, 0, b"written here")
        await store.checkpointer.finish()

    async def later(store: WorkerStore) -> None:
        store.give(0)
        await store.close_file(0)
        shutil.rmtree(two / "shards" / "0000")
        await take(store, two, 0)
        await look(store)

    if when == "at the start":
        with_store(two, log, look)
    else:
        log.first = {}
        log.refused = {}
        with_store(two, log, no_more_than_open)
        log.first = {0: 3}
        with_store(two, log, later)
    assert not list((two / "shards").rglob("new-*"))


@pytest.mark.parametrize("is_purged", [False, True])
def test_what_was_read_ahead_is_in_the_state_and_the_rest_follows_when_it_is_taken(tmp_path: Path, is_purged: bool) -> None:
    log = Elsewhere()
    after_snapshots(tmp_path / "one", log)
    if not is_purged:
        log.first = {}

    async def read_and_take(store: WorkerStore) -> None:
        for shard in (0, 1):
            store.give(shard)
            await store.close_file(shard)
        shutil.rmtree(tmp_path / "two" / "shards")
        log.refused = {}
        log.first = {0: 3} if is_purged else {}
        await asyncio.to_thread(store.read_ahead, tmp_path / "two", 0, 0)
        assert 0 not in store.shards
        assert log.fetched == ([0] if is_purged else [])
        log.append(encode_record(CommitRecord(0, [ShardCommit(0, 6, [ObjectWrites(KEY, False, {"k": b"meanwhile"})])])))
        await take(store, tmp_path / "two", 0)
        assert len(log.given) == 1, "the rest"
        assert store.shards[0].get(KEY, "k") == b"meanwhile"
        assert store.shards[0].seq == 6

    log.first = {}
    with_store(tmp_path / "two", log, read_and_take)


def test_what_cannot_be_read_ahead_is_said_and_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    log = Elsewhere()
    with_store(tmp_path / "one", log, fill)

    async def read(store: WorkerStore) -> None:
        store.give(0)
        await store.close_file(0)
        log.append(encode_record(CommitRecord(0, [ShardCommit(0, 4, [ObjectWrites(KEY, False, {"k": b"new"})])])))
        log.refused = {0: ShardDamaged(0, "read", "shard 0", "it does not answer")}
        with pytest.raises(ShardDamaged, match="it does not answer"):
            await asyncio.to_thread(store.read_ahead, tmp_path / "one", 0, 0)
        log.refused = {}
        await take(store, tmp_path / "one", 0)
        assert store.shards[0].get(KEY, "k") == b"new"

    with_store(tmp_path / "one", log, read)


async def no_more_than_open(_: WorkerStore) -> None:
    pass


def test_where_the_newest_snapshot_is_damaged_the_one_before_is_used(tmp_path: Path) -> None:
    log = Elsewhere()
    after_snapshots(tmp_path / "one", log)
    (first, *_), newest = log.taken[0]
    log.taken[0][1] = (bytes(len(newest[0])), newest[1], newest[2])

    async def look(store: WorkerStore) -> None:
        assert store.shards[0].get(KEY, "k") == b"last"
        assert len(log.not_accepted) == 1

    with_store(tmp_path / "two", log, look)
    log.taken[0][1] = (first, newest[1], newest[2])  # The file of another moment than it says.
    log.not_accepted = []

    async def look_again(store: WorkerStore) -> None:
        assert store.shards[0].get(KEY, "k") == b"last"
        assert log.not_accepted == ["its file ends with commit 3, and should with 4"]

    with_store(tmp_path / "three", log, look_again)


def test_without_a_snapshot_a_shard_that_was_left_behind_is_stopped_with_the_reason(tmp_path: Path) -> None:
    log = Elsewhere()
    with_store(tmp_path, log, fill)
    before = (tmp_path / "shards" / "0000" / "data.mdb").read_bytes()
    log.first = {0: 2}

    async def look(store: WorkerStore) -> None:
        assert list(store.shards) == [1]
        assert "what follows record 0 is gone, and there is no snapshot" in str(store.stopped[0])

    with_store(tmp_path, log, look)
    assert (tmp_path / "shards" / "0000" / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OperatorError("look at", "it", "not there", "wait")])
def test_where_a_snapshot_cannot_be_put_here_its_shard_is_stopped_and_the_others_are_served(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Elsewhere()
    after_snapshots(tmp_path / "one", log)

    def fail(*_: object, **__: object) -> str:
        raise error

    async def look(store: WorkerStore) -> None:
        assert list(store.shards) == [1]
        assert [type(each) for each in store.stopped.values()] == [ShardUnwritable]
        assert "No space left" in str(store.stopped[0]) or "not there" in str(store.stopped[0])

    async def look_again(store: WorkerStore) -> None:
        assert store.shards[0].get(KEY, "k") == b"last"

    with monkeypatch.context() as failing:
        if isinstance(error, OSError):
            failing.setattr("tidegate.shard.store.state.data_file.tempfile.mkdtemp", fail)
        else:
            failing.setattr(log, "fetch", fail)
        with_store(tmp_path / "two", log, look)
    with_store(tmp_path / "two", log, look_again)


def test_a_copy_has_everything_that_was_applied_and_what_is_written_meanwhile_waits_for_it(tmp_path: Path) -> None:
    log = Elsewhere()

    async def copy(store: WorkerStore) -> None:
        await fill(store)
        copying = [asyncio.create_task(store.copy_of(0)) for _ in range(2)]
        finishing = asyncio.create_task(store.checkpointer.finish())
        copies = await asyncio.gather(*copying)
        put(store, 0, b"later")
        await finishing
        for each in copies:
            assert each is not None
            each.look_through()
            assert (each.mark, each.commit) == (b"3", 3)
            each.remove()
        await store.checkpointer.finish()
        assert store.shards[0].state.applied_seq == 4
        store.give(0)
        assert await store.copy_of(0) is None

    with_store(tmp_path, log, copy)


def test_a_damaged_state_becomes_no_snapshot(tmp_path: Path) -> None:
    log = Elsewhere()

    async def damage(store: WorkerStore) -> None:
        await fill(store)
        copy = await store.copy_of(0)
        assert copy is not None
        data = bytearray(copy.file.read_bytes())
        at = data.index(KEY + b"k")
        data[at + len(KEY) + 1] ^= 1
        copy.file.write_bytes(data)
        with pytest.raises(ShardDamaged):
            copy.look_through()
        copy.remove()
        assert not copy.file.exists()

    with_store(tmp_path, log, damage)


async def take(store: WorkerStore, data: Path, shard: int) -> None:
    store.take_over(await asyncio.to_thread(store.replay, data, 0, shard, lambda: True))


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
