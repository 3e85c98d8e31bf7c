from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service_process import ServiceProcess
from tidegate.runtime.supervisor.notify import Notifier
from tidegate.runtime.supervisor.start_again import keep_trying, pauses
from tidegate.runtime.wire.supervisor_messages import Failed

APP = Path(__file__).parents[3] / "examples" / "counter.py"
PASSES = Failed("open data directory", "/d", "No space left on device", "make room", fatal=False)
LASTS = Failed("load", "app.py", "no such module", "correct the app")


@pytest.fixture(autouse=True)
def _sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def tried(*outcomes: Failed | None) -> tuple[Failed | None, list[float]]:
    """What comes of a start whose tries end so, and how long it waited."""
    slept: list[float] = []
    left = iter(outcomes)
    return keep_trying(lambda: next(left), Notifier({}, 1), slept.append), slept


def test_what_may_pass_is_tried_again_after_a_pause_that_grows() -> None:
    assert tried(PASSES, PASSES, PASSES, None) == (None, [1, 2, 4])


def test_what_does_not_pass_ends_at_once() -> None:
    assert tried(LASTS) == (LASTS, [])
    assert tried(PASSES, LASTS) == (LASTS, [1])


def test_the_pause_grows_to_a_minute_and_never_ends() -> None:
    assert list(itertools.islice(pauses(), 8)) == [1, 2, 4, 8, 16, 32, 60, 60]
    assert next(itertools.islice(pauses(), 100_000, None)) == 60


def test_systemd_is_told_what_is_waited_for_and_for_how_long(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(2)
        bound.bind(str(tmp_path / "notify"))
        outcomes: Iterator[Any] = iter([PASSES, None])
        keep_trying(lambda: next(outcomes), Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, 1), lambda pause: None)
        assert bound.recv(4096) == b"EXTEND_TIMEOUT_USEC=31000000"
        said = "cannot start, tries again every 1 s: open data directory /d: No space left on device (make room)"
        assert bound.recv(4096).decode() == f"STATUS={said}"


# The real thing


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return ["-P", "-m", "tidegate", "serve", "--keep-trying", str(APP), "--data", str(tmp_path / "data"), "--workers", "1"]


def test_a_service_whose_port_is_in_use_starts_when_it_is_free(command: list[str]) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    service = ServiceProcess([*command, "--listen", f"tcp://127.0.0.1:{taken.getsockname()[1]}"])
    try:
        service.wait_for("Address already in use .*; trying again in 1 s")
        taken.close()
        service.wait_for("is ready on")
        assert service.stop() == 0
    finally:
        service.close()


def test_a_service_that_waits_obeys_a_stop_at_once(command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = ServiceProcess([*command, "--listen", f"tcp://127.0.0.1:{taken.getsockname()[1]}"])
        try:
            service.wait_for("trying again in 1 s")
            assert service.stop() == 0
        finally:
            service.close()


def ended(command: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command, *more], capture_output=True, text=True, timeout=60)


def test_a_service_that_cannot_start_until_something_is_changed_says_so_by_its_exit_code(
    command: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module")
    command[command.index(str(APP))] = str(broken)
    done = ended(command, "--listen", f"ipc://{tmp_path}/door")
    assert (done.returncode, "no_such_module" in done.stderr) == (78, True)
    command.remove("--keep-trying")
    assert ended(command, "--listen", f"ipc://{tmp_path}/door").returncode == 1  # A person is told as ever.


def test_a_wrong_configuration_and_foreign_data_do_not_pass(command: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[service]\nworkers = -1\n")
    assert ended(command, "--config", str(wrong)).returncode == 78
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "letters").write_text("not ours")
    done = ended(command)
    assert (done.returncode, "not a data directory of Tidegate" in done.stderr) == (78, True)
    (tmp_path / "data" / "letters").unlink()
    (tmp_path / "data" / "tidegate.json").write_text('{"format": 99, "shards": 8, "starts": 1}')
    done = ended(command)
    assert (done.returncode, "another version" in done.stderr) == (78, True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_service_without_room_for_its_data_starts_when_there_is_room(command: list[str], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        (small / "ballast").write_bytes(bytes(4 << 20))
        command[command.index(str(tmp_path / "data"))] = str(small / "data")
        service = ServiceProcess([*command, "--listen", f"ipc://{tmp_path}/door"])
        try:
            service.wait_for("No space left on device .*; trying again in")
            subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
            service.wait_for("is ready on")
            assert service.stop() == 0
        finally:
            service.close()
    finally:
        subprocess.run(["umount", small], check=True)
