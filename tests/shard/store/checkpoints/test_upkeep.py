"""shard/store/checkpoints/upkeep.py: an idle worker's log gets small, and room is found by whoever has nothing to write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.shard.store.test_worker_store import object_key, with_store, write
from tidegate.runtime.limits import LOG_REST_LOOKS, SEGMENT_BYTES
from tidegate.shard.log.commit_log import SEGMENT_BYTES_FIRST, LogWithoutRoom
from tidegate.shard.store.checkpoints.checkpoint import CheckpointTrouble
from tidegate.shard.store.worker_store import WorkerStore

MB = 1 << 20


def blocks_of(data_dir: Path, pattern: str) -> int:
    return sum(path.stat().st_blocks * 512 for path in data_dir.glob(pattern))


def test_after_a_load_and_the_deletion_of_all_a_worker_takes_a_fixed_minimum(tmp_path: Path) -> None:
    async def test(store: WorkerStore) -> None:
        for number in range(48):
            write(store, number % 2, {"a": bytes([number + 1]) * MB}, number)
        await store.checkpointer.finish()
        for number in range(48):
            write(store, number % 2, {"a": None}, number)
        write(store, 0, {"a": b"kept"}, 99)
        await store.checkpointer.finish()
        assert blocks_of(tmp_path, "log/*/*.seg") > 32 * MB
        for _ in range(LOG_REST_LOOKS + 1):
            await store.upkeep.look()
        assert blocks_of(tmp_path, "log/*/*.seg") == SEGMENT_BYTES_FIRST == store.log.statistics().file_bytes
        assert blocks_of(tmp_path, "shards/*/data.mdb") < MB
        write(store, 1, {"b": b"later"}, 7)

    async def again(store: WorkerStore) -> None:
        assert store.stopped == {}
        assert store.shards[0].get(object_key(99), "a") == b"kept"
        assert store.shards[0].get(object_key(2), "a") is None
        assert store.shards[1].get(object_key(7), "b") == b"later"

    assert with_store(tmp_path, test) == []
    assert with_store(tmp_path, again, start=2) == []


def test_a_restart_after_the_log_got_small_finds_all_of_it(tmp_path: Path) -> None:
    async def test(store: WorkerStore) -> None:
        for number in range(40):
            write(store, number % 2, {"a": bytes([number + 1]) * MB}, number)
        await store.checkpointer.finish()
        for _ in range(LOG_REST_LOOKS + 1):
            await store.upkeep.look()

    async def again(store: WorkerStore) -> None:
        assert (store.stopped, store.recovery.commits) == ({}, 0)
        assert all(store.shards[number % 2].get(object_key(number), "a") == bytes([number + 1]) * MB for number in range(40))

    with_store(tmp_path, test)
    with_store(tmp_path, again)


def test_a_log_that_is_written_to_or_not_checkpointed_stays_large(tmp_path: Path) -> None:
    async def test(store: WorkerStore) -> None:
        for number in range(40):
            write(store, 0, {"a": bytes(MB)}, number)
        before = store.log.statistics().file_bytes
        for _ in range(LOG_REST_LOOKS * 3):
            await store.upkeep.look()
        assert store.log.statistics().file_bytes == before
        for number in range(LOG_REST_LOOKS * 3):
            write(store, 0, {"a": b"x"}, number)
            await store.checkpointer.finish()
            await store.upkeep.look()
        assert store.log.statistics().file_bytes >= SEGMENT_BYTES

    with_store(tmp_path, test)


def test_a_worker_looks_by_itself_after_a_checkpoint_and_then_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.store.checkpoints.upkeep.UPKEEP_EVERY_S", 0.01)

    async def test(store: WorkerStore) -> None:
        looks = []
        look = store.upkeep.look

        async def counted() -> bool:
            looks.append(await look())
            return looks[-1]

        monkeypatch.setattr(store.upkeep, "look", counted)
        store.upkeep.start(asyncio.get_running_loop())
        await asyncio.sleep(0.1)
        assert looks == [], "nothing was written yet"
        for number in range(20):
            write(store, 0, {"a": bytes(MB)}, number)
        await store.checkpointer.finish()
        async with asyncio.timeout(10):
            while store.log.statistics().file_bytes > SEGMENT_BYTES_FIRST:
                await asyncio.sleep(0.01)
        seen = len(looks)
        await asyncio.sleep(0.1)
        assert looks[-1] is False
        assert len(looks) in (seen, seen + 1)
        store.checkpointer.found_no_room(LogWithoutRoom("append to", "log", "no space left", "free some"))
        async with asyncio.timeout(10):
            while store.checkpointer.without_room is not None:
                await asyncio.sleep(0.01)

    assert with_store(tmp_path, test) == []


def test_the_problem_goes_when_there_is_room_though_nobody_writes(tmp_path: Path) -> None:
    async def test(store: WorkerStore) -> None:
        write(store, 0, {"a": b"1"})
        await store.checkpointer.finish()
        store.checkpointer.found_no_room(LogWithoutRoom("append to", "log", "no space left", "free some"))
        await store.upkeep.look()
        assert store.checkpointer.without_room is None

    assert with_store(tmp_path, test) == []


def test_while_there_is_no_room_the_problem_stays_and_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = LogWithoutRoom("prepare segment in", "log", "no space left", "free some")

    def lend() -> None:
        raise problem

    async def test(store: WorkerStore) -> None:
        assert store.room is not None
        monkeypatch.setattr(store.room, "lend", lend)
        store.checkpointer.found_no_room(problem)
        for _ in range(3):
            await store.upkeep.look()
        assert store.checkpointer.without_room is problem

    assert with_store(tmp_path, test) == []


def test_a_log_that_breaks_while_it_gets_small_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(store: WorkerStore) -> None:
        for number in range(20):
            write(store, 0, {"a": bytes(MB)}, number)
        await store.checkpointer.finish()

        def fdatasync(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.fdatasync", fdatasync)
        for _ in range(LOG_REST_LOOKS + 1):
            await store.upkeep.look()

    [trouble] = with_store(tmp_path, test)
    assert isinstance(trouble, CheckpointTrouble)
    assert trouble.fatal
