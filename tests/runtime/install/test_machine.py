"""What is looked at and done on a machine, in folders of the test. `tests/systemd` installs a whole service."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.service import COUNTER
from tidegate.runtime.cli.cli import main
from tidegate.runtime.data import own_mount
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.install import machine
from tidegate.runtime.install.plan import Keep, Places, Remove, Run, Write

SAY: Callable[[str], None] = print


def test_a_file_is_written_with_its_mode_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    said: list[str] = []
    for text in ("one", "two"):
        machine.carry_out([Write(str(path), text, 0o600, secret=True)], said.append)
        assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (text, 0o600)
    assert os.listdir(path.parent) == ["secret"]
    assert said == [f"write {path}"] * 2


def test_a_link_at_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "others").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "others")
    machine.carry_out([Write(str(tmp_path / "link"), "ours", 0o644)], SAY)
    assert (tmp_path / "others").read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()


def test_folders_that_are_not_empty_are_removed_only_as_a_whole(tmp_path: Path) -> None:
    for name in ("kept", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    steps = [Remove(str(tmp_path / "kept")), Remove(str(tmp_path / "gone"), whole=True), Remove(str(tmp_path / "never"))]
    machine.carry_out([*steps, Keep("it", "why")], SAY)
    assert os.listdir(tmp_path) == ["kept"]


def test_a_command_that_fails_ends_the_plan_with_what_it_said(tmp_path: Path) -> None:
    fails = ("sh", "-c", "echo no such thing >&2; exit 3")
    with pytest.raises(OperatorError, match="no such thing"):
        machine.carry_out([Run(fails), Write(str(tmp_path / "never"), "", 0o644)], SAY)
    assert not os.listdir(tmp_path)
    machine.carry_out([Run(fails, may_fail=True)], SAY)


def test_a_program_that_is_not_there_is_said_with_its_name() -> None:
    with pytest.raises(OperatorError, match="no-such-program"):
        machine.carry_out([Run(("no-such-program", "x"))], SAY)


def test_a_start_that_takes_too_long_is_left_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "COMMAND_S_MAX", 0.05)
    with pytest.raises(OperatorError, match="goes on by itself"):
        machine.carry_out([Run(("sleep", "60"))], SAY)


@pytest.mark.parametrize("folder", ["/home", "/root", "/tmp", "/var/tmp"])
def test_an_app_that_the_sandbox_hides_is_refused_with_the_next_step(folder: str) -> None:
    with pytest.raises(OperatorError, match=rf"services see no files of {folder} \(put it elsewhere\)"):
        machine.check_seen_by_service(f"{folder}/ann/app.py", "put it elsewhere")


def test_an_app_that_only_its_owner_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_HIDDEN", ())
    app = tmp_path / "app.py"
    app.touch(0o600)
    with pytest.raises(OperatorError, match=f"only its owner may read {re.escape(str(app))} "):
        machine.check_seen_by_service(str(app), "")
    inner = tmp_path / "inner"
    inner.mkdir(0o700)
    (inner / "app.py").touch(0o644)
    with pytest.raises(OperatorError, match=f"only its owner may read {re.escape(str(inner))} "):
        machine.check_seen_by_service(str(inner / "app.py"), "")
    machine.check_seen_by_service("/bin/sh", "")


def test_a_python_that_only_one_user_may_run_is_told_from_an_environment_at_a_wrong_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python3` is the same once more, where a user has one of his own."""
    theirs = tmp_path / "tidegate"
    theirs.touch(0o755)
    monkeypatch.setattr(machine, "_HIDDEN", ("/hidden",))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(machine, "_parts", lambda _: [])
    monkeypatch.setattr(sys, "base_prefix", "/hidden/of/ann")
    with pytest.raises(
        OperatorError, match=r"services see no files of /hidden \(make its environment .* /usr/bin/python3 -m venv"
    ):
        machine.program()
    monkeypatch.setattr(sys, "prefix", "/hidden/venv")
    with pytest.raises(
        OperatorError, match=r"/hidden/venv: services see no files of /hidden \(install it for everybody: python3"
    ):
        machine.program()


def test_a_machine_without_any_service_of_ours_is_seen_as_such() -> None:
    found = machine.look(Places("no-such-service"))
    assert (found.files, found.environment, found.secrets, found.data, found.user) == ({}, False, frozenset(), "nobody", "nobody")


def test_users_and_data_of_others_are_told_from_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.look(Places("root")).user == "others"
    monkeypatch.setattr(Places, "data", str(tmp_path))
    for name, owner in ((None, "nobody"), ("PG_VERSION", "others"), ("tidegate.json", "ours")):
        if name is not None:
            (tmp_path / name).touch()
        assert machine.look(Places("shop")).data == owner


def test_keys_that_were_made_before_the_service_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Places, "data", str(tmp_path))
    (tmp_path / "lost+found").mkdir()
    assert machine.look(Places("shop")).data == "nobody"
    assert main(["keys", "new", "web", "--data", str(tmp_path), "--out", str(tmp_path.parent / "web.key")]) == 0
    assert machine.look(Places("shop")).data == "ours"


@pytest.mark.parametrize(
    "name",
    [".being-made-0a1b2c3d", ".taking-place-20261130T040000Z", ".in-place-20261130T040000Z", "before-20261130T040000Z-ab12"],
)
def test_what_a_killed_restore_has_left_on_a_disk_of_its_own_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Places, "data", str(tmp_path))
    (tmp_path / "lost+found").mkdir()
    (tmp_path / name).mkdir()
    assert machine.look(Places("shop")).data == "ours"
    (tmp_path / "before-the move").mkdir()
    assert machine.look(Places("shop")).data == "others"


def test_the_names_that_a_restore_gives_are_known_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stopped half way, whatever they are called."""
    monkeypatch.setattr(Places, "data", str(tmp_path))
    made = tmp_path / f"{own_mount.BEING_MADE}0a1b2c3d"
    made.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(own_mount, "_move_out", lambda path: None)
        own_mount.put_in_place(made, "20261130T040000Z")
    assert [path.name for path in tmp_path.iterdir()] == [".in-place-20261130T040000Z"]
    assert machine.look(Places("shop")).data == "ours"


def test_copies_of_the_data_are_found_beside_it_and_those_of_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Places, "data", str(tmp_path / "shop"))
    ours = [f"shop.{name}" for name in ("before-20261130T040000Z", "before-20261130T040000Z-ab12", "being-made-0a1b2c3d")]
    for name in (*ours, "shop", "shop2.before-x", "shop.other", "a.shop.before-x"):
        (tmp_path / name).mkdir()
    assert machine.look(Places("shop")).copies == tuple(str(tmp_path / name) for name in ours)
    monkeypatch.setattr(Places, "data", str(tmp_path / "none" / "shop"))
    assert machine.look(Places("shop")).copies == ()


def test_a_secret_that_cannot_be_read_or_handed_on_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (machine.SECRET_BYTES_MAX + 1))
    for path in (tmp_path / "none", tmp_path, tmp_path / "long", Path("/dev/zero")):
        with pytest.raises(OperatorError, match=f"--secret db={re.escape(str(path))}"):
            machine.read_secret("db", str(path))


def test_a_secret_of_any_bytes_is_written_as_it_is(tmp_path: Path) -> None:
    secret = bytes(range(256)) + b"\r\n"
    (tmp_path / "key").write_bytes(secret)
    text = machine.read_secret("db", str(tmp_path / "key"))
    machine.carry_out([Write(str(tmp_path / "copy"), text, 0o600, secret=True)], SAY)
    assert (tmp_path / "copy").read_bytes() == secret


@pytest.mark.parametrize(
    ("calendar", "hours"), [("hourly", 3), ("daily", 37), ("Mon,Fri 03:00", 145), ("*:0/15", 2), ("2020-01-01", 0)]
)
def test_a_backup_is_expected_half_as_late_again_as_its_calendar_has_it_and_an_hour(calendar: str, hours: int) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    assert machine.due_h(calendar) == hours


def test_times_are_found_in_what_a_newer_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program := tmp_path / "systemd-analyze").write_text(
        "#!/bin/sh\n"
        "echo '    Next elapse: Sun 2026-11-29 22:00:00 UTC'\n"
        "echo '       From now: 23min left'\n"
        "echo '   Iteration #2: Sun 2026-11-29 23:00:00 UTC'\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.due_h("hourly") == 3


def test_what_is_no_calendar_event_is_refused_and_without_systemd_nothing_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    with pytest.raises(OperatorError, match="--backup-every now and then: Failed to parse"):
        machine.due_h("now and then")
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.due_h("hourly") == 0


def test_where_there_is_no_systemd_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OperatorError, match="tidegate serve"):
        machine.check_systemd()


@pytest.mark.parametrize(
    "wrong", [["no.py"], [COUNTER, "--name", "../x"], [COUNTER, "--secret", "db"], [COUNTER, "--listen", "x"], []]
)
def test_a_wrong_option_is_one_line_and_changes_nothing(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert main(["install-service", *wrong, "--dry-run"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_an_uninstallation_where_nothing_is_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uninstall-service", "--name", "no-such-service", "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
