"""A whole service as its users have it: `tidegate serve` in a process of its own, on a free loopback port.

Whoever gets one from the `serve` fixture need not look for what must never be: in the end the fixture asserts that the last
stop was clean, that no process is left which has a file of the data directory open, and that the log has no warning, error
or traceback except those the test has announced with `expect`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from tests.support.service_process import is_alive
from tests.support.waiting import WITHIN_S, wait_until
from tidegate.runtime.addresses import free_port

ROOT = Path(__file__).resolve().parents[2]
COUNTER = str(ROOT / "examples" / "counter.py")
FULL = os.environ.get("TIDEGATE_FULL") == "1"
"""Whether the sizes that the project promises are run, or smaller ones that fit in every run of the tests."""
STOP_WITHIN_S = 10.0
KILLED_BY_TEST = r"killed by SIGKILL|is ready again|ran each time when the worker died"

_SUSPECT = re.compile(
    r"^\d{4}-[\dT:.+-]+ (WARNING|ERROR|CRITICAL)|Traceback \(most recent call last\)|Exception ignored|assert", re.M
)


def processes_with_files_in(folder: Path) -> list[int]:
    """Every child has the lock of its data directory open, so this finds orphans of whatever descent."""
    inside = f"{folder.resolve()}/"
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}").startswith(inside) for fd in os.listdir(f"/proc/{pid}/fd")):
                found.append(pid)
        except OSError:  # It ended while we looked, or is not ours to see.
            continue
    return found


def ask(endpoint: str, *request: Any, timeout_s: float = 20.0) -> Any:
    """One call over a REQ socket with MessagePack; its result. Raises AssertionError for an error or no answer."""
    status, result = exchange(endpoint, *request, timeout_s=timeout_s)
    assert status == 0, (request, result)
    return result


def exchange(endpoint: str, *request: Any, timeout_s: float = 20.0) -> tuple[int, Any]:
    """One call; the status and the result, or the error map."""
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger = 0
        req.rcvtimeo = int(timeout_s * 1_000)
        req.connect(endpoint)
        req.send(msgspec.msgpack.encode([1, *request]))
        try:
            echoed, status, result = msgspec.msgpack.decode(req.recv())
        except zmq.Again:
            raise AssertionError(f"{request}: no answer within {timeout_s:g} s") from None
        assert echoed == 1
        return int(status), result


HASTY = r"closed 1 connection\(s\) that did not speak ZMTP 3"
"""A client that closes in the middle of its greeting counts as a stranger; on a busy machine one of ours may."""
STARVED = r"held up its worker for 0\.[1-3] s before it let others run"
"""Waiting for a core counts in part: on a busy machine a short step looks like one that takes a while."""


class Service:
    """A data directory and a port, and the service that runs on them now. Started and stopped as often as a test likes."""

    def __init__(self, data: Path, app: str, port: int, command: Sequence[str], environment: dict[str, str]) -> None:
        self.data = data
        self.app = app
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.command = tuple(command)
        self.environment = environment
        self.output = ""
        """Everything printed and logged since the first start."""
        self.ready_s = 0.0
        """What the last start took."""
        self.unclean_end = False
        """The test has killed the supervisor and not started it again."""
        self._expected: list[str] = [HASTY, STARVED]
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    # Life

    def start(self, workers: int = 2, *options: str, wrapper: Sequence[str] = ()) -> Service:
        """Returns when the service is ready."""
        began_at = time.monotonic()
        self.launch(workers, *options, wrapper=wrapper)
        self.wait_for_output("is ready on", since=self._started_at)
        self.ready_s = time.monotonic() - began_at
        return self

    def launch(self, workers: int = 2, *options: str, wrapper: Sequence[str] = ()) -> None:
        assert self._process is None or self._process.poll() is not None, "already running"
        self._started_at = len(self.output)
        self.unclean_end = False
        command = [*wrapper, *self.command, "serve", self.app, "--data", str(self.data), "--listen", self.endpoint]
        self._process = subprocess.Popen(
            [*command, "--workers", str(workers), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            cwd=ROOT,
        )
        reader = threading.Thread(target=self._read, args=(self._process,))
        self._readers.append(reader)
        reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.output += line

    def wait_for_output(self, pattern: str, since: int = 0, within_s: float = WITHIN_S) -> re.Match[str]:
        found: list[re.Match[str] | None] = [None]

        def printed() -> bool:
            found[0] = re.compile(pattern).search(self.output, since)
            assert found[0] is not None or self.running or self.drained_output(), f"ended without {pattern!r}\n{self.output}"
            return found[0] is not None

        wait_until(printed, f"printing {pattern!r}", within_s, seen=lambda: self.output)
        assert found[0] is not None
        return found[0]

    def drained_output(self) -> bool:
        """Whether more output may still come from a process that has ended."""
        return any(reader.is_alive() for reader in self._readers)

    def stop(self, within_s: float = STOP_WITHIN_S) -> int:
        """SIGTERM; its exit code. Fails when the stop takes longer than promised."""
        self.supervisor.terminate()
        return self.wait(within_s)

    def wait(self, within_s: float = WITHIN_S) -> int:
        try:
            code = self.supervisor.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s:g} s\n{self.output[-4_000:]}") from None
        for reader in self._readers:
            reader.join(WITHIN_S)
        return code

    def kill_supervisor(self) -> None:
        self.unclean_end = True
        os.kill(self.supervisor_pid, signal.SIGKILL)

    def kill_everything(self) -> None:
        """SIGKILL to every process at one instant, as nearly as one can."""
        self.unclean_end = True
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)), "the end of what was killed")
        self.wait()

    # Processes

    @property
    def supervisor(self) -> subprocess.Popen[str]:
        assert self._process is not None, "never started"
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def supervisor_pid(self) -> int:
        """Under a wrapper such as strace the supervisor is its child."""
        pid = self.supervisor.pid
        if "tidegate" in " ".join(psutil.Process(pid).cmdline()[:3]):
            return pid
        return next(child.pid for child in psutil.Process(pid).children())

    def pids(self) -> list[int]:
        """Supervisor, router and workers that are alive now."""
        process = psutil.Process(self.supervisor.pid)
        return [process.pid, *(child.pid for child in process.children(recursive=True))]

    def pids_of(self, role: str) -> list[int]:
        """`role` is the package of `tidegate` that the process runs: "router" or "shard"."""
        found = []
        for child in psutil.Process(self.supervisor_pid).children():
            with contextlib.suppress(psutil.Error):
                if child.cmdline()[2:4] == ["-m", f"tidegate.{role}"]:
                    found.append(child.pid)
        return found

    def router_pid(self) -> int:
        return self.pids_of("router")[0]

    def worker_pids(self) -> list[int]:
        return self.pids_of("shard")

    def status(self) -> dict[str, Any]:
        """Of the service as a whole: a router that has just started knows itself only."""

        def known() -> dict[str, Any]:
            status: dict[str, Any] = ask(self.endpoint, "", "", "status")
            return status if "processes" in status else {}

        return wait_until(known, "what the supervisor tells the router")

    def worker_pid(self, index: int) -> int:
        return int(next(process["pid"] for process in self.status()["processes"] if process["name"] == f"worker {index}"))

    def rss_mib(self) -> dict[str, float]:
        """Of every process, by role and pid."""
        sizes = {}
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                role = next((role for role in ("router", "shard") if f"tidegate.{role}" in process.cmdline()), "supervisor")
                sizes[f"{role} {pid}"] = process.memory_info().rss / (1 << 20)
        return sizes

    # Calls

    def call(self, cls: str, name: str, method: str, *args: Any, timeout_s: float = 20.0) -> Any:
        return ask(self.endpoint, cls, name, method, list(args), timeout_s=timeout_s)

    # What the fixture asserts in the end

    def expect(self, *patterns: str) -> None:
        """Lines of the log that match one of these patterns are no surprise."""
        self._expected += patterns

    def suspect_lines(self) -> list[str]:
        lines = [line for line in self.output.splitlines() if _SUSPECT.search(line)]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in self._expected)]

    def close(self) -> list[str]:
        """Ends the service if it runs; what was wrong."""
        problems = []
        if self.running:
            try:
                if (code := self.stop()) != 0:
                    problems.append(f"exit code {code} of the last stop")
            except AssertionError as error:
                problems.append(str(error))
        wait_for_orphans_until = time.monotonic() + 2.0
        while (orphans := processes_with_files_in(self.data)) and time.monotonic() < wait_for_orphans_until:
            time.sleep(0.01)
        problems += [f"process {pid} was left: {_command_line(pid)}" for pid in orphans]
        for pid in {*orphans, *([self.supervisor.pid] if self.running else [])}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self.wait()
        return problems + [f"in the log: {line}" for line in self.suspect_lines()]


def _command_line(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())
    return "gone by now"


Serve = Callable[..., Service]
TIDEGATE = (sys.executable, "-m", "tidegate")


@contextlib.contextmanager
def services_in(folder: Path) -> Iterator[Serve]:
    """Gives `serve(workers=2, app=…, …)`, which gives a running service; every one is judged in the end."""
    services: list[Service] = []

    def serve(
        workers: int = 2,
        *options: str,
        app: str = COUNTER,
        data: Path | None = None,
        start: bool = True,
        wrapper: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> Service:
        service = Service(data or folder / "data", app, free_port(), TIDEGATE, environment or {})
        services.append(service)
        if start:
            service.start(workers, *options, wrapper=wrapper)
        return service

    try:
        yield serve
    finally:
        problems = {service: service.close() for service in services}
    for service, wrong in problems.items():
        assert not wrong, "\n".join([*wrong, "the whole log:", service.output[-8_000:]])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with services_in(tmp_path) as serve:
        yield serve
