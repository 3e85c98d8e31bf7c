"""shard/store/checkpoints/shrinking.py: data files that are mostly free get smaller while they are read."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cold_world import HeldReader
from tests.support.damage import hide_row
from tidegate.shard.store.checkpoints import shrinking as shrinking_module
from tidegate.shard.store.checkpoints.shrinking import Shrinker, is_due
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.pages import PageFile, Verifier
from tidegate.shard.store.store import ShardStore, StoreFailed

MB = 1 << 20
ROWS = 4_000


def object_key(number: int) -> bytes:
    return b"\x01%015d" % number


@pytest.fixture
def state(tmp_path: Path) -> Iterator[LmdbState]:
    """Of 16 MB, of which little is left."""
    state = LmdbState(tmp_path / "0001", 1)
    batch = state.begin()
    batch.put_many([(object_key(number) + b"k", b"x" * 4_000) for number in range(ROWS)])
    batch.commit()
    batch = state.begin()
    batch.delete_range(object_key(10), object_key(ROWS), ROWS)
    batch.set_applied_seq(7)
    batch.commit()
    yield state
    state.close()


async def in_helper(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


def size_of(state: LmdbState) -> int:
    return (state.path / "data.mdb").stat().st_size


def test_only_files_that_are_mostly_free_and_copied_quickly_are_due() -> None:
    assert is_due(20 * MB, 11 * MB)
    assert not is_due(20 * MB, 9 * MB)
    assert not is_due(8 * MB, 7 * MB)
    assert not is_due(1_000 * MB, 600 * MB)
    assert is_due(20 * MB, 0, is_copied_on_write=True)
    assert not is_due(1_000 * MB, 0, is_copied_on_write=True)


async def test_a_file_that_is_mostly_free_gets_small_and_is_read_and_written_as_before(state: LmdbState) -> None:
    before = size_of(state)
    assert await Shrinker({state.shard: ShardStore(state)}, [state]).shrink(in_helper)
    assert size_of(state) < before / 50
    assert [key for key, _ in state.scan(b"", b"\xff", False)] == [object_key(number) + b"k" for number in range(10)]
    for seq in range(8, 12):
        batch = state.begin()
        batch.put_many([(object_key(seq) + b"new", b"y")])
        batch.set_applied_seq(seq)
        batch.commit()
    state.close()
    with PageFile(state.path / "data.mdb") as pages:
        assert list(Verifier(pages).run()) == []
    again = LmdbState(state.path, 1)
    assert (again.applied_seq, again.get(object_key(11) + b"new"), again.get(object_key(3) + b"k")) == (11, b"y", b"x" * 4_000)
    again.close()
    assert [path.name for path in state.path.iterdir()] == ["data.mdb"]


async def test_a_copy_that_would_lose_rows_takes_no_place_and_its_shard_is_named(state: LmdbState) -> None:
    """What a large file has lost nobody has looked for yet, and in the copy there was nothing left to be saved."""
    batch = state.begin()
    batch.put_many([(object_key(5) + b"small%d" % number, b"y") for number in range(9)])
    batch.commit()
    hide_row(state.path / "data.mdb", object_key(5) + b"small4")
    before = (state.path / "data.mdb").read_bytes()
    store = ShardStore(state)
    found: list[ShardDamaged] = []
    store.on_damage = found.append
    await Shrinker({state.shard: store}, [state]).shrink(in_helper)
    assert (state.path / "data.mdb").read_bytes() == before
    assert [path.name for path in state.path.iterdir()] == ["data.mdb"]
    assert [error.shard for error in found] == [1]


async def test_the_file_of_a_shard_that_was_stopped_is_left_as_it_is(state: LmdbState) -> None:
    before = size_of(state)
    assert await Shrinker({}, [state]).shrink(in_helper)
    assert size_of(state) == before


async def test_a_read_that_has_begun_ends_over_the_old_file(state: LmdbState) -> None:
    store = ShardStore(state)
    reader = HeldReader()
    store.reader = reader
    answers: list[Any] = []
    store.fetch(object_key(3), ["k"], lambda result, error: answers.append((result, error)))
    task = asyncio.create_task(Shrinker({state.shard: store}, [state]).shrink(in_helper))
    while size_of(state) > MB:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert not task.done()
    reader.release()
    await task
    assert answers == [([b"x" * 4_000], None)]


async def test_a_new_file_whose_name_may_not_last_is_written_by_no_process_that_knows_the_old_one(
    state: LmdbState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one went on under no name: what checkpoints put into it was gone, and the log had forgotten it."""

    def fails(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("tidegate.shard.store.state.data_file.sync_directory", fails)
    with pytest.raises(StoreFailed, match="replace store"):
        await Shrinker({state.shard: ShardStore(state)}, [state]).shrink(in_helper)
    monkeypatch.undo()
    state.close()
    again = LmdbState(state.path, 1)
    assert (again.applied_seq, again.get(object_key(3) + b"k")) == (7, b"x" * 4_000)
    again.close()


async def test_where_there_is_no_room_the_file_stays_as_it_is(state: LmdbState, monkeypatch: pytest.MonkeyPatch) -> None:
    before = size_of(state)

    def no_room(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tidegate.shard.store.state.data_file.sync_file", no_room)
    shrinker = Shrinker({state.shard: ShardStore(state)}, [state])
    assert not await shrinker.shrink(in_helper)
    assert size_of(state) == before
    assert [path.name for path in state.path.iterdir()] == ["data.mdb"]
    assert state.get(object_key(3) + b"k") == b"x" * 4_000
    monkeypatch.undo()
    assert await shrinker.shrink(in_helper)
    assert size_of(state) < before
    assert shrinking_module.is_due(*state.sizes[:2]) is False


async def test_a_file_that_is_copied_on_write_is_made_anew_once(state: LmdbState) -> None:
    shrinker = Shrinker({state.shard: ShardStore(state)}, [state])
    assert await shrinker.shrink(in_helper)
    inode = (state.path / "data.mdb").stat().st_ino
    assert await shrinker.shrink(in_helper)
    assert (state.path / "data.mdb").stat().st_ino == inode
    state.is_copied_on_write = True
    assert await shrinker.shrink(in_helper)
    assert (state.path / "data.mdb").stat().st_ino != inode
    inode = (state.path / "data.mdb").stat().st_ino
    assert await shrinker.shrink(in_helper)
    assert (state.path / "data.mdb").stat().st_ino == inode


async def test_what_a_file_takes_is_known_without_reading_it(state: LmdbState) -> None:
    assert state.sizes.file_bytes == size_of(state)
    before = state.sizes
    assert before.free_bytes > 0.9 * before.file_bytes
    batch = state.begin()
    batch.put_many([(object_key(5_000) + b"k", b"x" * 40_000)])
    assert state.sizes is before
    batch.commit()
    assert state.sizes.file_bytes - state.sizes.free_bytes > before.file_bytes - before.free_bytes + 40_000
    await Shrinker({state.shard: ShardStore(state)}, [state]).shrink(in_helper)
    assert state.sizes.file_bytes == size_of(state)
