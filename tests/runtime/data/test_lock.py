import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.runtime.data import lock
from tidegate.runtime.data.directory import open_directory
from tidegate.runtime.errors import OperatorError


def test_a_directory_in_use_is_refused_with_the_pid_of_its_service(tmp_path: Path) -> None:
    data = open_directory(tmp_path / "data", 8)
    with pytest.raises(OperatorError, match=rf"in use by the service with pid {os.getpid()} \(stop it first"):
        open_directory(tmp_path / "data", 8)
    data.close()
    open_directory(tmp_path / "data", 8).close()


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
        [sys.executable, "-c", "from pathlib import Path; from tidegate.runtime.data.directory import *;"
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
    monkeypatch.setattr(lock, "LEFT_BEHIND_S_MAX", 0.05)
    data = open_directory(tmp_path / "data", 8)
    os.ftruncate(data.lock_fd, 0)
    with pytest.raises(OperatorError, match=r"still in use by .*, left by a service .* has ended .end what is left"):
        open_directory(tmp_path / "data", 8)
    data.close()
