"""shard/store/state/data_file.py: data files of older formats, and how a file is made anew."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from tests.support.damage import write_format_1
from tidegate.runtime.errors import OperatorError
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.state import data_file
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.pages import PageFile, Verifier

ROWS = {b"\x02%015dk" % number: b"value %d" % number for number in range(3_000)}


def read(state: LmdbState) -> dict[bytes, bytes]:
    return dict(state.scan(b"", b"\xfe", False))


def test_a_state_without_checksums_is_written_again_with_them_once(tmp_path: Path) -> None:
    place = tmp_path / "shards" / "0003"
    write_format_1(place, 3, ROWS, 77)
    state = LmdbState(place, 3)
    assert (read(state), state.applied_seq) == (ROWS, 77)
    state.close()
    written = (place / "data.mdb").stat()
    with PageFile(place / "data.mdb") as pages:
        assert list(Verifier(pages).run()) == []
        assert data_file.format_of(pages) == data_file.FORMAT
    state = LmdbState(place, 3)
    assert (read(state), state.applied_seq) == (ROWS, 77)
    state.close()
    assert (place / "data.mdb").stat().st_ino == written.st_ino
    assert [path.name for path in place.iterdir()] == ["data.mdb"]


def test_an_upgrade_that_is_cut_short_leaves_the_old_state_and_is_made_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "0003"
    write_format_1(place, 3, ROWS, 77)
    before = (place / "data.mdb").read_bytes()
    (place / "new-x").mkdir()
    (place / "new-x" / "data.mdb").write_bytes(b"half a file")

    def no_room(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(data_file, "sync_file", no_room)
    with pytest.raises(OperatorError, match=r"(?i)no space left"):
        LmdbState(place, 3)
    assert (place / "data.mdb").read_bytes() == before
    monkeypatch.undo()
    state = LmdbState(place, 3)
    assert (read(state), state.applied_seq) == (ROWS, 77)
    state.close()


def test_an_upgrade_that_takes_long_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(data_file, "PROGRESS_S", 0.0)
    monkeypatch.setattr(data_file, "WRITE_ROWS", 1_000)
    write_format_1(tmp_path / "0003", 3, ROWS, 77)
    with caplog.at_level(logging.INFO, "tidegate"):
        LmdbState(tmp_path / "0003", 3).close()
    assert "upgrading the store of shard 3: 66 %" in caplog.text


def test_a_state_without_checksums_whose_pages_do_not_hold_together_is_not_upgraded(tmp_path: Path) -> None:
    write_format_1(tmp_path / "0003", 3, ROWS, 77)
    file = tmp_path / "0003" / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)
    before = file.read_bytes()
    with pytest.raises(ShardDamaged, match="cut short"):
        LmdbState(tmp_path / "0003", 3)
    assert file.read_bytes() == before
