"""shard/store/checkpoints/room.py: room on the disk that is kept back for checkpoints and deletes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tidegate.shard.log.commit_log import LogWithoutRoom
from tidegate.shard.store.checkpoints.room import Room

SIZE = 4 << 20


class Log:
    """Has room for a small segment only where a reserve was given up."""

    def __init__(self, reserve: Path | None = None) -> None:
        self.may_grow = True
        self.reserve = reserve
        self.prepared: list[bool] = []

    def prepare_segment(self, *, small: bool = False) -> None:
        if not self.may_grow or (self.reserve is not None and self.reserve.exists()):
            raise LogWithoutRoom("prepare segment in", "log", "no space left", "free some")
        self.prepared.append(small)


def test_the_reserve_is_real_room_that_is_given_back_and_taken_again(tmp_path: Path) -> None:
    log = Log()
    room = Room(tmp_path / "reserve-0", SIZE, log)
    room.keep()
    assert (tmp_path / "reserve-0").stat().st_blocks * 512 >= SIZE
    assert (room.kept_bytes, log.may_grow) == (SIZE, True)
    assert room.use()
    assert (list(tmp_path.iterdir()), log.may_grow) == ([], False)
    assert not room.use()
    room.keep()
    assert (room.kept_bytes, log.may_grow) == (SIZE, True)


def test_a_reserve_of_an_earlier_process_is_found_and_may_be_used(tmp_path: Path) -> None:
    Room(tmp_path / "reserve-0", SIZE).keep()
    assert Room(tmp_path / "reserve-0", SIZE).use()


def test_what_cannot_be_had_for_another_reason_keeps_nobody_from_growing(tmp_path: Path) -> None:
    log = Log()
    log.may_grow = False
    Room(tmp_path / "no such directory" / "reserve-0", SIZE, log).keep()
    assert log.may_grow


def test_a_log_that_is_checkpointed_gets_a_small_segment_out_of_the_reserve_where_there_is_no_other_room(tmp_path: Path) -> None:
    log = Log(tmp_path / "reserve-0")
    room = Room(tmp_path / "reserve-0", SIZE, log)
    room.keep()
    room.lend()
    assert (log.prepared, room.kept_bytes, log.may_grow) == ([True], SIZE, True)
    roomy = Log()
    Room(tmp_path / "reserve-1", SIZE, roomy).lend()
    assert roomy.prepared == [False]


def test_what_is_kept_for_others_goes_before_the_reserve_does(tmp_path: Path) -> None:
    log, kept = Log(), [True]
    room = Room(tmp_path / "reserve-0", SIZE, log, lambda: bool(kept and kept.pop()))
    room.keep()
    assert room.use()
    assert (room.kept_bytes, log.may_grow, kept) == (SIZE, True, []), "the reserve is there still"
    assert room.use()
    assert (room.kept_bytes, log.may_grow) == (0, False)


def test_a_reserve_for_which_there_is_no_room_gets_what_is_kept_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [True]
    allocate = os.posix_fallocate

    def full_while_it_is_kept(fd: int, start: int, size: int) -> None:
        if kept:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(fd, start, size)

    monkeypatch.setattr(os, "posix_fallocate", full_while_it_is_kept)
    room = Room(tmp_path / "reserve-0", SIZE, log := Log(), lambda: bool(kept and kept.pop()))
    room.keep()
    assert (room.kept_bytes, log.may_grow) == (SIZE, True)
