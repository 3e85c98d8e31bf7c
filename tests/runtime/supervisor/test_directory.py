import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor import directory as directory_module
from tidegate.runtime.supervisor.directory import (
    RUN_PATH_BYTES_MAX,
    describe_directory,
    open_directory,
    open_idle_directory,
    open_run_directory,
)


def test_a_new_directory_is_private_and_described(tmp_path: Path) -> None:
    data = open_directory(tmp_path / "a" / "data", shards_if_new=16)
    assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
    assert json.loads((data.path / "tidegate.json").read_text()) == {"format": 2, "shards": 16, "starts": 1}
    assert (data.shards, data.start) == (16, 1)
    data.close()


def test_every_start_has_its_own_number_and_the_shards_never_change(tmp_path: Path) -> None:
    for start in (1, 2, 3):
        data = open_directory(tmp_path / "data", shards_if_new=2**start)
        assert (data.shards, data.start) == (2, start)
        data.close()


def test_a_directory_in_use_is_refused_with_the_pid_of_its_service(tmp_path: Path) -> None:
    data = open_directory(tmp_path / "data", 8)
    with pytest.raises(OperatorError, match=rf"in use by the service with pid {os.getpid()} \(stop it first"):
        open_directory(tmp_path / "data", 8)
    data.close()
    open_directory(tmp_path / "data", 8).close()


def test_a_refused_start_is_not_counted(tmp_path: Path) -> None:
    data = open_directory(tmp_path / "data", 8)
    with pytest.raises(OperatorError):
        open_directory(tmp_path / "data", 8)
    assert json.loads((tmp_path / "data" / "tidegate.json").read_text())["starts"] == 1
    data.close()


def test_a_start_waits_for_the_last_process_of_a_supervisor_that_died(tmp_path: Path) -> None:
    data = open_directory(tmp_path / "data", 8)
    left_behind = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[data.lock_fd]
    )
    dead = subprocess.Popen(["true"])
    dead.wait()
    os.pwrite(data.lock_fd, f"{dead.pid}\n".encode(), 0)
    data.close()
    successor = subprocess.Popen(
        [sys.executable, "-c", "from pathlib import Path; from tidegate.runtime.supervisor.directory import *;"
         " print(1, flush=True);"
         f" print(open_directory(Path({str(tmp_path / 'data')!r}), 8).start)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert successor.stdout is not None
    assert successor.stdout.readline() == "1\n"
    with pytest.raises(subprocess.TimeoutExpired):
        successor.wait(0.1)
    left_behind.communicate()
    assert successor.communicate(timeout=5)[0] == "2\n"


def test_a_start_gives_up_on_processes_left_behind_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "LEFT_BEHIND_S_MAX", 0.05)
    data = open_directory(tmp_path / "data", 8)
    os.ftruncate(data.lock_fd, 0)
    with pytest.raises(OperatorError, match=r"still in use by .*, left by a service .* has ended .end what is left"):
        open_directory(tmp_path / "data", 8)
    data.close()


def test_a_directory_of_another_format_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    text = '{"format": 3, "shards": {"new": "meaning"}}'
    (tmp_path / "tidegate.json").write_text(text)
    with pytest.raises(OperatorError, match=r"format 3 is of another version of Tidegate; this one reads format 2"):
        open_directory(tmp_path, 8)
    assert (tmp_path / "tidegate.json").read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1, "shards": 3, "starts": 1}',
        '{"format": 1, "shards": 8}',
        '{"format": 2, "shards": 8, "starts": -1}',
        '{"format": 2, "shards": 8, "starts": 99999999999999999999999}',
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tidegate.json").write_text(text)
    with pytest.raises(OperatorError, match="damaged"):
        open_directory(tmp_path, 8)


@pytest.mark.parametrize("name", ["tidegate.json", "lock"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    """It was told that another user should own the directory."""
    open_directory(tmp_path, 8).close()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    for opens in (lambda: open_directory(tmp_path, 8), lambda: open_idle_directory(tmp_path)):
        with pytest.raises(OperatorError, match=rf"{name}: Is a directory \(a file belongs there") as refused:
            opens()
        assert not refused.value.passes


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OperatorError, match=r"it holds thesis.txt but no tidegate.json \(choose an empty directory"):
        open_directory(tmp_path, 8)


def test_a_creation_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "tidegate.json.new").write_text("{")
    open_directory(tmp_path, 8).close()


def test_a_creation_that_was_cut_short_after_its_first_folders_is_completed_too(tmp_path: Path) -> None:
    for name in ("log", "shards"):
        (tmp_path / name).mkdir()
    open_directory(tmp_path, 8).close()
    (tmp_path / "tidegate.json").unlink()  # Lost, from a directory that holds something.
    (tmp_path / "shards" / "0000").mkdir()
    with pytest.raises(OperatorError, match="it holds shards but no"):
        open_directory(tmp_path, 8)


def test_a_place_where_no_directory_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match=r"Not a directory \(a part of this path"):
        open_directory(tmp_path / "file" / "data", 8)


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xfcrr"))
    with pytest.raises(OperatorError, match=r"its path is not UTF-8 \(choose another with --data"):
        open_directory(path, 8)
    assert not path.exists()


def test_only_logs_of_earlier_starts_are_deleted(tmp_path: Path) -> None:
    for _ in range(3):
        open_directory(tmp_path / "data", 8).close()
    data = open_directory(tmp_path / "data", 8)
    for name in ("00000001-0000", "00000003-0007", "00000004-0000", "00000005-0000", "notes"):
        (data.path / "log" / name).mkdir()
        (data.path / "log" / name / "00000001.seg").touch()
    assert data.delete_logs_of_earlier_starts() == 2
    assert sorted(os.listdir(data.path / "log")) == ["00000004-0000", "00000005-0000", "notes"]
    data.close()


def test_a_deletion_that_was_cut_short_is_completed_at_the_next_start(tmp_path: Path) -> None:
    open_directory(tmp_path / "data", 8).close()
    (tmp_path / "data" / "log" / "deleted-00000001-0000").mkdir()
    open_directory(tmp_path / "data", 8).close()
    assert os.listdir(tmp_path / "data" / "log") == []


@pytest.fixture
def short() -> Iterator[Path]:
    """Sockets have room in it, however long the path is at which tests keep their files."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_sockets_are_in_the_data_directory_without_systemd(short: Path) -> None:
    run = open_run_directory(short, None)
    assert run.path == short / "run"
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_two_services_of_one_unit_do_not_share_a_run_directory(short: Path) -> None:
    (short / "run").mkdir()
    runs = [open_run_directory(short / name, str(short / "run")).path for name in ("a", "b")]
    assert runs[0] != runs[1]
    assert {run.parent for run in runs} == {short / "run"}


def test_a_runtime_directory_that_is_not_utf_8_has_no_sockets(short: Path) -> None:
    named = os.fsdecode(os.fsencode(short) + b"/\xff")
    os.mkdir(named)
    (short / "data").mkdir()
    assert open_run_directory(short / "data", named).path == short / "data" / "run"


@pytest.mark.parametrize("name", ["", "x" * RUN_PATH_BYTES_MAX, os.fsdecode(b"\xff")])
def test_a_path_too_long_for_a_socket_gets_a_temporary_directory_that_goes_away(
    short: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever temporary files are."""
    data = short / ("x" * RUN_PATH_BYTES_MAX)
    data.mkdir()
    (short / name).mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(short / name))
    run = open_run_directory(data, None)
    assert len(str(run.path)) <= RUN_PATH_BYTES_MAX
    assert os.fsencode(run.path).isascii()
    assert run.path.is_dir()
    run.close()
    assert not run.path.exists()


def test_sockets_left_by_a_crash_are_removed_and_files_are_not(short: Path) -> None:
    (short / "run").mkdir()
    (short / "run" / "file").touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short / "run" / "worker-0.1"))
    open_run_directory(short, None)
    assert os.listdir(short / "run") == ["file"]


def test_a_cache_of_a_cluster_serves_that_cluster_only(tmp_path: Path) -> None:
    cache, plain = tmp_path / "cache", tmp_path / "plain"
    hosts = set()
    for start in (1, 2):
        data = open_directory(cache, 8, "one")
        assert (data.shards, data.start) == (8, start)
        hosts.add(data.host)
        data.close()
    (host,) = hosts
    assert len(host) == 8, "by which the other hosts of the cluster know it, for ever"
    said = {"format": 3, "shards": 8, "starts": 2, "cluster": "one", "host": host}
    assert json.loads((cache / "tidegate.json").read_text()) == said
    open_directory(plain, 8).close()
    with pytest.raises(OperatorError, match=r"a cache of another cluster \(one, and this is other\)"):
        open_directory(cache, 8, "other")
    with pytest.raises(OperatorError, match="it is of a service without a cluster"):
        open_directory(plain, 8, "one")
    with pytest.raises(OperatorError, match=r"a cache of the logs of a cluster, .*; serve it with --cluster"):
        open_directory(cache, 8)
    with pytest.raises(OperatorError, match="a cache of the logs of a cluster"):
        describe_directory(cache)
    with pytest.raises(OperatorError, match="a cache of the logs of a cluster"):
        open_idle_directory(cache)
