"""A service in virtual time whose disk, network and processes do nothing surprising: for tests of when something happens."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import zmq

from tests.sim.disk import Disk
from tests.sim.history import History
from tests.sim.network import Network, SimContext, SimSocket
from tests.sim.patches import replaced
from tests.sim.processes import LISTEN, Service, SimProcess, WatchedHost, WorkerProcess
from tests.sim.scenario import make_scenario
from tests.sim.simulation import decode_result, quiet_logs
from tidegate.runtime.wire.slots import SlotTable
from tidegate.testing.virtual_loop import VirtualTime

UNHURRIED = {
    "calm": True, "drains": True, "cache_bytes": 1 << 20, "idle_evict_s": 1e6, "evict_interval_s": 1e6, "crash_mean_s": 1e9,
    "log_full": 0.0, "log_broken": 0.0, "checkpoint_full": 0.0, "checkpoint_broken": 0.0, "undurable_bytes": 16 << 20,
    "commit_bytes": 24 << 20, "object_calls": 1_000, "trouble": 0.0, "harsh": False, "shards": 8,
}  # fmt: skip


class Steady(Random):
    """Of which nothing unusual comes."""

    def random(self) -> float:
        return 0.5


class Caller:
    """A client: a socket without a loop."""

    alive, loop = True, None

    def __init__(self, service: CalmService) -> None:
        self._service = service
        context: Any = SimContext(service.network, self)
        self._socket: SimSocket = context.socket(zmq.DEALER)
        self._socket.connect(f"{LISTEN}.{service.processes.start}")
        self._numbers = itertools.count(1).__next__
        self.replies: dict[int, Any] = {}

    def clock(self) -> float:
        return self._service.time.now

    def readable(self, socket: SimSocket) -> None:
        while socket.inbox:
            (body,) = socket.inbox.popleft()
            for number, status, result in msgspec.msgpack.decode(body):
                self.replies[number] = result["code"] if status else result

    def bounced(self, socket: SimSocket, frames: list[bytes]) -> None:
        raise AssertionError("everybody lives long enough")

    def call(self, cls: str, name: str, method: str, *args: Any) -> int:
        number = self._numbers()
        self._socket.send(msgspec.msgpack.encode([[number, cls, name, method, args]]))
        return number


class CalmService:
    """`left_at` and `ended_at` say when something happened: a reply left its worker, a process was done with its drain."""

    def __init__(self, classes: list[Any], workers: int) -> None:
        self.time = VirtualTime(Random(1))
        scenario = dataclasses.replace(make_scenario(Random(1)), **UNHURRIED, workers=(workers,))  # type: ignore[arg-type]  # of any fields
        self.scenario = scenario
        self.disk = Disk(self.time, Random(1), scenario)
        self.history = History(self.disk, self.time.clock)
        self.network = Network(self.time, Steady(1), 2)
        self.processes = Service(
            self.time, Random(1), scenario, self.network, self.disk, self.history, classes, self._reply_leaves
        )
        self.left_at: dict[str, float] = {}
        """By method."""
        self.quiet_at: dict[int, float] = {}
        """By worker."""
        self.processes.quiet = self._is_quiet

    def begin(self) -> Caller:
        self.processes.begin(self.scenario.workers[0])
        self.run_for(10.0)
        return Caller(self)

    def run_for(self, seconds: float) -> None:
        self.time.run(self.time.now + seconds)

    def turns_of(self, process: SimProcess, seconds: float) -> int:
        """How often the process does something while that time passes."""
        turns = 0
        run_turn = process.loop.run_turn

        def counted() -> None:
            nonlocal turns
            turns += 1
            run_turn()

        process.loop.run_turn = counted
        self.run_for(seconds)
        del process.loop.run_turn
        return turns

    def name_on(self, cls: str, worker: int) -> str:
        table = SlotTable(self.processes.topology)
        return next(name for name in map(str, itertools.count()) if table.worker_of(cls, name) == worker)

    def _reply_leaves(self, cls: str, name: str, method: str, status: int, result: Any) -> None:
        decode_result(result)
        self.left_at[method] = self.time.clock()

    def _is_quiet(self, process: WorkerProcess) -> None:
        self.quiet_at[process.spec.index] = process.clock()
        Service.quiet(self.processes, process)


@contextlib.contextmanager
def calm_service(*classes: Any, workers: int = 1) -> Iterator[CalmService]:
    service = CalmService(list(classes), workers)
    with quiet_logs(), replaced(service.time, service.disk, service.scenario, WatchedHost):
        yield service
        service.processes.kill_everything()
    assert not service.history.problems
