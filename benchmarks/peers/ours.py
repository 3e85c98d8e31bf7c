"""What is measured: the product and the bare pipeline, started for a run, called at a door, and stopped by us."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import msgspec
import zmq

from tidegate.benchmarks.cpu import cpu_s_by_layer
from tidegate.benchmarks.load.generators import run_generators
from tidegate.benchmarks.load.job import Door, show
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.plan import Generator, Load, Plan, Route, Sync
from tidegate.benchmarks.processes import START_S_MAX, cores, log_tail, start_module, stop, wait
from tidegate.runtime.addresses import free_port
from tidegate.runtime.data.access_file import change_access, with_key
from tidegate.runtime.supervisor.config import ACCESS_NAME
from tidegate.runtime.wire.access import AccessKey, ClientKey, Rights
from tidegate.runtime.wire.slots import topology_from_reply

APP = "tidegate.benchmarks.load.app"
_SYSTEM_CALL_MS_MAX = 5_000


class Peer(Protocol):
    """A running system. `close` stops everything that was started for it."""

    name: str

    def can(self, plan: Plan) -> bool:
        """Whether this plan means something here."""

    def run(self, plan: Plan, meter: Meter) -> Load:
        """Makes the calls, and tells the meter when the measured ones begin and end. Raises BenchmarkFailed."""

    def cpu_s(self, route: Route) -> dict[str, float]:
        """CPU seconds so far, by layer."""

    def durable_pids(self) -> list[int]:
        """The processes that write to disk."""

    def close(self) -> None: ...


# The bare pipeline


class Pipeline:
    """Direct and routed shards are different processes; what is not called is idle."""

    name = "pipeline"

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
            workers.append(start_module("tidegate.benchmarks.peers.pipeline", "shard", *arguments))
        self._processes += workers
        pids = {"workers": [worker.pid for worker in workers]}
        door = Door(endpoints=tuple(endpoints), owners=tuple(range(shards)))
        if route == "router":
            door = Door(endpoints=(f"ipc://{folder}/front",))
            back = [argument for endpoint in endpoints for argument in ("--shard", endpoint)]
            router = start_module("tidegate.benchmarks.peers.pipeline", "router", "--endpoint", door.endpoints[0], *back)
            self._processes.append(router)
            pids["router"] = [router.pid]
        self._doors[route], self._pids[route] = door, pids
        for process in self._processes[-sum(map(len, pids.values())) :]:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise BenchmarkFailed("a process of the pipeline did not start")

    def can(self, plan: Plan) -> bool:
        return plan.workload.name in ("unique", "read", "hot", "mixed") and plan.route in self._doors

    def run(self, plan: Plan, meter: Meter) -> Load:
        return run_generators(self._doors[plan.route], plan, "lean", meter)

    def cpu_s(self, route: Route) -> dict[str, float]:
        return cpu_s_by_layer(self._pids[route])

    def durable_pids(self) -> list[int]:
        return [pid for pids in self._pids.values() for pid in pids["workers"]]

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            wait(process)


# The product


class Service:
    """`tidegate serve`, as a user starts it, on a fresh data directory."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int | None,
        transport: Literal["ipc", "tcp"],
        routers: int = 1,
        cache_mib: int | None = None,
        app: str = APP,
        descriptors: int = 0,
        curve: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
        start_s_max: float = START_S_MAX,
        flags: Sequence[str] = (),
    ) -> None:
        """`descriptors`: each process may have no more; 0: as many as this one. `curve`: it asks for access keys, and `key` is
        one. `settings`: options of the configuration, by their names there. `flags`: further ones of `tidegate serve`."""
        self._start_s_max = start_s_max
        self.front = f"ipc://{folder}/service" if transport == "ipc" else f"tcp://127.0.0.1:{free_port()}"
        self._log_path = folder / "service.log"
        arguments = ["serve", app, "--data", str(folder / "data"), "--listen", self.front]
        arguments += ["--workers", str(workers)] if workers else []
        arguments += ["--routers", str(routers), *flags]
        if cache_mib is not None:
            arguments += ["--set", f"storage.cache_mib={cache_mib}"]
        for name, value in settings.items():
            arguments += ["--set", f"{name}={value}"]
        self.key = _new_key(folder / "data" / ACCESS_NAME) if curve else None
        with self._log_path.open("wb") as log:
            self._process = start_module("tidegate", *arguments, stderr=log, descriptors=descriptors)
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self) -> None:
        """The service answers when its router is up, a moment before all workers are."""
        deadline = time.monotonic() + self._start_s_max
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchmarkFailed(f"the service ended with code {self._process.returncode}: {log_tail(self._log_path)}")
            try:
                direct_door(self.front, system_call(self.front, "topology", self.key, timeout_ms=500), self.key)
                return
            except BenchmarkFailed:
                time.sleep(0.02)
        raise BenchmarkFailed(f"the service did not answer within {self._start_s_max:.0f} s: {log_tail(self._log_path)}")

    def close(self) -> None:
        stop(self._process)


class Tidegate:
    """A running service, whoever started it, called by one kind of load generator."""

    def __init__(
        self, front: str, generator: Generator, *, name: str = "tidegate", class_name: str = "", key: ClientKey | None = None
    ) -> None:
        """Raises BenchmarkFailed when it does not answer."""
        self.name = name
        self._generator = generator
        self._class_name = class_name
        self._direct = direct_door(front, system_call(front, "topology", key), key)
        self.pids: dict[str, list[int]] = {"workers": [], "router": [], "supervisor": []}
        for process in system_call(front, "status", key)["processes"]:
            layer = process["name"].split()[0]  # "router", "router 1", "worker 3"; of a cluster, "door"
            self.pids.setdefault("workers" if layer == "worker" else layer, []).append(process["pid"])
        routers = len(self.pids["router"])
        self._routed = Door(endpoints=(front,) * routers, owners=tuple(range(routers)), front=front, key=key)

    def can(self, plan: Plan) -> bool:
        return True

    def run(self, plan: Plan, meter: Meter) -> Load:
        door = self._direct if plan.route == "direct" else self._routed
        return run_generators(door, plan, self._generator, meter, self._class_name)

    def cpu_s(self, route: Route) -> dict[str, float]:
        return cpu_s_by_layer(self.pids)

    def durable_pids(self) -> list[int]:
        return self.pids["workers"]

    def close(self) -> None:
        """The service belongs to who started it."""


def _new_key(path: Path) -> ClientKey:
    """On the list of a service that is about to be started."""
    public, secret = (half.decode() for half in zmq.curve_keypair())
    key = AccessKey("load", public, Rights(admin=True))
    access = change_access(path, lambda access: with_key(access, key, 0.0), create=True)
    return ClientKey(access.public, public, secret)


def direct_door(front: str, reply: Any, key: ClientKey | None = None) -> Door:
    """What the system call `topology` answers, as a door. Raises BenchmarkFailed while a worker is down."""
    topology = topology_from_reply(reply)
    endpoints = tuple(endpoint for endpoint in topology.endpoints if endpoint is not None)
    if len(endpoints) < len(topology.endpoints):
        raise BenchmarkFailed("a worker of the service is down")
    return Door(endpoints=endpoints, owners=topology.owners, front=front, key=key)


def system_call(endpoint: str, method: str, key: ClientKey | None = None, *, timeout_ms: int = _SYSTEM_CALL_MS_MAX) -> Any:
    """Raises BenchmarkFailed when there is no answer, or an error."""
    client: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    client.setsockopt(zmq.LINGER, 0)
    try:
        show(client, key)
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
