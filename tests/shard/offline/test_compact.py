"""shard/offline/compact.py: data files without the pages that hold nothing."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.damage import hide_row
from tests.support.data_directory import SHARDS, make_data_directory, state_file
from tidegate.shard.offline.check import Check
from tidegate.shard.offline.compact import compact_all
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.state.lmdb_state import LmdbState


def test_what_was_deleted_takes_no_room_and_what_was_not_is_the_same(tmp_path: Path) -> None:
    make_data_directory(tmp_path)
    with closing(LmdbState(state_file(tmp_path, 2).parent, 2)) as state:
        for seq in range(100, 103):
            batch = state.begin()
            batch.put_many([(b"\xe0" * 16 + b"%05d" % number, b"x" * 1_000) for number in range(2_000)])
            batch.set_applied_seq(seq)
            batch.commit()
        batch = state.begin()
        assert batch.delete_range(b"\xe0" * 16, b"\xe0" * 16 + b"\xff", 10_000)
        batch.commit()
        rows = list(state.scan(b"", b"\xff", False))
    before = state_file(tmp_path, 2).stat().st_size
    done = {each.shard: each for each in compact_all(tmp_path, SHARDS, lambda *_: None)}
    assert sorted(done) == list(range(SHARDS))
    assert done[2].before_bytes == before
    assert done[2].after_bytes == state_file(tmp_path, 2).stat().st_size < before / 20
    with closing(LmdbState(state_file(tmp_path, 2).parent, 2)) as state:
        assert (list(state.scan(b"", b"\xff", False)), state.applied_seq) == (rows, 102)


def test_a_large_file_is_looked_through_too_before_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one above the size that a start looks through, rows that could not be found any more were gone afterwards."""
    monkeypatch.setattr("tidegate.shard.store.state.data_file.STATE_VERIFY_BYTES_MAX", 0)
    make_data_directory(tmp_path)
    with closing(LmdbState(state_file(tmp_path, 1).parent, 1)) as state:
        keys = [key for key, _ in state.scan(b"", b"\x40", False)]
    hide_row(state_file(tmp_path, 1), keys[len(keys) // 2])
    before = state_file(tmp_path, 1).read_bytes()
    with pytest.raises(ShardDamaged, match=r"compact .*0001: page"):
        list(compact_all(tmp_path, SHARDS, lambda *_: None))
    assert state_file(tmp_path, 1).read_bytes() == before


def test_a_damaged_shard_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    make_data_directory(tmp_path)
    os.truncate(state_file(tmp_path, 1), 20_000)
    before = state_file(tmp_path, 1).read_bytes()
    with pytest.raises(ShardDamaged, match=r"compact .*0001"):
        list(compact_all(tmp_path, SHARDS, lambda *_: None))
    assert state_file(tmp_path, 1).read_bytes() == before
    assert {finding.shard for finding in Check(tmp_path, SHARDS, lambda *_: None).run()} == {1}
