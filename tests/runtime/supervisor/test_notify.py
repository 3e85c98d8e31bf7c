import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.runtime.supervisor.notify import Notifier, environment_for_children


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@tidegate-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(2)
        bound.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        yield bound, address


def test_systemd_hears_every_stage(systemd: tuple[socket.socket, str]) -> None:
    bound, address = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}, pid=7)
    notifier.extend_start(30)
    notifier.ready("serving")
    notifier.status("serving")
    notifier.status("degraded")
    notifier.watchdog()
    notifier.stopping()
    notifier.close()
    heard = [bound.recv(4096).decode() for _ in range(5)]
    assert heard == [
        "EXTEND_TIMEOUT_USEC=30000000", "READY=1\nSTATUS=serving", "STATUS=degraded", "WATCHDOG=1", "STOPPING=1\nSTATUS=draining",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_on_only_when_systemd_watches_this_process(environment: dict[str, str], watchdog_s: float | None) -> None:
    assert Notifier(environment, pid=7).watchdog_s == watchdog_s


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({}, pid=7)
    notifier.ready("x")
    notifier.close()


def test_a_systemd_that_is_gone_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, pid=7)
    notifier.ready("x")
    notifier.close()
    assert "cannot notify systemd" in caplog.text


def test_children_cannot_speak_to_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("ORDINARY", "1")
    environment = environment_for_children()
    assert "NOTIFY_SOCKET" not in environment
    assert environment["ORDINARY"] == "1"
