"""runtime/data/successor.py: a directory that takes the place of another in one step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tidegate.runtime.data import folder_above as module
from tidegate.runtime.data.directory import describe_directory, open_directory
from tidegate.runtime.data.replacing import sync
from tidegate.runtime.data.successor import Successor
from tidegate.runtime.errors import OperatorError


def test_where_there_is_nothing_it_takes_the_place_and_is_a_data_directory(tmp_path: Path) -> None:
    with Successor(tmp_path / "above" / "data") as successor:
        assert not successor.replaces
        (successor.path / "mine").write_text("new")
        assert successor.take_place(4, 7, "{}") is None
    assert (tmp_path / "above" / "data" / "mine").read_text() == "new"
    assert describe_directory(tmp_path / "above" / "data") == (4, 7)
    assert (tmp_path / "above" / "data" / "access.json").read_text() == "{}"
    opened = open_directory(tmp_path / "above" / "data", 1)
    assert (opened.shards, opened.start) == (4, 8)
    opened.close()


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_was_there_is_kept_beside_with_its_keys_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(module, "_exchanged", lambda one, other: False)
    data = tmp_path / "data"
    open_directory(data, 2).close()
    (data / "access.json").write_text("the keys of today")
    (data / "mine").write_text("old")
    with Successor(data) as successor:
        assert successor.replaces
        assert successor.starts_before == 1
        (successor.path / "mine").write_text("new")
        aside = successor.take_place(2, 1, "the keys of the backup")
        assert aside is not None
        with pytest.raises(OperatorError, match="in use"):
            open_directory(data, 2)
    assert (data / "mine").read_text() == "new"
    assert (aside / "mine").read_text() == "old"
    assert (data / "access.json").read_text() == "the keys of today"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", aside.name]


def test_what_is_not_put_in_place_is_removed_and_nothing_else_has_changed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    open_directory(data, 2).close()
    before = sorted(data.rglob("*"))
    with Successor(data) as successor:
        (successor.path / "mine").write_text("half")
    assert sorted(data.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_killed_run_has_left_is_removed_and_that_of_a_running_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "data.being-made-0123").mkdir()
    with Successor(tmp_path / "data") as first:
        assert not (tmp_path / "data.being-made-0123").exists()
        with Successor(tmp_path / "data"):
            assert first.path.exists()


def test_a_directory_in_use_is_not_replaced_and_a_damaged_one_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    opened = open_directory(data, 2)
    with pytest.raises(OperatorError, match="in use"):
        Successor(data)
    opened.close()
    (data / "tidegate.json").write_text("{")
    with Successor(data) as successor:
        assert successor.starts_before == 0
        successor.take_place(2, 9)
    assert describe_directory(data) == (2, 9)
    assert [path.name for path in tmp_path.iterdir() if "being" in path.name] == []


def test_a_folder_that_cannot_be_written_into_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="make a directory beside"):
        Successor(tmp_path / "file" / "data")


@pytest.mark.parametrize("renames", [1, 2, 3, 4])
def test_one_that_ends_in_the_middle_of_taking_the_place_removes_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Also where both cannot be exchanged in one step."""
    data = tmp_path / "data"
    open_directory(data, 2).close()
    (data / "mine").write_text("old")
    left, rename = renames, Path.rename

    def renames_so_often(self: Path, target: Path) -> Path:
        nonlocal left
        if ".before-" in str(self) or ".before-" in str(target) or ".being-made-" in str(self):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(module, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", renames_so_often)
    try:
        with Successor(data) as successor:
            (successor.path / "mine").write_text("new")
            successor.take_place(2, 1)
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    assert sorted(path.read_text() for path in tmp_path.glob("*/mine")) == ["new", "old"]


def test_what_cannot_be_synced_once_it_is_in_place_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    open_directory(data, 2).close()
    (data / "mine").write_text("old")

    def fails(path: Path) -> None:
        if path == tmp_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(path)

    monkeypatch.setattr(module, "sync", fails)
    with Successor(data) as successor:
        (successor.path / "mine").write_text("new")
        with pytest.raises(OperatorError, match="put in place"):
            successor.take_place(2, 1)
    assert [path.read_text() for path in tmp_path.glob("*before*/mine")] == ["old"]
    assert (data / "mine").read_text() == "new"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(OperatorError, match="no data directory of Tidegate"):
        Successor(tmp_path / "photos")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.jpg", "photos"]
    (tmp_path / "data" / "log").mkdir(parents=True)
    (tmp_path / "data" / "shards").mkdir()
    Successor(tmp_path / "data").close()
