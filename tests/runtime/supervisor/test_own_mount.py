"""runtime/supervisor/own_mount.py: another content of a data directory where a file system is mounted, interrupted anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.data_directory import make_data_directory
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor import folder_above
from tidegate.runtime.supervisor.directory import describe_directory, open_directory, open_idle_directory
from tidegate.runtime.supervisor.own_mount import BEFORE, is_interrupted, is_mount_point
from tidegate.runtime.supervisor.successor import Successor

STEPS = ("mkdir", "rename", "rmdir", "unlink", "fsync")
"""Functions of `os` that change what is on the disk."""


class Interrupted(BaseException):
    pass


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is taken for a mount point, with what such a one has, and old content."""
    data = tmp_path / "data"
    monkeypatch.setattr(folder_above, "is_mount_point", lambda path: path == data)
    open_directory(data, 2).close()
    (data / "lost+found").mkdir()
    for name in ("mine", "only-old"):
        (data / name).write_text("old")
    (data / "log" / "old").write_text("")
    return data


def replace(data: Path) -> Path | None:
    with Successor(data) as successor:
        (successor.path / "mine").write_text("new")
        for name in ("log", "shards"):
            (successor.path / name).mkdir()
        (successor.path / "log" / "new").write_text("")
        return successor.take_place(4, 7)


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


OLD = {"tidegate.json", "mine", "only-old", "log", "log/old", "shards"}
NEW = {"tidegate.json", "mine", "only-old", "log", "log/new", "shards"}  # A file that is no data is taken along.


def test_new_content_takes_the_place_and_the_old_is_kept_within(data: Path) -> None:
    before = os.stat(data / "lock").st_ino
    aside = replace(data)
    assert aside is not None
    assert aside.parent == data
    assert aside.name.startswith(BEFORE)
    assert listed(aside) == OLD
    assert listed(data) - {f"{aside.name}/{name}" for name in OLD} == NEW | {aside.name, "lock", "lost+found"}
    assert (data / "mine").read_text() == "new"
    assert describe_directory(data) == (4, 7)
    assert os.stat(data / "lock").st_ino == before, "who waits for it waits for the same"
    opened = open_directory(data, 1)
    assert (opened.shards, opened.start) == (4, 8)
    opened.close()
    replace(data)
    assert len([name for name in os.listdir(data) if name.startswith(BEFORE)]) == 2


def test_where_there_was_nothing_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new disk, on which there is what `mkfs` makes."""
    monkeypatch.setattr(folder_above, "is_mount_point", lambda path: path == tmp_path)
    (tmp_path / "lost+found").mkdir()
    assert replace(tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {"lost+found", "lock", "tidegate.json", "mine", "log", "shards"}


def test_what_is_not_put_in_place_is_removed_and_nothing_else_has_changed(data: Path) -> None:
    before = listed(data)
    with Successor(data) as successor:
        (successor.path / "mine").write_text("half")
    assert listed(data) == before


def test_no_service_starts_meanwhile(data: Path) -> None:
    with Successor(data), pytest.raises(OperatorError, match="in use"):
        open_directory(data, 2)


def interrupting(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], bool]:
    """The step of this number is not made, nor any later one. Tells whether there was one."""
    steps = [0]

    def stepping(step: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] > at:
                raise Interrupted
            return step(*args, **options)

        return made

    for name in STEPS:
        monkeypatch.setattr(os, name, stepping(getattr(os, name)))
    return lambda: steps[0] > at


OPENS: dict[str, Callable[[Path], object]] = {
    "described": describe_directory,
    "idle": lambda data: open_idle_directory(data).__exit__(),
    "served": lambda data: open_directory(data, 2).close(),
    "replaced again": lambda data: Successor(data).close(),
}


@pytest.mark.parametrize("opens", OPENS.values(), ids=OPENS)
def test_an_interruption_anywhere_leaves_the_old_content_or_the_new_one_to_who_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: Callable[[Path], object]
) -> None:
    """And an interruption of that as well."""
    seen: set[str] = set()
    for at in range(200):
        data = tmp_path / f"data-{at}"
        monkeypatch.setattr(folder_above, "is_mount_point", lambda path, data=data: path == data)
        open_directory(data, 2).close()
        for name in ("mine", "only-old", "log/old"):
            (data / name).write_text("old")
        with Successor(data) as successor:
            (successor.path / "mine").write_text("new")
            for name in ("log", "shards"):
                (successor.path / name).mkdir()
            with monkeypatch.context() as patch:
                was_interrupted = interrupting(patch, at)
                try:
                    successor.take_place(4, 7)
                except Interrupted:
                    pass
        state = "interrupted" if is_interrupted(data) else (data / "mine").read_text()
        seen.add(state)
        for again in range(at % 7, 40, 3) if state == "interrupted" else ():
            with monkeypatch.context() as patch:
                interrupting(patch, again)
                try:
                    opens(data)
                except Interrupted:
                    continue
            break
        else:
            opens(data)
        shards = describe_directory(data).shards
        kept = [path for path in data.iterdir() if path.name.startswith(BEFORE)]
        assert not is_interrupted(data)
        assert (data / "mine").read_text() == ("old" if shards == 2 else "new"), at
        assert (data / "log" / "old").exists() == (shards == 2), at
        assert [(path / "mine").read_text() for path in kept] == ([] if shards == 2 else ["old"]), at
        assert state == "interrupted" or (state == "old") == (shards == 2)
        if not was_interrupted():
            break
    else:
        raise AssertionError("there are more steps than were tried")
    assert seen == {"old", "interrupted", "new"}


# Really mounted

RESHARDED = """
set -eu
mount --make-rprivate /
mount -t tmpfs none "$1/a mount"
cp -a "$1/data/." "$1/a mount"
for shards in 8 2; do
    "$2" -m tidegate reshard "$1/a mount" --shards $shards
    "$2" -m tidegate check "$1/a mount"
done
mkdir "$1/bound"
mount --bind "$1/data" "$1/bound"
"$2" -m tidegate reshard "$1/bound" --shards 2 | tail -1
ls -A "$1" "$1/a mount"
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which alone mounts")
def test_a_mounted_directory_gets_another_number_of_shards(tmp_path: Path) -> None:
    (tmp_path / "a mount").mkdir()
    make_data_directory(tmp_path / "data")
    command = ["unshare", "--mount", "sh", "-c", RESHARDED, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("everything was read back") == 2
    assert f"is kept as {tmp_path}/bound/before-" in done.stdout
    assert "being-made" not in done.stdout


def test_a_folder_is_no_mount_point_and_what_the_kernel_lists_is_one(tmp_path: Path) -> None:
    assert is_mount_point(Path("/proc"))
    assert not is_mount_point(tmp_path)
