"""Room on the disk: deletes get through when it is full, and what was deleted is given back."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import struct
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.crash.boxes import BOX_NAMES, BOXES, fill_boxes, serve_boxes
from tests.crash.disk import MakeDisk
from tests.crash.test_full_disk import FULL, fill_until_refused
from tests.shard.store.test_worker_store import with_store, write
from tests.support.load import read_many
from tests.support.service import KILLED_BY_TEST, Serve, Service, exchange
from tests.support.waiting import wait_until
from tidegate.shard.log.commit_log import LogFull
from tidegate.shard.store.checkpoints.room import Room
from tidegate.shard.store.checkpoints.shrinking import Shrinker
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.store import ShardStore
from tidegate.shard.store.worker_store import WorkerStore

APP = (
    BOXES
    + """
    async def empty(self) -> None:
        await self.storage.delete_all()
"""
)


def problems(service: Service) -> list[dict[str, str]]:
    status = wait_until(lambda: told_space(service), "what the worker takes of the disk, which it tells a moment after its start")
    return list(status["problems"])


def told_space(service: Service) -> dict[str, Any]:
    status: dict[str, Any] = exchange(service.endpoint, "", "", "status", [])[1]
    worker = next(process for process in status["processes"] if process["name"] == "worker 0")
    space = worker["statistics"].get("space")
    if space is None:
        return {}
    assert space["log_bytes"] > 0
    assert space["state_bytes"] > 0
    return status


RESERVE_BYTES = 4 << 20


class Log:
    may_grow = True

    def prepare_segment(self, *, small: bool = False) -> None:
        raise NotImplementedError


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_deletes_get_through_on_a_full_disk_and_make_room(make_disk: MakeDisk, serve: Serve, tmp_path: Path, kind: str) -> None:
    disk = make_disk(400 << 20, kind)
    service, turns = serve_boxes(serve, tmp_path, disk, APP)
    service.expect(FULL, KILLED_BY_TEST, "no checkpoint before the stop")
    fill_until_refused(service, disk, turns)
    later_turns = itertools.count(100)

    def shows_that_there_is_no_room() -> bool:
        """A checkpoint may have made some since, in segments and pages that were there already."""
        fill_boxes(service, next(later_turns), turns)
        disk.fill_to_the_last_block()
        return "there is no room" in str(problems(service))

    wait_until(shows_that_there_is_no_room, "the problem", seen=lambda: problems(service), pause_s=0.1)
    for name in BOX_NAMES:
        assert exchange(service.endpoint, "Box", name, "empty", [], timeout_s=30) == (0, None), name
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == [-1] * len(BOX_NAMES)

    # What they held is there for others, though who has taken the rest of the disk has it still.
    write = partial(exchange, service.endpoint, "Box", "b0", "fill", [500_000, 7])
    wait_until(lambda: write()[0] == 0, "room to write", pause_s=0.2, seen=lambda: service.output[-4_000:])
    wait_until(lambda: problems(service) == [], "no problem", seen=lambda: problems(service))
    for name in BOX_NAMES[1:8]:
        assert exchange(service.endpoint, "Box", name, "fill", [500_000, 7]) == (0, 7)
    expected = [7] * 8 + [-1] * (len(BOX_NAMES) - 8)
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == expected
    assert service.stop() == 0
    service.start(1)
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == expected


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_on_a_full_disk_it_takes_what_there_is_and_the_log_may_not_grow_until_it_is_whole(make_disk: MakeDisk, kind: str) -> None:
    disk = make_disk(300 << 20, kind)
    log = Log()
    room = Room(disk.place / "reserve-0", RESERVE_BYTES, log)
    disk.fill(leave_bytes=3 << 20)
    room.keep()
    assert 0 < room.kept_bytes < RESERVE_BYTES
    assert not log.may_grow
    room.keep()
    assert not log.may_grow
    disk.empty()
    room.keep()
    assert (room.kept_bytes, log.may_grow) == (RESERVE_BYTES, True)


def write_for_ever(store: WorkerStore) -> None:
    while True:
        write(store, 0, {"a": bytes(512 << 10)})


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_room_is_found_again_though_nobody_writes(make_disk: MakeDisk, kind: str) -> None:
    disk = make_disk(300 << 20, kind)

    async def test(store: WorkerStore) -> None:
        for _ in range(3):  # The state has pages then that it can use again.
            write(store, 0, {"a": bytes(512 << 10)})
            await store.checkpointer.finish()
        assert store.room is not None
        store.room.use()
        disk.fill_to_the_last_block()
        with pytest.raises(LogFull):
            write_for_ever(store)
        await store.checkpointer.finish()
        disk.fill_to_the_last_block()
        with pytest.raises(LogFull):
            await store.checkpointer.make_room()
        assert store.checkpointer.without_room is not None
        await store.upkeep.look()
        assert store.checkpointer.without_room is not None
        disk.empty()
        await store.upkeep.look()
        assert store.checkpointer.without_room is None
        write(store, 0, {"a": b"there is room"})

    with_store(disk.place / "data", test)


NOCOW_FL, GETFLAGS = 0x0080_0000, 0x8008_6601


@pytest.mark.root
def test_data_files_on_btrfs_are_written_in_place_also_those_that_were_made_smaller(make_disk: MakeDisk) -> None:
    """What they hold stands where it stood, so a checkpoint on a full disk needs no room for pages that the file has already. One
    that was restored from elsewhere is made anew after a checkpoint."""

    def in_place(file: Path) -> bool:
        with file.open("rb") as opened:
            return bool(struct.unpack("I", fcntl.ioctl(opened, GETFLAGS, bytes(4)))[0] & NOCOW_FL)

    place = make_disk(300 << 20, "btrfs").place / "0000"
    place.mkdir()
    state = LmdbState(place, 0)
    assert in_place(place / "data.mdb")
    state.close()
    (place / "copy").write_bytes((place / "data.mdb").read_bytes())
    subprocess.run(["chattr", "-C", str(place)], check=True)  # As a backup is restored.
    (place / "restored").write_bytes((place / "copy").read_bytes())
    (place / "restored").rename(place / "data.mdb")
    assert not in_place(place / "data.mdb")
    state = LmdbState(place, 0)
    assert state.is_copied_on_write
    asyncio.run(Shrinker({0: ShardStore(state)}, [state]).shrink(asyncio.to_thread))
    assert in_place(place / "data.mdb")
    assert not state.is_copied_on_write
    state.close()
    state = LmdbState(place, 0)
    assert not state.is_copied_on_write
    state.close()
