"""A real supervisor, real processes, real signals; the children only speak the control protocol."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.service_process import ServiceProcess, is_alive
from tests.support.waiting import wait_until

Start = Callable[..., ServiceProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    services = []

    def start(
        behaviour: str = "serve", workers: int = 2, *options: str, environment: dict[str, str] | None = None
    ) -> ServiceProcess:
        script = str(Path(__file__).parents[2] / "support" / "stand_in_service.py")
        service = ServiceProcess([script, str(tmp_path / "data"), str(workers), behaviour, *options], environment)
        services.append(service)
        return service

    yield start
    for service in services:
        service.close()


def children(service: ServiceProcess, workers: int = 2) -> list[int]:
    return [service.pid_of(name) for name in ("router", *(f"worker {index}" for index in range(workers)))]


def test_a_service_gets_ready_and_stops_well(start: Start) -> None:
    service = start()
    service.wait_for("READY")
    pids = children(service)
    assert service.stop() == 0
    assert "FINISHED well" in service.output
    assert not any(is_alive(pid) for pid in pids)


def test_ctrl_c_on_the_terminal_stops_in_order(start: Start) -> None:
    service = start()
    service.wait_for("READY")
    service.process.send_signal(signal.SIGINT)
    assert service.wait() == 0
    assert "Traceback" not in service.output


def test_children_do_not_stop_for_signals_meant_for_the_supervisor(start: Start) -> None:
    service = start()
    service.wait_for("READY")
    for pid in children(service):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        assert os.getpgid(pid) != os.getpgid(service.pid)
    assert service.stop() == 0
    assert "killed by" not in service.output


def test_no_child_outlives_a_supervisor_that_is_killed(start: Start) -> None:
    service = start()
    service.wait_for("READY")
    pids = children(service)
    service.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of all children")


def test_a_child_that_is_just_starting_does_not_outlive_its_supervisor_either(start: Start) -> None:
    service = start()
    pids = [service.pid_of("router")]
    service.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of all children")


@pytest.mark.parametrize("name", ["router", "worker 1"])
def test_a_child_that_is_killed_is_started_again_at_once(start: Start, name: str) -> None:
    service = start()
    service.wait_for("READY")
    os.kill(service.pid_of(name), signal.SIGKILL)
    service.wait_for(f"{name} was killed by SIGKILL; starting it again\n")
    service.wait_for(f"{name} is ready again")
    assert is_alive(service.pid_of(name, count=2))
    assert service.stop() == 0


def test_a_child_that_failed_once_before_the_first_readiness_is_tried_again(start: Start, tmp_path: Path) -> None:
    service = start(f"once:{tmp_path / 'crashed'}", 1)
    service.wait_for("worker 0 exited with code 4; starting it again\n")
    service.wait_for("READY")


def test_a_broken_app_ends_the_service_and_everybody_in_it(start: Start) -> None:
    others = set(psutil.Process().children(recursive=True))
    service = start("broken")
    assert service.wait() == 1
    assert "FINISHED boom" in service.output
    assert "READY" not in service.output
    assert not set(psutil.Process().children(recursive=True)) - others


def test_a_child_that_crashes_before_it_is_ready_again_and_again_ends_the_start(start: Start) -> None:
    service = start("crash", 1)
    assert service.wait() == 1
    assert "FINISHED exited with code 3" in service.output


def test_a_silent_child_is_killed_and_started_again(start: Start) -> None:
    service = start("deaf", 1, "liveness_s=1")
    service.wait_for(r"worker 0 had not answered for \d s and was killed; starting it again")


def test_a_stopped_child_is_noticed(start: Start) -> None:
    service = start("serve", 1, "liveness_s=1")
    service.wait_for("READY")
    os.kill(service.pid_of("worker 0"), signal.SIGSTOP)
    service.wait_for(r"worker 0 had not answered for \d s and was killed; starting it again")
    service.wait_for("worker 0 is ready again")


def test_children_that_do_not_drain_are_killed_in_time_and_the_exit_is_still_clean(start: Start) -> None:
    service = start("stubborn", 2, "stop_s=0.5")
    service.wait_for("READY")
    assert service.stop() == 0
    assert "worker 0 did not finish in time and was killed while stopping" in service.output


def test_a_second_signal_hurries_the_stop(start: Start) -> None:
    service = start("stubborn", 2, "stop_s=3600")
    service.wait_for("READY")
    service.process.send_signal(signal.SIGTERM)
    service.wait_for("stopping: answering")
    assert service.stop() == 0
    assert "asked again to stop" in service.output


def test_a_stop_before_the_service_is_ready_ends_it(start: Start) -> None:
    service = start("slow")
    service.pid_of("worker 1")
    assert service.stop() == 0


def test_a_hangup_that_cannot_be_obeyed_is_a_line_that_says_why(start: Start) -> None:
    service = start("slow")
    wait_until(lambda: "is process" in service.output, "the first child")
    service.process.send_signal(signal.SIGHUP)
    service.wait_for(r"reload refused: the service is still starting \(ask again when it is ready\)")
    assert "processes are replaced one by one" not in service.output


def test_a_hangup_replaces_every_worker_and_no_router(start: Start) -> None:
    service = start()
    service.wait_for("READY")
    router, *workers = children(service)
    service.process.send_signal(signal.SIGHUP)
    for index in (0, 1):
        service.wait_for(f"worker {index} is replaced")
    assert is_alive(router)
    assert not any(is_alive(pid) for pid in workers)
    assert service.stop() == 0
    assert "killed by" not in service.output


@pytest.mark.parametrize("victim", ["the next worker", "worker 0"])
def test_a_process_killed_in_the_middle_of_a_reload_leaves_a_service_that_serves(start: Start, victim: str) -> None:
    service = start("slowly")
    service.wait_for("READY")
    service.process.send_signal(signal.SIGHUP)
    service.pid_of("the next worker")
    os.kill(service.pid_of(victim), signal.SIGKILL)
    if victim == "worker 0":
        service.wait_for("worker 1 is replaced")
    else:
        service.wait_for("reload failed: reload worker 0: was killed by SIGKILL; the old version goes on")
    assert service.stop() == 0


def test_no_successor_outlives_a_supervisor_that_is_killed_in_the_middle_of_a_reload(start: Start) -> None:
    service = start("slowly")
    service.wait_for("READY")
    service.process.send_signal(signal.SIGHUP)
    pids = [*children(service), service.pid_of("the next worker")]
    service.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of all children")


def test_a_service_restarts_on_its_data_directory_right_after_its_supervisor_was_killed(start: Start) -> None:
    first = start()
    first.wait_for("READY")
    first.process.kill()
    second = start()
    second.wait_for("READY")
    assert second.stop() == 0


def test_systemd_hears_that_the_service_is_ready_alive_and_stopping(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(10)
        systemd.bind(str(tmp_path / "notify"))
        service = start("serve", 1, environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"})
        heard = [systemd.recv(4096).decode()]
        while "WATCHDOG=1" not in heard:
            heard.append(systemd.recv(4096).decode())
        assert heard[0].startswith("EXTEND_TIMEOUT_USEC=")
        assert "READY=1\nSTATUS=serving 1 class on tcp:" in "\n".join(heard)
        # A worker that does not answer: the watchdog is fed once more at most, and the rest is for systemd to decide.
        os.kill(service.pid_of("worker 0"), signal.SIGSTOP)
        heard = []
        while not any("its last answer came" in each for each in heard[-2:]):
            heard.append(systemd.recv(4096).decode())
        assert heard.count("WATCHDOG=1") <= 1  # If it had answered its last ping when it was stopped.
        assert "STATUS=degraded: worker 0: does not answer" in heard[-1]
        os.kill(service.pid_of("worker 0"), signal.SIGCONT)
        while "WATCHDOG=1" not in heard[-2:]:
            heard.append(systemd.recv(4096).decode())
        service.process.send_signal(signal.SIGHUP)
        heard = []
        while not heard or not heard[-1].startswith("READY=1"):
            heard.append(systemd.recv(4096).decode())
        [reloading] = [each for each in heard if each.startswith("RELOADING=1")]
        assert abs(int(reloading.removeprefix("RELOADING=1\nMONOTONIC_USEC=")) / 1e6 - time.monotonic()) < 30
        service.stop()
        assert systemd.recv(4096).startswith(b"STOPPING=1")


def test_an_idle_service_uses_no_processor_time(start: Start) -> None:
    service = start("serve", 1)
    service.wait_for("READY")
    process = psutil.Process(service.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(2.5)  # What is measured is time in which nothing happens but one round of pings.
    assert sum(process.cpu_times()[:2]) - before < 0.1
