"""runtime/cli/as_owner.py: what root asks of another user's data directory can reach what that user can reach, and is his."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import json
import os
import pwd
import shutil
import signal
import site
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.damage import flip_bit, places_of_rows
from tests.support.data_directory import OBJECTS, SHARDS, make_data_directory, state_file
from tests.support.waiting import wait_until
from tidegate.runtime.cli.above_data import above_of_root
from tidegate.runtime.cli.as_owner import DataOwner, may_change, may_reach
from tidegate.runtime.cli.cli import _parser
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.data.access_file import read_access

ROOT = Path(__file__).resolve().parents[3]
NOBODY = pwd.getpwnam("nobody")
SECRET = "a line that only root may read\n"
NO_DATA_OF_THEIRS = {
    "chaos": "a folder of its own, which it makes",
    "cluster up": "a folder of its own, which it makes",
    "serve": "runs the app, which is nothing for root: whoever does so all the same has said so",
}
"""Commands with a directory that are not carried out as its owner, and why."""
ELSEWHERE = {"migrate": "needs the servers of a cluster"}
"""Which have a test of their own."""
COMMANDS = {
    "check": ["check", "DATA"],
    "compact": ["compact", "DATA"],
    "repair": ["repair", "DATA", "--shard", "1", "--yes"],
    "upgrade": ["upgrade", "DATA"],
    "export": ["export", "DATA", "--out", "HERE/out.jsonl"],
    "backup": ["backup", "HERE/backups/shop", "--data", "DATA"],
    "backup --forget": ["backup", "HERE/backups/shop", "--data", "DATA", "--forget"],
    "restore": ["restore", "HERE/good", "--data", "DATA", "--yes"],
    "reshard": ["reshard", "DATA", "--shards", "2"],
    "keys new": ["keys", "new", "other", "--data", "DATA", "--out", "HERE/other.key"],
    "keys rotate": ["keys", "rotate", "web", "--data", "DATA", "--out", "HERE/web.key"],
    "keys list": ["keys", "list", "--data", "DATA"],
    "keys revoke": ["keys", "revoke", "web", "--data", "DATA"],
}
"""As root gives them."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which alone becomes another user")


def subcommands(parser: argparse.ArgumentParser, above: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield f"{above}{name}", each
                yield from subcommands(each, f"{above}{name} ")


def test_every_command_on_a_data_directory_is_its_owners() -> None:
    on_data = {
        name: parser
        for name, parser in subcommands(_parser())
        if any(each.dest == "data" or "--data" in each.option_strings for each in parser._actions)
    }
    assert {name for name, parser in on_data.items() if parser.get_default("works_on") is None} == NO_DATA_OF_THEIRS.keys()
    tried = {command.split()[0] for command in COMMANDS} | ELSEWHERE.keys()
    assert on_data.keys() - NO_DATA_OF_THEIRS.keys() <= tried, "each has to be in COMMANDS"


# Whose is the way


@contextlib.contextmanager
def folder_of_root() -> Iterator[Path]:
    """That everybody may enter, as no folder of pytest's is."""
    path = Path(tempfile.mkdtemp(prefix="tidegate-owner-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def here() -> Iterator[Path]:
    with folder_of_root() as path:
        yield path


def owner() -> DataOwner:
    return DataOwner("nobody", NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))


@needs_root
def test_who_may_change_any_folder_or_link_on_the_way_decides_where_it_leads(here: Path) -> None:
    for name in ("roots", "his", "groups", "closed"):
        (here / name).mkdir(0o755)
    (here / "closed").chmod(0o700)
    os.chown(here / "his", NOBODY.pw_uid, 0)
    os.chown(here / "groups", 0, NOBODY.pw_gid)
    (here / "groups").chmod(0o775)
    (here / "link").symlink_to("his/link")
    (here / "his" / "link").symlink_to(here / "roots")
    (here / "good").symlink_to("roots/../roots")
    assert not may_change(owner(), here / "roots")
    assert not may_change(owner(), here / "roots" / "not there")
    assert not may_change(owner(), here / "good")
    assert may_change(owner(), here / "his")
    assert may_change(owner(), here / "groups" / "file")
    assert may_change(owner(), here / "link"), "it leads through a link in a folder of his to one of root's"
    (here / "shared").mkdir()
    (here / "shared").chmod(0o1777)
    (here / "shared" / "roots").mkdir()
    assert may_change(owner(), here / "shared" / "not there"), "anybody may put something there"
    assert not may_change(owner(), here / "shared" / "roots" / "file"), "nobody else may put that elsewhere"
    assert may_reach(owner(), here / "roots")
    assert not may_reach(owner(), here / "closed" / "not there")
    (here / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        may_change(owner(), here / "round")


@needs_root
def test_root_changes_no_names_where_the_owner_says_what_the_path_leads_to(here: Path) -> None:
    for name in ("roots", "his"):
        (here / name).mkdir(0o755)
    (here / "roots" / "data").mkdir()
    (here / "his" / "cur").symlink_to(here / "roots")
    (here / "good").symlink_to("roots")
    for path in (here / "roots" / "data", here / "his"):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    assert above_of_root(owner(), here / "roots" / "data").keys() == {"above"}
    assert above_of_root(owner(), here / "good" / "data").keys() == {"above"}
    assert above_of_root(owner(), here / "his" / "cur" / "data") == {}
    (here / "link").symlink_to("roots/data")
    assert above_of_root(owner(), here / "link") == {}


# Root's commands


def python() -> str:
    """One that the other user can start, and that can load what the tests have."""
    readable = next((each for each in (sys.executable, "/usr/bin/python3") if _runs_for_others(each)), None)
    if readable is None:
        pytest.skip("needs a Python of this version that every user may run")
    return readable


def _runs_for_others(program: str) -> bool:
    asks = f"import sys, msgspec, lmdb; print(sys.version_info[:2] == {sys.version_info[:2]!r})"
    try:
        return subprocess.run([program, "-c", asks], **_as_nobody(), check=False).stdout == "True\n"
    except OSError:
        return False


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *site.getsitepackages()]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def _as_nobody() -> dict[str, Any]:
    who = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []}
    return {**who, "cwd": "/", "env": _environment(), "capture_output": True, "text": True, "timeout": 120}


class Service:
    """Data of `nobody` below a folder of root's, with an access key, and a backup; and a file that only root may read."""

    def __init__(self, here: Path, python: str) -> None:
        self.here = here
        self.data = here / "data"
        self.python = python
        self.secret = here / "only-roots" / "secret"

    def make(self) -> None:
        make_data_directory(self.data)
        self.give()
        self.secret.parent.mkdir(0o700)
        self.secret.write_text(SECRET)
        self.secret.chmod(0o600)
        (self.here / "backups").mkdir(0o755)
        for command in (
            ["keys", "new", "web", "--data", "DATA", "--out", "HERE/web.key"],
            ["backup", "HERE/good", "--data", "DATA", "--once"],
        ):
            done = self.root(command)
            assert done.returncode == 0, done.stderr

    def give(self) -> None:
        for folder, folders, files in os.walk(self.data):
            for name in (".", *folders, *files):
                os.chown(os.path.join(folder, name), NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)

    def root(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-P", "-m", "tidegate", *self.named(command)], cwd=self.here, env=_environment(), check=False,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def user(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-P", "-m", "tidegate", *self.named(command)]
        return subprocess.run(command, **_as_nobody(), check=False)

    def named(self, command: list[str]) -> list[str]:
        return [word.replace("DATA", str(self.data)).replace("HERE", str(self.here)) for word in command]

    def of_others(self) -> list[str]:
        """What is in the directory, and not its owner's."""
        found = [self.data, *self.data.rglob("*")]
        return [str(path) for path in found if path.lstat().st_uid != NOBODY.pw_uid]


@pytest.fixture(scope="module")
def made() -> Iterator[Service]:
    with folder_of_root() as path:
        service = Service(path, python())
        service.make()
        yield service


@pytest.fixture
def service(made: Service, here: Path) -> Service:
    copied = subprocess.run(["cp", "-a", f"{made.here}/.", str(here)], check=False)
    assert copied.returncode == 0
    return Service(here, made.python)


def damage(data: Path) -> None:
    file = state_file(data, 1)
    place = next(place for key, place in places_of_rows(file).items() if key.endswith(b"k1"))
    flip_bit(file, place + 20, 1)


@needs_root
@pytest.mark.parametrize("name", COMMANDS)
def test_after_each_command_the_user_of_the_service_goes_on(service: Service, name: str) -> None:
    if name == "repair":
        damage(service.data)
    done = service.root(COMMANDS[name])
    assert done.returncode == 0, done.stderr
    assert service.of_others() == []
    if name == "keys new":
        assert (service.here / "other.key").lstat().st_uid == 0
    elif name == "export":
        assert (service.here / "out.jsonl").read_text().count('"object"') == OBJECTS
        assert (service.here / "out.jsonl").lstat().st_uid == 0
    elif name in ("restore", "reshard"):
        assert len(list(service.here.glob("data.before-*"))) == 1
        assert list(service.here.glob("data.being-made-*")) == []
        described = json.loads((service.data / "tidegate.json").read_text())
        assert described["shards"] == (2 if name == "reshard" else SHARDS)
    assert read_access(service.data / "access.json") is not None
    by_user = service.user(["check", "DATA"])
    assert by_user.returncode == 0, by_user.stderr + by_user.stdout


LINKED = {
    "the lock": ["lock", "tidegate.json.new", "shipping/lock"],
    "beside": [
        "access.json",
        "access.json.new",
        "backups.json",
        "backups.json.new",
        "audit.jsonl",
        "audit.jsonl.1",
        "shipping.given-up",
    ],
    "description": ["tidegate.json"],
    "data": ["shards/0001/data.mdb", "log/00000001-0000/00000000.seg"],
    "folders": ["shipping", "shards/0002", "log", "run"],
}


@needs_root
@pytest.mark.parametrize("what", LINKED)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_follows_a_link_to_what_only_root_may_reach(service: Service, name: str, what: str) -> None:
    for link in map(service.data.joinpath, LINKED[what]):
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(service.secret.parent if what == "folders" else service.secret)
    service.give()
    done = service.root(COMMANDS[name])
    assert "Traceback" not in done.stderr
    assert SECRET.strip() not in done.stdout + done.stderr
    assert service.secret.read_text() == SECRET
    assert [path.name for path in service.secret.parent.iterdir()] == ["secret"]
    for path, mode in ((service.secret, 0o600), (service.secret.parent, 0o700)):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, mode)
    taken = [path for path in service.here.rglob("*") if path.lstat().st_uid == NOBODY.pw_uid and not path.is_symlink()]
    assert not [path for path in taken if path.is_file() and SECRET.encode() in path.read_bytes()]


@needs_root
def test_a_backup_by_hand_is_one_that_the_timer_goes_on_with(service: Service) -> None:
    command = ["backup", "HERE/backups/shop", "--data", "DATA", "--json"]
    by_hand = service.root(command)
    assert by_hand.returncode == 0, by_hand.stderr
    assert {path.lstat().st_uid for path in (service.here / "backups" / "shop").rglob("*")} == {NOBODY.pw_uid}
    by_timer = service.user(command)
    assert by_timer.returncode == 0, by_timer.stderr
    assert json.loads(by_timer.stdout)["number"] == 2


@needs_root
def test_a_folder_of_backups_that_only_root_may_enter_is_written_and_read_by_root(service: Service) -> None:
    depot = service.here / "only-roots" / "backups"
    depot.mkdir(0o700)
    for number in (1, 2):
        done = service.root(["backup", str(depot), "--data", "DATA", "--json"])
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["number"] == number
    assert {path.lstat().st_uid for path in depot.rglob("*")} == {0}
    assert service.of_others() == []
    restored = service.root(["restore", str(depot), "--data", "DATA", "--yes"])
    assert restored.returncode == 0, restored.stderr
    assert service.of_others() == []
    lineage = next(path for path in depot.iterdir())
    os.chown(lineage, NOBODY.pw_uid, NOBODY.pw_gid)
    done = service.root(["restore", str(depot), "--data", "DATA", "--yes"])
    assert done.returncode == 1
    assert "nobody may change names there (give all of it to him" in done.stderr


@needs_root
def test_migrations_into_a_cluster_and_back_are_the_owners(service: Service, tmp_path: Path) -> None:
    with NatsServers(tmp_path / "nats") as servers:
        place = f"{','.join(servers.urls)}/owned"
        for words in (["--to", place], ["--from", place, "--yes"]):
            done = service.root(["migrate", "DATA", *words])
            assert done.returncode == 0, done.stderr
            assert service.of_others() == []
            assert list(service.here.glob("data.being-made-*")) == []
    assert len(list(service.here.glob("data.before-*"))) == 1
    by_user = service.user(["check", "DATA"])
    assert by_user.returncode == 0, by_user.stderr + by_user.stdout


@needs_root
def test_a_file_is_written_as_the_one_before_was_for(service: Service) -> None:
    key = service.here / "web.key"
    os.chown(key, 12345, 12346)
    key.chmod(0o640)
    assert service.root(COMMANDS["keys rotate"]).returncode == 0
    assert (key.stat().st_uid, key.stat().st_gid, stat.S_IMODE(key.stat().st_mode)) == (12345, 12346, 0o640)
    (service.here / "out.jsonl").write_text("of yesterday")
    assert service.root([*COMMANDS["export"], "--class", "Nothing"]).returncode == 1
    assert (service.here / "out.jsonl").read_text() == "of yesterday"
    assert list(service.here.glob("*.new")) == []


@needs_root
def test_a_file_in_a_folder_of_the_other_is_written_by_him(service: Service) -> None:
    (service.data / "out.jsonl").symlink_to(service.secret)
    (service.data / "elsewhere").symlink_to(service.secret.parent)
    service.give()
    for out in ("out.jsonl", "elsewhere/new.jsonl"):
        done = service.root(["export", "DATA", "--out", f"DATA/{out}"])
        assert done.returncode == 1, done.stderr
        assert "Permission denied" in done.stderr
    assert service.secret.read_text() == SECRET
    assert len(list(service.secret.parent.iterdir())) == 1


@needs_root
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_command_and_the_process_that_carries_it_out(service: Service, number: int, code: int) -> None:
    with open(service.data / "lock", "r+b") as lock:
        lock.truncate(0)  # Nobody's number is in it: whoever wants it waits.
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [service.python, "-P", "-m", "tidegate", "check", str(service.data)]
        heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # In the background of a shell it is ignored.
        with subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE, text=True, preexec_fn=heeds) as process:
            children = psutil.Process(process.pid).children

            def waits() -> psutil.Process | None:
                found = [each for each in children() if each.uids().real == NOBODY.pw_uid]
                opened = [file.path for each in found for file in each.open_files()]
                return found[0] if str(service.data / "lock") in opened else None

            child = wait_until(waits, "a child that waits for the lock")
            assert child is not None
            assert child.uids() == (NOBODY.pw_uid,) * 3
            assert child.gids() == (NOBODY.pw_gid,) * 3
            process.send_signal(number)
            assert process.wait() == code
            wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the end of the child")


@needs_root
def test_where_the_owner_may_not_go_the_line_says_so(service: Service) -> None:
    hidden = service.here / "only-roots" / "data"
    service.data.rename(hidden)
    done = service.root(["check", str(hidden)])
    assert done.returncode == 1
    assert "it is done as nobody, whose it is, who cannot get there (let him into the folders above" in done.stderr
