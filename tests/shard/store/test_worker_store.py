"""shard/store/worker_store.py: the whole store of a worker over real files, opened, written, closed, opened again."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

import tidegate.shard.log.commit_log as log_module
import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
import tidegate.shard.store.worker_store as worker_store_module
from tests.shard.store.state.test_residency import drop
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import Shipping
from tidegate.shard.log.commit_log import KEPT, CommitLog, LogFull, LogWithoutRoom, list_segments
from tidegate.shard.store.checkpoints.checkpoint import CheckpointTrouble
from tidegate.shard.store.interface import Answer, ObjectWrites, ShardCommit, ShardDamaged, ShardUnwritable
from tidegate.shard.store.logs import list_logs, log_path
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.state.lmdb_state import LmdbBatch
from tidegate.shard.store.store import ShardStore, StoreFailed
from tidegate.shard.store.worker_store import WorkerStore


def object_key(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"object".ljust(14)


def write(store: WorkerStore, shard: int, writes: dict[str, bytes | None], number: int = 1) -> None:
    record = CommitRecord(0, [ShardCommit(shard, store.shards[shard].seq + 1, [ObjectWrites(object_key(number), False, writes)])])
    store.applied(store.append(encode_record(record)), record.shards)


def with_store(
    data_dir: Path,
    test: Callable[[WorkerStore], Awaitable[None]],
    start: int = 1,
    worker: int = 0,
    shards: tuple[int, ...] = (0, 1),
) -> list[CheckpointTrouble]:
    """Runs `test` on a store that is opened before and closed after, without a checkpoint."""
    troubles: list[CheckpointTrouble] = []

    async def run() -> None:
        store = WorkerStore.open(data_dir, start, worker, shards, troubles.append)
        try:
            async with asyncio.timeout(60):
                await test(store)
        finally:
            await store.close()

    asyncio.run(run())
    return troubles


def test_what_was_appended_is_there_after_opening_again_without_a_checkpoint(tmp_path: Path) -> None:
    async def first(store: WorkerStore) -> None:
        write(store, 0, {"a": b"1"})
        write(store, 1, {"b": b"2"})
        write(store, 0, {"a": b"3"})

    async def second(store: WorkerStore) -> None:
        assert store.shards[0].get(object_key(1), "a") == b"3"
        assert store.shards[1].get(object_key(1), "b") == b"2"
        assert (store.shards[0].seq, store.shards[1].seq) == (2, 1)
        assert store.recovery.commits == 3
        write(store, 0, {"a": b"4"})

    async def third(store: WorkerStore) -> None:
        assert store.shards[0].get(object_key(1), "a") == b"4"

    with_store(tmp_path, first)
    with_store(tmp_path, second)  # The same start: the worker was restarted.
    with_store(tmp_path, third, start=2)


def test_answers_to_keys_are_there_after_checkpoints_starts_and_moves(tmp_path: Path) -> None:
    def answer(store: WorkerStore, number: int) -> None:
        given = Answer("Session", number, max(0, number - 2), 7, 0, msgspec.Raw(msgspec.msgpack.encode(number)))
        record = CommitRecord(0, [ShardCommit(1, store.shards[1].seq + 1, [], [given])])
        store.applied(store.append(encode_record(record)), record.shards)

    async def first(store: WorkerStore) -> None:
        for number in range(5):
            answer(store, number)
        await store.checkpointer.finish()
        answer(store, 5)

    async def second(store: WorkerStore) -> None:
        rows = store.shards[1].answers.groups["Session"].rows
        assert {key: msgspec.msgpack.decode(kept.result) for key, kept in rows.items()} == {3: 3, 4: 4, 5: 5}
        answer(store, 6)
        await store.checkpointer.finish()

    async def third(store: WorkerStore) -> None:
        assert sorted(map(str, store.shards[1].answers.groups["Session"].rows)) == ["4", "5", "6"]
        assert store.recovery.commits == 0

    with_store(tmp_path, first)
    with_store(tmp_path, second, start=2, worker=1, shards=(1,))
    with_store(tmp_path, third, start=3, worker=0, shards=(0, 1))


def test_shards_move_freely_between_numbers_of_workers(tmp_path: Path) -> None:
    """Every start deals the shards differently; nothing is copied, and everything is there."""
    shards_total = 8
    expected: dict[int, dict[str, bytes]] = {}
    for start, workers in enumerate((1, 4, 2, 8, 1), 1):
        for worker in range(workers):
            shards = tuple(shard for shard in range(shards_total) if shard % workers == worker)

            async def test(store: WorkerStore, shards: tuple[int, ...] = shards, start: int = start) -> None:
                for shard in shards:
                    assert dict(store.shards[shard].scan(object_key(1))) == expected.get(shard, {})
                    write(store, shard, {f"start{start}": b"x"})
                    expected.setdefault(shard, {})[f"start{start}"] = b"x"

            with_store(tmp_path, test, start=start, worker=worker, shards=shards)


def test_after_a_checkpoint_nothing_is_left_to_recover(tmp_path: Path) -> None:
    async def first(store: WorkerStore) -> None:
        write(store, 0, {"a": b"1"})
        await store.checkpointer.finish()

    async def second(store: WorkerStore) -> None:
        assert store.recovery.commits == 0
        assert store.shards[0].get(object_key(1), "a") == b"1"

    with_store(tmp_path, first)
    with_store(tmp_path, second)


def small_segments(monkeypatch: pytest.MonkeyPatch, size: int, segments_max: int) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_BYTES_FIRST", size)
    defaults = log_module.CommitLog.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "segment_bytes", size)
    monkeypatch.setitem(defaults, "segment_bytes_first", size)
    monkeypatch.setitem(defaults, "segments_max", segments_max)


def test_the_next_segment_is_prepared_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch, 4096, 8)

    async def test(store: WorkerStore) -> None:
        while not store.log.needs_segment:
            write(store, 0, {"a": b"x" * 500})
        while not store.log.statistics().segments_prepared:
            await asyncio.sleep(0.001)
        assert store.log.statistics().segments_used == 1

    assert with_store(tmp_path, test) == []


def test_while_there_is_no_room_for_a_segment_it_is_asked_for_and_said_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk under load wrote 851 lines in ten seconds, one for every other commit."""
    small_segments(monkeypatch, 16_384, 8)
    prepare, full = CommitLog.prepare_segment, [True]

    def no_room(log: CommitLog) -> None:
        if full[0]:
            raise LogFull("prepare segment in", "here", "no space left on device", "free some")
        prepare(log)

    async def test(store: WorkerStore) -> None:
        while not store.log.needs_segment:
            write(store, 0, {"a": b"x" * 500})
        for number in range(10):
            write(store, 0, {"a": b"%d" % number})
            await asyncio.sleep(0.005)
        full[0] = False
        while not store.log.statistics().segments_prepared:
            write(store, 0, {"a": b"x"})
            await asyncio.sleep(0.02)

    monkeypatch.setattr(CommitLog, "prepare_segment", no_room)
    troubles = with_store(tmp_path, test)
    assert [trouble.fatal for trouble in troubles] == [False]


def test_endless_writing_keeps_the_log_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch, 16_384, 8)

    async def test(store: WorkerStore) -> None:
        for number in range(2_400):
            try:
                write(store, number % 2, {"a": b"%d" % number + b"x" * 300}, number % 50)
            except LogFull:  # Nothing else slows the writer here, and the checkpoint has to wait for a core.
                await store.checkpointer.make_room()
                write(store, number % 2, {"a": b"%d" % number + b"x" * 300}, number % 50)
            await asyncio.sleep(0)
        assert store.checkpointer.statistics().checkpoints >= 5
        assert len(list_segments(log_path(tmp_path, 1, 0))) <= 8
        assert store.read_statistics().reads_apart == 0, "what was just written is in memory"
        assert store.shards[1].get(object_key(49), "a") == b"2399" + b"x" * 300

    with_store(tmp_path, test)


def test_a_full_log_has_room_again_after_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch, 4096, 2)
    monkeypatch.setattr(checkpoint_module, "checkpoint_due", lambda pressure: False)

    async def test(store: WorkerStore) -> None:
        with pytest.raises(LogFull):  # noqa: PT012 - which of the writes is refused does not matter
            while True:
                write(store, 0, {"a": b"x" * 500})
        await store.checkpointer.finish()
        write(store, 0, {"a": b"there is room"})
        assert store.shards[0].get(object_key(1), "a") == b"there is room"

    with_store(tmp_path, test)


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("tidegate-read-", "tidegate-warm"))]


async def fetch(store: WorkerStore, shard: int, number: int, key: str) -> bytes | None:
    """As an object reads what is not in its cache."""
    if store.shards[shard].reader is None:
        return store.shards[shard].get(object_key(number), key)
    answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    store.shards[shard].fetch(object_key(number), [key], lambda result, error: answer.set_result(result[0]))
    return await answer


def filled(tmp_path: Path) -> None:
    async def fill(store: WorkerStore) -> None:
        for number in range(200):
            write(store, 0, {"a": b"x" * 2_000}, number)
        await store.checkpointer.finish()

    with_store(tmp_path, fill)


def test_shards_in_memory_are_read_on_the_loop_and_no_thread_is_started_for_them(tmp_path: Path) -> None:
    async def test(store: WorkerStore) -> None:
        assert await fetch(store, 0, 7, "a") == b"x" * 2_000
        assert reading_threads() == []
        assert store.read_statistics() == (0, 1), "nobody has asked the other shard for anything"

    filled(tmp_path)
    with_store(tmp_path, test)


def test_shards_on_disk_are_read_by_threads_which_end_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.store.state.data_file.STATE_VERIFY_BYTES_MAX", 0)  # Else the start reads it.

    async def test(store: WorkerStore) -> None:
        assert await fetch(store, 0, 7, "a") == b"x" * 2_000
        assert store.read_statistics().reads_apart > 0
        assert reading_threads() != []
        store.shards[0].fetch(object_key(9), ["a"], lambda result, error: None)  # Nobody waits for this one.

    filled(tmp_path)
    drop(tmp_path / "shards" / "0000" / "data.mdb")
    with_store(tmp_path, test)
    assert reading_threads() == []


def test_a_store_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "shards" / "0001" / "data.mdb").mkdir(parents=True)
    with pytest.raises(OperatorError, match="shards/0001"):
        WorkerStore.open(tmp_path, 1, 0, (0, 1), print)
    (tmp_path / "shards" / "0001" / "data.mdb").rmdir()

    async def test(store: WorkerStore) -> None:
        assert store.shards.keys() == {0, 1}

    with_store(tmp_path, test)


EIO = StoreFailed("checkpoint into", "shard 1", "Input/output error", "check the disk")


def some_commits(data_dir: Path) -> None:
    async def write_both(store: WorkerStore) -> None:
        write(store, 0, {"a": b"1"})
        write(store, 1, {"b": b"2"})

    with_store(data_dir, write_both)


async def expect_all(store: WorkerStore) -> None:
    assert store.stopped == {}
    assert store.read_only is None
    assert store.shards[0].get(object_key(1), "a") == b"1"
    assert store.shards[1].get(object_key(1), "b") == b"2"


class FailingDisk:
    """Commits of shard 1 fail, so many times; a new log finds no room, so many times."""

    def __init__(self, patch: pytest.MonkeyPatch, *, commits: float = 0, logs: int = 0) -> None:
        self.commits, self.logs = commits, logs
        self._commit, self._log = LmdbBatch.commit, CommitLog
        patch.setattr(LmdbBatch, "commit", lambda batch: self.commit(batch))
        patch.setattr(worker_store_module, "CommitLog", self.log)
        patch.setattr(worker_store_module, "OPEN_PAUSES_S", (0.0, 0.0))

    def commit(self, batch: LmdbBatch) -> None:
        if batch._state.shard == 1 and self.commits > 0:
            self.commits -= 1
            batch.abort()
            raise EIO
        self._commit(batch)

    def log(self, path: Path, **options: object) -> CommitLog:
        if self.logs > 0:
            self.logs -= 1
            raise LogWithoutRoom("start log", path, "no space left", "free some")
        return self._log(path, **options)  # type: ignore[arg-type]  # what it is given


@pytest.mark.parametrize("logs", [0, 1, 2, 5], ids=lambda logs: f"{logs} logs without room")
def test_no_log_goes_that_has_what_a_state_could_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: int) -> None:
    """Its commit failed at every start, perhaps at ones at which there was no room for a new log at first."""

    async def second(store: WorkerStore) -> None:
        assert [type(each) for each in store.stopped.values()] == [ShardUnwritable] or store.read_only is not None
        assert store.keeps_logs
        assert store.shards[0].get(object_key(1), "a") == b"1"

    some_commits(tmp_path)
    for start in (1, 1, 2):
        with monkeypatch.context() as patch:
            FailingDisk(patch, commits=math.inf, logs=logs)
            with_store(tmp_path, second, start=start)
    with_store(tmp_path, expect_all, start=2)


@pytest.mark.parametrize("logs", [0, 1])
@pytest.mark.parametrize("commits", [1, 2])
def test_a_disk_that_fails_for_a_moment_at_a_start_stops_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int, logs: int
) -> None:
    some_commits(tmp_path)
    with monkeypatch.context() as patch:
        disk = FailingDisk(patch, commits=commits, logs=logs)
        with_store(tmp_path, expect_all)
        assert (disk.commits, disk.logs) == (0, 0)
    assert [log.run for log in list_logs(tmp_path)] == [list_logs(tmp_path)[-1].run], "what failed has left nothing behind"
    with_store(tmp_path, expect_all, start=2)


@pytest.mark.parametrize("start", [1, 2])
def test_no_log_goes_that_a_shard_may_need_whose_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """It was never read, so that recovery knew nothing of it, and a start without room for a new log deleted the others."""
    some_commits(tmp_path)
    file = tmp_path / "shards" / "0001" / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(b"not LMDB's" * 1_000)

    async def second(store: WorkerStore) -> None:
        assert list(store.stopped) == [1]
        assert store.shards[0].get(object_key(1), "a") == b"1"

    with monkeypatch.context() as patch:
        FailingDisk(patch, logs=1)
        with_store(tmp_path, second, start=start)
    file.write_bytes(whole)
    with_store(tmp_path, expect_all, start=start)


def test_a_process_that_dies_while_it_recovers_leaves_what_the_one_before_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One state is part of the new log, the other not yet; over and over again."""

    class Died(BaseException):
        pass

    some_commits(tmp_path)
    for dies_at in (0, 1, 0, 1):
        with monkeypatch.context() as patch:
            commit = LmdbBatch.commit

            def dies(batch: LmdbBatch, commit: Callable[[LmdbBatch], None] = commit, shard: int = dies_at) -> None:
                if batch._state.shard == shard:
                    batch.abort()
                    raise Died
                commit(batch)

            patch.setattr(LmdbBatch, "commit", dies)
            with pytest.raises(Died):
                WorkerStore.open(tmp_path, 1, 0, (0, 1), print)
    with_store(tmp_path, expect_all)


def test_a_shard_whose_answers_prove_to_be_damaged_keeps_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_commits(tmp_path)

    def damaged(store: ShardStore) -> None:
        if store.shard == 1:
            store.on_damage(ShardDamaged(1, "read", "shards/0001", "a row has a wrong checksum"))

    async def second(store: WorkerStore) -> None:
        assert [error.shard for error in store.damage_found] == [1]
        assert store.keeps_logs

    monkeypatch.setattr(ShardStore, "load_answers", damaged)
    with_store(tmp_path, second)
    assert [log.run for log in list_logs(tmp_path)] == [0, 1]


def test_a_shard_that_could_not_be_written_is_waited_for_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_commits(tmp_path)
    monkeypatch.setattr(worker_store_module, "UNWRITABLE_PAUSE_S", 0.01)
    disk = FailingDisk(monkeypatch, commits=6)

    async def test(store: WorkerStore) -> None:
        assert list(store.stopped) == [1]
        assert 1 not in store.shards
        assert disk.commits == 3
        await store.wait_for_disk(tmp_path)
        assert disk.commits == 0
        write(store, 0, {"c": b"served meanwhile"})

    with_store(tmp_path, test)
    with_store(tmp_path, expect_all)


def test_logs_that_cannot_be_deleted_keep_nobody_from_being_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_commits(tmp_path)

    def fails(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(worker_store_module, "sync_directory", fails)
        with_store(tmp_path, expect_all)
    with_store(tmp_path, expect_all)


def test_of_a_log_that_is_not_needed_nothing_stays_under_its_name_though_a_part_of_it_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had kept for others stayed, and nobody looked for that before the next start of the service."""
    log = log_path(tmp_path, 1, 0, 0)
    kept = log.with_name(log.name + KEPT)
    for folder in (log, kept):
        folder.mkdir(parents=True)
        (folder / "00000001.seg").write_bytes(b"")
    rmtree = shutil.rmtree

    def fails_at_first(path: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shutil, "rmtree", fails_at_first)
    worker_store_module._delete(list_logs(tmp_path), Shipping(tmp_path))
    assert not kept.exists()
    assert not log.exists()
    assert list_logs(tmp_path) == []


def test_a_disk_that_hangs_when_it_is_asked_for_its_room_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Event(), threading.Event()
    look = os.statvfs

    def hangs(path: Path) -> os.statvfs_result:
        asked.set()
        assert go_on.wait(60)
        return look(path)

    async def test(store: WorkerStore) -> None:
        free_bytes = store.space().disk_free_bytes
        assert free_bytes > 0, "it is known from the start"
        monkeypatch.setattr(os, "statvfs", hangs)
        while not asked.is_set():
            store.space()
            await asyncio.sleep(0.001)
        assert store.space().disk_free_bytes > 0
        write(store, 0, {"a": b"1"})
        go_on.set()

    with_store(tmp_path, test)


def test_a_worker_of_which_every_shard_is_damaged_starts_and_says_what_it_takes(tmp_path: Path) -> None:
    some_commits(tmp_path)
    for shard in (0, 1):
        file = tmp_path / "shards" / f"{shard:04d}" / "data.mdb"
        file.write_bytes(b"nothing of ours".ljust(file.stat().st_size or 8_192, b"x"))

    async def test(store: WorkerStore) -> None:
        assert sorted(store.stopped) == [0, 1]
        assert store.space().state_bytes == 0

    with_store(tmp_path, test)
