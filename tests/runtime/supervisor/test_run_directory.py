import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.runtime.supervisor.run_directory import RUN_PATH_BYTES_MAX, open_run_directory


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
