"""`tidegate keys`, as an operator uses it."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.runtime.cli.cli import main
from tidegate.runtime.client.access import client_key
from tidegate.runtime.data.access_file import AccessList, read_access


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


def listed(folder: str = "tidegate-data") -> AccessList:
    access = read_access(Path(folder) / "access.json")
    assert access is not None
    return access


def test_a_new_key_is_on_the_list_and_in_a_file_that_only_its_owner_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "web", "--classes", "A,B", "--methods", "get,B.put", "--read-only", "--admin"]) == 0
    said = capsys.readouterr().out
    assert "asks for keys from its next start on" in said
    key, access = client_key("web.key", {}), listed()
    assert key is not None
    assert (key.public, key.server) == (access.keys[0].public, access.public)
    assert access.keys[0].rights.words() == "A, B, only get, B.put, read-only, admin"
    assert stat.S_IMODE(os.stat("web.key").st_mode) == 0o600
    assert key.secret not in said + Path("tidegate-data/access.json").read_text()


def test_a_key_can_go_to_the_standard_output_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["keys", "new", "web", "--out", "-", "--days", "1"]) == 0
    said = capsys.readouterr()
    assert "its key is on the standard output" in said.err
    (tmp_path / "piped").write_text(said.out)
    assert client_key(tmp_path / "piped", {}) is not None
    assert not Path("web.key").exists()


def test_a_key_that_could_not_be_written_is_on_no_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody would have it, and its name would be taken."""
    command = [sys.executable, "-P", "-m", "tidegate", "keys", "new", "web", "--out", "-"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("stdout: No space left on device")) == (1, 1)
    assert read_access(Path("tidegate-data/access.json")) is None
    assert main(["keys", "new", "web"]) == 0
    before = listed()
    assert main(["keys", "rotate", "web", "--out", "/dev/full"]) == 1
    assert "write /dev/full: No space left on device" in capsys.readouterr().err
    assert listed() == before


def test_a_list_that_could_not_be_written_leaves_no_key_and_says_what_is_lacking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("access.json.new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(["keys", "new", "web"]) == 1
    assert "access.json: No space left on device (make room on its file system; nothing was changed)" in capsys.readouterr().err
    assert (os.listdir("tidegate-data"), os.path.exists("web.key")) == ([], False)
    assert main(["keys", "new", "web"]) == 0


def test_the_only_copy_of_a_key_that_is_on_the_list_stays_although_it_cannot_be_put_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "new", "web"]) == 0
    old, rename = Path("web.key").read_text(), os.rename

    def fails(source: str, target: str) -> None:
        if os.path.basename(target) == "web.key":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        assert main(["keys", "rotate", "web"]) == 1
    said = capsys.readouterr().err
    (left,) = Path.cwd().glob("web.key.*.new")
    key = client_key(left, {})
    assert key is not None
    assert key.public in {each.public for each in listed().keys}
    assert f"Input/output error (the list has the new key, and its only copy is in {left}" in said
    assert Path("web.key").read_text() == old


def test_a_key_is_durable_in_its_folder_before_the_list_has_it_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    assert main(["keys", "new", "web"]) == 0
    folder, the_list = Path.cwd().name, synced.index("access.json.new")
    assert folder in synced[:the_list]
    assert folder in synced[the_list:]


def test_of_a_key_that_was_printed_and_is_not_on_the_list_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["keys", "new", "web", "--out", "-"]) == 1
    assert "the key that was printed is of no use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["new"], 2, "name the key"),
        (["new", "a b"], 1, "a name has 1 to 64"),
        (["new", "web"], 1, "there is such a file"),
        (["new", "web", "--out", "other.key"], 1, "there is a key of this name"),
        (["new", "x", "--out", "nowhere/x.key"], 1, "No such file"),
        (["new", "x", "--data", "there/nor"], 0, ""),
        (["revoke", "nobody"], 1, "no valid key of this name"),
        (["rotate", "nobody"], 1, "no valid key of this name"),
        (["list", "web"], 2, "takes no name"),
        (["list", "--data", "elsewhere"], 1, "there are no access keys"),
        (["revoke", "web", "--data", "elsewhere"], 1, "there are no access keys"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    arguments: list[str], code: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "new", "web"]) == 0
    before, files = listed(), set(os.listdir()) | {"there", "x.key"}
    capsys.readouterr()
    assert main(["keys", *arguments]) == code
    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == (code != 0)
    assert listed() == before
    assert set(os.listdir()) <= files


def test_a_name_that_is_no_name_of_a_method_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", "new", "web", "--methods", "A.b.c"])
    assert ended.value.code == 2


def test_rotate_writes_a_new_file_over_the_old_one_and_revoke_ends_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "web", "--classes", "A"]) == 0
    old = client_key("web.key", {})
    assert main(["keys", "rotate", "web"]) == 0
    new = client_key("web.key", {})
    assert old is not None
    assert new is not None
    assert old.public != new.public
    assert sorted(os.listdir()) == ["tidegate-data", "web.key"]
    capsys.readouterr()
    assert main(["keys", "list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["service"] == new.server
    assert [(key["public"], key["state"][:5], key["rights"]) for key in shown["keys"]] == [
        (old.public, "ended", {"classes": ["A"]}),
        (new.public, "valid", {"classes": ["A"]}),
    ]
    assert main(["keys", "revoke", "web"]) == 0
    assert not any(key.is_valid(2e9) for key in listed().keys)
    assert main(["keys", "revoke", "web", "--forget"]) == 0
    assert listed().keys == ()


def test_the_key_of_the_service_is_rotated_and_those_of_clients_stay(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "web"]) == 0
    before = listed()
    capsys.readouterr()
    assert main(["keys", "rotate", "--service"]) == 0
    after = listed()
    assert after.public != before.public
    assert after.keys == before.keys
    said = capsys.readouterr().out
    assert after.public in said
    assert after.secret not in said
    assert main(["keys", "rotate", "--service", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"service": listed().public}
    assert main(["keys", "rotate", "web", "--service"]) == 2
    assert main(["keys", "new", "--service"]) == 2
    assert main(["keys", "rotate", "--service", "--data", "nowhere"]) == 1


def test_the_configuration_of_the_service_says_where_the_list_is() -> None:
    Path("a.toml").write_text('[service]\ndata = "somewhere"\n')
    Path("b.toml").write_text('[service]\ndata = "somewhere"\naccess = "own/list.json"\n')
    assert main(["keys", "new", "a", "--config", "a.toml"]) == 0
    assert main(["keys", "new", "b", "--config", "b.toml"]) == 0
    assert [key.name for key in listed("somewhere").keys] == ["a"]
    assert Path("own/list.json").exists()


@pytest.mark.parametrize("text", ["service = 3", "[service]\ndata = 3", '[service]\naccess = ["a"]', '[[service]]\ndata = "x"'])
def test_a_configuration_with_a_mistake_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text(text)
    assert main(["keys", "new", "a", "--config", "a.toml"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("tidegate: read a.toml [service]")
    assert said.count("\n") == 1
    assert os.listdir() == ["a.toml"]
