"""What is measured: systems that are started for a run, answer wire protocol 1 at a door, and are stopped by us."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import msgspec
import zmq

from benchmarks.load import Door, Generator
from benchmarks.workloads import BenchmarkFailed
from runtime.slots import topology_from_reply

REPOSITORY = Path(__file__).resolve().parent.parent
APP = REPOSITORY / "examples" / "counter.py"
_START_S_MAX = 30.0
_STOP_S_MAX = 15.0
_SYSTEM_CALL_MS_MAX = 5_000

Route = Literal["router", "direct"]
Sync = Literal["inline", "thread", "none"]


class Peer(Protocol):
    """A running system. `close` stops everything that was started for it."""

    name: str
    generators: frozenset[Generator]
    """Which load generators can call it."""

    def door(self, route: Route) -> Door: ...

    def pids(self, route: Route) -> dict[str, list[int]]:
        """Its processes by layer: whose CPU time is reported."""

    def close(self) -> None: ...


@contextlib.contextmanager
def scratch_folder(parent: str | None) -> Iterator[Path]:
    """A folder that is removed afterwards. Short, because paths of unix sockets must be."""
    path = Path(tempfile.mkdtemp(prefix="tide-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def python_environment() -> dict[str, str]:
    """Lets a child import what this process imports, wherever it is started."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}


def start_module(module: str, *arguments: str, stderr: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=python_environment(), cwd=REPOSITORY
    )


# The bare pipeline


class Pipeline:
    """Direct and routed shards are different processes; what is not called is idle."""

    name = "pipeline"
    generators: frozenset[Generator] = frozenset({"lean"})

    def __init__(self, folder: Path, *, shards: int, sync: Sync, routes: Sequence[Route]) -> None:
        self._doors: dict[Route, Door] = {}
        self._pids: dict[Route, dict[str, list[int]]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for route in routes:
                self._start(folder, route, shards, sync)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path, route: Route, shards: int, sync: Sync) -> None:
        endpoints = [f"ipc://{folder}/{route}{index}" for index in range(shards)]
        usable = cores()
        workers = []
        for index, endpoint in enumerate(endpoints):
            arguments = ["--endpoint", endpoint, "--log", f"{folder}/{route}{index}.log", "--sync", sync]
            arguments += ["--cpu", str(usable[index % len(usable)]), *(["--routed"] if route == "router" else [])]
            workers.append(start_module("benchmarks.pipeline", "shard", *arguments))
        self._processes += workers
        pids = {"workers": [worker.pid for worker in workers]}
        door = Door(endpoints=tuple(endpoints), owners=tuple(range(shards)))
        if route == "router":
            door = Door(endpoints=(f"ipc://{folder}/front",))
            back = [argument for endpoint in endpoints for argument in ("--shard", endpoint)]
            router = start_module("benchmarks.pipeline", "router", "--endpoint", door.endpoints[0], *back)
            self._processes.append(router)
            pids["router"] = [router.pid]
        self._doors[route], self._pids[route] = door, pids
        for process in self._processes[-sum(map(len, pids.values())) :]:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise BenchmarkFailed("a process of the pipeline did not start")

    def door(self, route: Route) -> Door:
        return self._doors[route]

    def pids(self, route: Route) -> dict[str, list[int]]:
        return self._pids[route]

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            _wait(process)


# The product


class Tidegate:
    """`tidegate serve`, as a user starts it, on a fresh data directory."""

    name = "tidegate"
    generators: frozenset[Generator] = frozenset({"lean", "client"})

    def __init__(self, folder: Path, *, workers: int | None, transport: Literal["ipc", "tcp"], app: Path = APP) -> None:
        front = f"ipc://{folder}/service" if transport == "ipc" else f"tcp://127.0.0.1:{free_port()}"
        self._log_path = folder / "service.log"
        arguments = ["serve", str(app), "--data", str(folder / "data"), "--listen", front]
        arguments += ["--workers", str(workers)] if workers else []
        with self._log_path.open("wb") as log:
            self._process = start_module("tidegate", *arguments, stderr=log)
        self._front = front
        try:
            self._direct = self._wait_ready(front)
            self._layers = self._find_layers()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self, front: str) -> Door:
        """The service answers when its router is up, a moment before all workers are."""
        deadline = time.monotonic() + _START_S_MAX
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchmarkFailed(f"the service ended with code {self._process.returncode}: {self._log_tail()}")
            try:
                return direct_door(front, system_call(front, "topology", timeout_ms=500))
            except BenchmarkFailed:
                time.sleep(0.02)
        raise BenchmarkFailed(f"the service did not answer within {_START_S_MAX:.0f} s: {self._log_tail()}")

    def _log_tail(self) -> str:
        return self._log_path.read_text(errors="replace")[-2_000:].strip()

    def _find_layers(self) -> dict[str, list[int]]:
        layers: dict[str, list[int]] = {"workers": [], "router": [], "supervisor": []}
        for process in system_call(self._front, "status")["processes"]:
            layer = process["name"].split()[0]  # "router", "worker 3"
            layers["workers" if layer == "worker" else layer].append(process["pid"])
        return layers

    def door(self, route: Route) -> Door:
        if route == "router":
            return Door(endpoints=(self._front,), front=self._front)
        return self._direct

    def pids(self, route: Route) -> dict[str, list[int]]:
        return self._layers

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        _wait(self._process)


def direct_door(front: str, reply: Any) -> Door:
    """What the system call `topology` answers, as a door. Raises BenchmarkFailed while a worker is down."""
    topology = topology_from_reply(reply)
    endpoints = tuple(endpoint for endpoint in topology.endpoints if endpoint is not None)
    if len(endpoints) < len(topology.endpoints):
        raise BenchmarkFailed("a worker of the service is down")
    return Door(endpoints=endpoints, owners=topology.owners, front=front)


def system_call(endpoint: str, method: str, *, timeout_ms: int = _SYSTEM_CALL_MS_MAX) -> Any:
    """Raises BenchmarkFailed when there is no answer, or an error."""
    client: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    client.setsockopt(zmq.LINGER, 0)
    try:
        client.connect(endpoint)
        client.send(msgspec.msgpack.encode([1, "", "", method]))
        if not client.poll(timeout_ms):
            raise BenchmarkFailed(f"{endpoint} did not answer {method} within {timeout_ms} ms")
        _, status, result = msgspec.msgpack.decode(client.recv())
    finally:
        client.close()
    if status:
        raise BenchmarkFailed(f"{endpoint} answered {method} by {result}")
    return result


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
