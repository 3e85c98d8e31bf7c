"""The whole service as an operator meets it: killed, stopped under load, started with other numbers of workers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.service_process import ServiceProcess, is_alive
from tests.support.waiting import wait_until

APP = Path(__file__).parents[3] / "examples" / "counter.py"
NAMES = [f"c{number}" for number in range(40)]
STOP_S_MAX = 10.0

Start = Callable[..., ServiceProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    services = []

    def start(workers: int = 2) -> ServiceProcess:
        endpoint = f"ipc://{tmp_path}/door"
        command = ["serve", str(APP), "--data", str(tmp_path / "data"), "--listen", endpoint, "--workers", str(workers)]
        service = ServiceProcess(["-P", "-m", "tidegate", *command, "--log-level", "debug"])
        services.append(service)
        service.wait_for("is ready on")
        return service

    yield start
    for service in services:
        service.close()


class Caller:
    """Asks many counters for numbers at once and keeps book: nothing is given twice, nothing stays unanswered."""

    def __init__(self, tmp_path: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{tmp_path}/door")
        self._ids = itertools.count()
        self.waiting: dict[int, str] = {}
        self.numbers: dict[str, list[int]] = {name: [] for name in NAMES}
        self.errors: list[dict[str, Any]] = []

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def ask(self, names: list[str]) -> None:
        batch = []
        for name in names:
            request_id = next(self._ids)
            self.waiting[request_id] = name
            batch.append([request_id, "Counter", name, "get_unique_number"])
        self._socket.send(json.dumps(batch).encode())

    def hear(self, timeout_s: float = 10.0) -> bool:
        """Takes one message of replies; False when none came."""
        if not self._socket.poll(round(timeout_s * 1_000)):
            return False
        for request_id, status, result in json.loads(self._socket.recv()):
            name = self.waiting.pop(request_id)
            if status == 0:
                self.numbers[name].append(result)
            else:
                self.errors.append(result)
        return True

    def ask_all(self) -> None:
        self.ask(NAMES)
        while self.waiting:
            assert self.hear(), f"{len(self.waiting)} calls unanswered"

    def check_unique(self) -> None:
        for name, numbers in self.numbers.items():
            assert len(set(numbers)) == len(numbers), (name, numbers)

    @property
    def answered(self) -> int:
        return sum(map(len, self.numbers.values()))


def children(service: ServiceProcess, workers: int = 2) -> list[int]:
    return [service.pid_of(name) for name in ("router", *(f"worker {index}" for index in range(workers)))]


def test_nothing_outlives_a_killed_supervisor_and_nothing_confirmed_is_lost(start: Start, tmp_path: Path) -> None:
    first = start()
    with Caller(tmp_path) as caller:
        for _ in range(5):
            caller.ask_all()
        for _ in range(5):  # Some calls are in the air when it happens.
            caller.ask(NAMES)
        pids = children(first)
        first.process.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of all children")
        while caller.hear(0.1):
            pass
        highest = {name: max(numbers) for name, numbers in caller.numbers.items()}
    start()
    with Caller(tmp_path) as caller:
        caller.ask_all()
        assert not caller.errors
        assert all(caller.numbers[name][0] > highest[name] for name in NAMES)


def test_a_stop_under_load_answers_every_call_and_exits_cleanly_in_time(start: Start, tmp_path: Path) -> None:
    service = start()
    with Caller(tmp_path) as caller:
        for _ in range(20):
            caller.ask(NAMES)
        while caller.answered < 400:
            caller.ask(NAMES)
            assert caller.hear()
        asked_at = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        while caller.waiting:
            assert caller.hear(STOP_S_MAX), f"{len(caller.waiting)} calls unanswered"
        assert service.wait() == 0
        assert time.monotonic() - asked_at < STOP_S_MAX
        assert "unanswered" not in service.output
        assert "killed" not in service.output
        assert all(error["outcome"] == "not_executed" for error in caller.errors), caller.errors
        caller.check_unique()
        given = {name: len(numbers) for name, numbers in caller.numbers.items()}
    start()
    with Caller(tmp_path) as caller:
        caller.ask_all()
        assert {name: numbers[0] for name, numbers in caller.numbers.items()} == given  # Unique and without gaps.


def test_every_call_is_answered_while_processes_are_killed(start: Start, tmp_path: Path) -> None:
    service = start()
    with Caller(tmp_path) as caller:
        for turn, victim in enumerate(["worker 0", "worker 1", "worker 0"]):
            for _ in range(10):
                caller.ask(NAMES)
            assert caller.hear()
            os.kill(service.pid_of(victim, count=2 if turn == 2 else 1), signal.SIGKILL)
            caller.ask(NAMES)
            while caller.waiting:
                assert caller.hear(20), f"{len(caller.waiting)} calls unanswered"
        assert {error["code"] for error in caller.errors} <= {"shard_lost", "unavailable", "overloaded"}
        assert all((error["outcome"] == "unknown") == (error["code"] == "shard_lost") for error in caller.errors)
        caller.check_unique()
    assert service.stop() == 0


def test_the_number_of_workers_changes_between_starts_and_moves_nothing(start: Start, tmp_path: Path) -> None:
    for turn, workers in enumerate((1, 2, 4, 8, 3)):
        service = start(workers)
        with Caller(tmp_path) as caller:
            caller.ask_all()
            assert caller.numbers == {name: [turn] for name in NAMES}
        assert len(children(service, workers)) == workers + 1
        if turn % 2:
            service.process.kill()
            service.wait()
        else:
            assert service.stop() == 0


def test_logs_of_earlier_starts_are_gone_when_the_service_is_ready(start: Start, tmp_path: Path) -> None:
    logs = tmp_path / "data" / "log"
    first = start()
    with Caller(tmp_path) as caller:
        caller.ask_all()
    first.process.kill()
    first.wait()
    assert {name[:8] for name in os.listdir(logs) if name[0].isdecimal()} == {"00000001"}
    start().wait_for("deleted 2 logs of earlier starts")
    assert {name[:8] for name in os.listdir(logs) if name[0].isdecimal()} == {"00000002"}
