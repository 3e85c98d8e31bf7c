"""shard/backup/depot.py: named bytes in a folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup import depot as module
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.backup.places import open_depot


def test_what_is_put_is_there_under_its_name_for_its_owner_only(tmp_path: Path) -> None:
    depot = FolderDepot(tmp_path / "depot")
    assert depot.list() == []
    assert depot.get("lineage/one") is None
    depot.put("lineage/two", b"2")
    depot.put("lineage/one", b"1")
    depot.put("other/one", b"3")
    depot.put("lineage/one", b"1 again")
    assert depot.list() == ["lineage/one", "lineage/two", "other/one"]
    assert depot.list("lineage/o") == ["lineage/one"]
    assert depot.get("lineage/one") == b"1 again"
    assert stat.S_IMODE((tmp_path / "depot" / "lineage" / "one").stat().st_mode) == 0o600


def test_what_was_begun_and_not_finished_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depot = FolderDepot(tmp_path)
    depot.put("lineage/one", b"old")

    def no_room(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OperatorError, match="make room there and run the same command again") as raised:
        depot.put("lineage/one", b"new")
    assert raised.value.passes
    monkeypatch.undo()
    assert depot.get("lineage/one") == b"old"
    assert depot.list() == ["lineage/one"]


def test_what_is_deleted_is_gone_and_its_folder_with_the_last(tmp_path: Path) -> None:
    depot = FolderDepot(tmp_path)
    depot.put("lineage/one", b"1")
    depot.put("lineage/two", b"2")
    depot.delete("lineage/one")
    depot.delete("lineage/one")
    assert depot.list() == ["lineage/two"]
    depot.delete("lineage/two")
    assert list(tmp_path.iterdir()) == []


def test_what_goes_away_while_it_is_listed_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depot = FolderDepot(tmp_path)
    for name in ("a/one", "b/one", "c/one"):
        depot.put(name, b"1")
    real = module._entries

    def entries(path: Path) -> list[os.DirEntry[str]]:
        found = real(path)
        if path.name == "a":
            depot.delete("a/one")
            depot.delete("b/one")
        return found

    monkeypatch.setattr(module, "_entries", entries)
    assert depot.list() == ["c/one"]


def test_a_stamp_is_another_one_when_something_else_is_put(tmp_path: Path) -> None:
    depot = FolderDepot(tmp_path)
    depot.put("a/one", b"1")
    depot.put("a/two", b"2")
    before = depot.stamps("a/")
    assert depot.stamps() == before
    depot.put("a/one", b"3")
    assert {name for name, stamp in depot.stamps().items() if stamp != before[name]} == {"a/one"}


def test_a_place_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert open_depot(str(tmp_path / "x")).place == str(tmp_path / "x")
    with pytest.raises(OperatorError, match="ftp://host/x"):
        open_depot("ftp://host/x")
