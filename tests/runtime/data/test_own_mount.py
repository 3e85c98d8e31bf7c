"""runtime/data/own_mount.py: another content of a data directory where a file system is mounted, interrupted anywhere."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.data_directory import make_data_directory
from tidegate.runtime.data import folder_above, own_mount
from tidegate.runtime.data.directory import describe_directory, open_directory, open_idle_directory
from tidegate.runtime.data.own_mount import BEFORE, is_interrupted, is_mount_point
from tidegate.runtime.data.successor import Successor
from tidegate.runtime.errors import OperatorError

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
    fill(data)
    return data


def fill(data: Path) -> None:
    (data / "lost+found").mkdir()
    for name in ("mine", "audit.jsonl", "of others", "log/old"):
        (data / name).write_text("old")
    (data / "backups").mkdir()


def replace(data: Path) -> Path | None:
    with Successor(data) as successor:
        make_new(successor.path)
        return successor.take_place(4, 7)


def make_new(path: Path) -> None:
    (path / "mine").write_text("new")
    for name in ("log", "shards"):
        (path / name).mkdir()
    (path / "log" / "new").write_text("")


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


OLD = {"tidegate.json", "mine", "audit.jsonl", "log", "log/old", "shards"}
NEW = {"tidegate.json", "mine", "audit.jsonl", "log", "log/new", "shards"}  # A file that is no data is taken along.
STAYS = {"lock", "lost+found", "of others", "backups"}


def test_new_content_takes_the_place_and_the_old_is_kept_within(data: Path) -> None:
    before = os.stat(data / "lock").st_ino
    aside = replace(data)
    assert aside is not None
    assert aside.parent == data
    assert aside.name.startswith(BEFORE)
    assert listed(aside) == OLD
    assert listed(data) - {f"{aside.name}/{name}" for name in OLD} == NEW | STAYS | {aside.name}
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


def check_whole(data: Path) -> int:
    """That it has all of the one content or all of the other. How many shards that has: 2 the old one, 4 the new."""
    shards = describe_directory(data).shards
    kept = [path for path in data.iterdir() if path.name.startswith(BEFORE)]
    assert not is_interrupted(data)
    assert (data / "mine").read_text() == ("old" if shards == 2 else "new")
    assert (data / "log" / "old").exists() == (shards == 2)
    assert (data / "log" / "new").exists() == (shards == 4)
    assert [listed(path) for path in kept] == ([] if shards == 2 else [OLD])
    assert {path.name for path in data.iterdir()} >= STAYS
    return shards


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
        fill(data)
        with Successor(data) as successor:
            make_new(successor.path)
            with monkeypatch.context() as patch:
                was_interrupted = interrupting(patch, at)
                with suppress(Interrupted):
                    successor.take_place(4, 7)
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
        shards = check_whole(data)
        assert state == "interrupted" or (state == "old") == (shards == 2)
        if not was_interrupted():
            break
    else:
        raise AssertionError("there are more steps than were tried")
    assert seen == {"old", "interrupted", "new"}


# What cannot be moved


def failing(monkeypatch: pytest.MonkeyPatch, at: int, number: int) -> Callable[[], bool]:
    """The step of this number fails, and no other. Tells whether it was reached."""
    steps = [0]

    def stepping(step: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] == at:
                raise OSError(number, os.strerror(number))
            return step(*args, **options)

        return made

    for name in STEPS:
        monkeypatch.setattr(os, name, stepping(getattr(os, name)))
    return lambda: steps[0] >= at


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOSPC])
def test_a_step_that_fails_leaves_the_old_content_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The old one at once, as long as not all of it is aside."""
    seen: set[str] = set()
    for at in range(1, 200):
        data = tmp_path / f"data-{at}"
        monkeypatch.setattr(folder_above, "is_mount_point", lambda path, data=data: path == data)
        open_directory(data, 2).close()
        fill(data)
        with Successor(data) as successor:
            make_new(successor.path)
            with monkeypatch.context() as patch:
                has_failed = failing(patch, at, number)
                with suppress(OperatorError):
                    successor.take_place(4, 7)
        was_interrupted = is_interrupted(data)
        if not was_interrupted:
            assert not list(data.glob(".being-made-*")), "the room that it has needed is given back"
        shards = check_whole(data)
        assert not was_interrupted or shards == 4
        seen.add(f"{shards}, {was_interrupted}")
        if not has_failed():
            break
    else:
        raise AssertionError("there are more steps than were tried")
    assert seen == {"2, False", "4, True", "4, False"}


def refusing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever has this name cannot get another, nor go into another folder."""
    rename = os.rename

    def renamed(old: Path, new: Path) -> None:
        if Path(old).name == name:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rename(old, new)

    monkeypatch.setattr(os, "rename", renamed)


@pytest.mark.parametrize("name", ["log", "tidegate.json", "audit.jsonl"])
def test_where_an_entry_cannot_be_moved_nothing_is_replaced_and_it_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = listed(data)
    refusing(monkeypatch, name)
    with pytest.raises(OperatorError, match=f"move .*/data/{name}: Device or resource busy .unmount what is mounted"):
        replace(data)
    assert listed(data) == before
    assert check_whole(data) == 2


@pytest.mark.parametrize("opens", OPENS.values(), ids=OPENS)
def test_what_was_interrupted_and_cannot_be_ended_is_taken_back_by_who_opens_it(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, opens: Callable[[Path], object]
) -> None:
    rename, moved = os.rename, 0

    def renamed_twice(old: Path, new: Path) -> None:
        nonlocal moved
        moved += Path(new).parent.name.startswith(BEFORE)
        if moved > 2:
            raise Interrupted
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", renamed_twice)
        with pytest.raises(Interrupted):
            replace(data)
    assert is_interrupted(data)
    stuck = next(name for name in ("shards", "log", "mine", "audit.jsonl", "tidegate.json") if (data / name).exists())
    refusing(monkeypatch, stuck)
    opens(data)
    assert check_whole(data) == 2
    assert any("has again what it had" in message and f"data/{stuck}: Device" in message for message in caplog.messages)


def test_a_mount_point_within_is_named_before_anything_is_made(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_mount, "is_mount_point", lambda path: path.name in ("audit.jsonl", "backups"))
    before = listed(data)
    with pytest.raises(OperatorError, match=r"move .*/data/audit\.jsonl: Device or resource busy"):
        Successor(data)
    assert listed(data) == before


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may make a file immutable")
def test_what_may_not_be_changed_is_named_before_anything_is_made(data: Path) -> None:
    before = listed(data)
    if subprocess.run(["chattr", "+i", data / "audit.jsonl"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs a file system with immutable files")
    try:
        with pytest.raises(OperatorError, match=r"move .*/data/audit\.jsonl: Operation not permitted"):
            Successor(data)
    finally:
        subprocess.run(["chattr", "-i", data / "audit.jsonl"], check=True)
    assert listed(data) == before


def test_what_a_killed_run_has_left_on_an_empty_disk_keeps_no_service_from_starting(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".being-made-01234567" / "shards").mkdir(parents=True)
    (tmp_path / f"{BEFORE}20261130T081500Z").mkdir()
    open_directory(tmp_path, 2).close()
    assert describe_directory(tmp_path) == (2, 1)


def test_a_folder_of_others_that_begins_alike_is_one_of_others(tmp_path: Path) -> None:
    (tmp_path / f"{BEFORE}the move").mkdir()
    with pytest.raises(OperatorError, match="before-the move"):
        open_directory(tmp_path, 2)


@pytest.mark.parametrize(("stage", "had"), [("_make_room", False), ("_move_out", True)], ids=["empty disk", "all aside"])
def test_an_interrupted_one_of_which_nothing_is_in_place_is_replaced_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, had: bool
) -> None:
    """Not taken for an empty directory: it counts starts, has keys in force, and is kept."""
    monkeypatch.setattr(folder_above, "is_mount_point", lambda path: path == tmp_path)
    if had:
        open_directory(tmp_path, 2).close()
        (tmp_path / "access.json").write_text("of today")
    with monkeypatch.context() as patch:
        patch.setattr(own_mount, stage, stop)
        with Successor(tmp_path) as successor:
            make_new(successor.path)
            with pytest.raises(Interrupted):
                successor.take_place(4, 7, "of today")
    with Successor(tmp_path) as successor:
        assert successor.replaces
        assert successor.starts_before == 7
        make_new(successor.path)
        assert successor.take_place(4, 8, "of the backup") is not None
    assert (tmp_path / "access.json").read_text() == "of today"


def stop(*_: object) -> None:
    raise Interrupted


def test_the_folder_above_need_not_be_readable(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(own_mount, "sync", synced.append)
    replace(data)
    assert data in synced
    assert data.parent not in synced


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
mkdir "$1/a mount/of others"
echo theirs > "$1/a mount/of others/file"
mount --bind "$1/a mount/of others" "$1/a mount/of others"
"$2" -m tidegate reshard "$1/a mount" --shards 8
cat "$1/a mount/of others/file"
mount --bind "$1/a mount/log" "$1/a mount/log"
"$2" -m tidegate reshard "$1/a mount" --shards 2 && exit 9
umount "$1/a mount/log"
"$2" -m tidegate check "$1/a mount"
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
    assert done.stdout.count("everything was read back") == 3
    assert "theirs" in done.stdout
    assert f"move {tmp_path}/a mount/log: Device or resource busy (unmount what is mounted there" in done.stderr
    assert f"is kept as {tmp_path}/bound/before-" in done.stdout
    assert "being-made" not in done.stdout


def test_a_folder_is_no_mount_point_and_what_the_kernel_lists_is_one(tmp_path: Path) -> None:
    assert is_mount_point(Path("/proc"))
    assert not is_mount_point(tmp_path)
