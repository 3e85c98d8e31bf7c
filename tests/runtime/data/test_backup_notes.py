"""runtime/data/backup_notes.py: how backups went, all of it or as it was before."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidegate.runtime.data.backup_notes import (
    ERROR_CHARACTERS_MAX,
    NAME,
    forget_place,
    note_failure,
    note_success,
    read_notes,
)
from tidegate.runtime.data.backups import BackupNote


def test_of_each_place_the_last_one_and_the_newest_that_succeeded_are_known(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == ()
    note_success(tmp_path, "/b", 10, "one/1", 60.0)
    note_success(tmp_path, "/a", 11, "two/1", 0.0)
    note_failure(tmp_path, "/b", 12, "no room", 0.0)
    b = BackupNote("/b", 12, "no room", 10, "one/1", 60.0)
    assert read_notes(tmp_path) == (BackupNote("/a", 11, "", 11, "two/1"), b)
    note_success(tmp_path, "/b", 13, "one/2", 0.0)
    assert read_notes(tmp_path)[1] == BackupNote("/b", 13, "", 13, "one/2", 60.0), "when the next is due stays until it is said"
    note_success(tmp_path, "/b", 14, "one/3", 5.0)
    assert read_notes(tmp_path)[1].due_s == 5.0
    assert forget_place(tmp_path, "/b")
    assert not forget_place(tmp_path, "/b")
    assert [note.place for note in read_notes(tmp_path)] == ["/a"]
    assert os.listdir(tmp_path) == [NAME]
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_one_that_fails_before_any_has_succeeded_is_known_with_its_reason(tmp_path: Path) -> None:
    note_failure(tmp_path, "/b", 12, "x" * 10_000, 60.0)
    assert read_notes(tmp_path) == (BackupNote("/b", 12, "x" * ERROR_CHARACTERS_MAX, 0, "", 60.0),)


def test_what_cannot_be_read_is_told_and_written_anew(tmp_path: Path) -> None:
    beyond_time = b'[{"place": "/b", "ended_ms": 1000000000000000000}]'
    for text in (b"", b"{}", b'[{"place": 1}]', b"\xff", beyond_time):
        (tmp_path / NAME).write_bytes(text)
        with pytest.raises(ValueError, match=r"\w"):
            read_notes(tmp_path)
    note_success(tmp_path, "/b", 10, "one/1", 0.0)
    assert [note.place for note in read_notes(tmp_path)] == ["/b"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_success(tmp_path, "/b", 10, "one/1", 0.0)

    def no_room(fd: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="no space left"):
        note_success(tmp_path, "/b", 11, "one/2", 0.0)
    assert [note.backup for note in read_notes(tmp_path)] == ["one/1"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_what_lies_where_it_is_written_is_not_written_through(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    (other := tmp_path / "other").write_text("mine")
    link(other, tmp_path / f"{NAME}.new")
    note_success(tmp_path, "/b", 10, "one/1", 0.0)
    assert other.read_text() == "mine"
    assert [note.place for note in read_notes(tmp_path)] == ["/b"]
    assert not (tmp_path / NAME).is_symlink()


def test_backups_to_many_places_that_end_at_once_are_all_known(tmp_path: Path) -> None:
    places = [f"/{number:02}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda place: note_success(tmp_path, place, 1, "one/1", 0.0), places))
    assert [note.place for note in read_notes(tmp_path)] == places


def test_one_that_fails_at_a_place_that_is_not_known_may_leave_no_word(tmp_path: Path) -> None:
    note_failure(tmp_path, "/typo", 10, "no such folder", 0.0, only_known=True)
    assert not (tmp_path / NAME).exists()
    note_success(tmp_path, "/b", 10, "one/1", 0.0)
    note_failure(tmp_path, "/b", 11, "no room", 0.0, only_known=True)
    assert [note.error for note in read_notes(tmp_path)] == ["no room"]
