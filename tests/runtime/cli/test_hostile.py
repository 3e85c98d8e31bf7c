"""What nobody should type, or find on his disk: one line, an exit code, and nothing done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.runtime.cli.cli import main
from tidegate.runtime.data.directory import open_directory

LONG = "x" * 300
"""Longer than a name of a file may be."""
NOT_UTF8 = os.fsdecode(b"n\xff")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    open_directory(tmp_path / "data", 2).close()
    os.symlink("loop", "loop")
    (tmp_path / "app.py").write_text("from tidegate import DurableObject\n")
    (tmp_path / "file").touch()
    return tmp_path


def typed(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", ""],
        ["backup", "out", "--data", ""],
        ["restore", "", "--list"],
        ["restore", "out", "--data", ""],
        ["check", ""],
        ["reshard", "", "--shards", "4"],
        ["export", ""],
        ["lint", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_folder_where_it_is_typed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(*arguments) == 2
    assert "must not be empty" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["app.py", "data", "file", "loop"]


@pytest.mark.parametrize("arguments", [["delete", "Counter", "alice", ""], ["delete", "Counter", "alice", "", "--yes"]])
def test_an_empty_key_is_not_the_whole_object(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Which it was, and without --yes."""
    assert typed("objects", *arguments, "--connect", "tcp://127.0.0.1:1") == 2
    assert "argument KEY: must not be empty" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["", "x" * 65, NOT_UTF8])
def test_what_is_no_name_of_a_call_is_an_error_of_the_command_line(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("call", "--key", key, "Counter", "alice", "one", "--connect", "tcp://127.0.0.1:1") == 2
    assert "a key has 1 to 64 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["backup", "loop", "--data", "data"], "Too many levels of symbolic links"),
        (["backup", NOT_UTF8, "--data", "data"], "its path is not UTF-8"),
        (["backup", LONG, "--data", "data"], "File name too long"),
        (["restore", LONG, "--list"], "File name too long"),
        (["restore", "a\nb", "--list"], "list a\\nb: there is no complete backup"),
        (["check", LONG], "File name too long"),
        (["check", "file"], "there is no such directory"),
        (["check", "a\nb"], "a\\nb: there is no such directory"),
        (["lint", LONG], "File name too long"),
        (["lint", "a\nb.py"], "a\\nb.py: there is no such file"),
        (["new", LONG], "File name too long"),
        (["objects", "import", "none", "--connect", "tcp://127.0.0.1:1"], "No such file or directory"),
        (["keys", "list", "--access", "loop"], "Too many levels of symbolic links"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_worked_on_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tidegate: ")
    assert says in line
    assert line.endswith(")"), "the next step"


@pytest.mark.parametrize("at", ["9" * 400 + "d", "0001-01-01T00:00:00", "soon", "-1d", "1e9d"])
def test_a_time_that_is_none_is_an_error_of_the_command_line(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("restore", "out", "--data", "new", f"--at={at}") == 2
    assert "must be a time like 2026-11-29T12:30:00Z" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "..", "./"])
def test_the_folder_where_one_is_can_be_looked_through(place: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = here / "inner"
    inner.mkdir()
    (inner / "shop.py").write_text("x = 1\n")
    monkeypatch.chdir(inner)
    assert typed("lint", place) == 0
