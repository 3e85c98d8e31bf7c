"""The processes of a simulated service: real workers and a real router over simulated sockets, disk and time, and whoever
starts them again when they die.
"""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from tests.sim.disk import Disk, SimLog, SimPath
from tests.sim.history import EPOCH_S, History
from tests.sim.network import QUANTUM_S, Network, SimContext, SimSocket
from tests.sim.scenario import Scenario
from tidegate.router.server import RouterServer
from tidegate.runtime.wire.protocol import Message, Origin, Request
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    FromChild,
    Leave,
    Quiet,
    RouterSpec,
    Topology,
    TopologyChanged,
    WorkerSpec,
)
from tidegate.shard.host.host import Host
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.store.recovery import recover
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker.worker import Worker
from tidegate.testing.process import Process
from tidegate.testing.virtual_loop import VirtualTime

LISTEN = "tcp://router"


class SimProcess(Process):
    """One with a network and a history."""

    def __init__(self, service: Service, name: str) -> None:
        super().__init__(service.time, self._failed)
        self.service = service
        self.name = name
        self.told_at = 0.0
        self.drain_by = float("inf")
        self.history = service.history
        self.ending: str | None = None
        self.context: SimContext | None = None
        self.loop.after_turn = self._after_turn

    def _failed(self, text: str) -> None:
        if self.alive and "was never retrieved" not in text:
            self.history.problem("crash", f"{self.name}: {text}")

    def clock(self) -> float:
        return self.loop.clock()

    def readable(self, socket: SimSocket) -> None:
        raise AssertionError("this process has a loop")

    def bounced(self, socket: SimSocket, frames: list[bytes]) -> None:
        raise AssertionError("this process knows by the topology who is gone")

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        if self.alive:
            self.loop.call_soon(function, *args, context=contextvars.Context())

    def check_drained_in_time(self) -> None:
        """What ends a drain is the last answer. If its bound does, something that was waited for has told nobody."""
        if self.loop.time() >= self.drain_by:
            self.history.problem("drain", f"{self.name} drained until the time was over")

    def _after_turn(self) -> None:
        if self.ending is not None:
            self.service.time.at(self.loop.time(), self.service.process_ended, self)
            self.ending, self.loop.after_turn = None, None

    def die(self, *, graceful: bool) -> None:
        """`graceful`: what it sent still arrives."""
        if not self.alive:
            return
        self.alive = False
        if not graceful:
            self.service.network.cut_off(self)
        if self.context is not None:
            self.context.bounce_unread()
        self.kill()


class WorkerProcess(SimProcess):
    def __init__(self, service: Service, spec: WorkerSpec) -> None:
        super().__init__(service, f"worker {spec.index}.{spec.incarnation} of start {spec.start}")
        self.spec = spec
        self.worker: Worker | None = None
        self.host: Host | None = None
        self.log: SimLog | None = None
        self.exit_code: int | None = None
        self.soon(self._boot)

    def _boot(self) -> None:
        service, spec = self.service, self.spec

        def open_store(trouble: Any) -> WorkerStore:
            states: list[Any] = service.disk.open_states(spec.shards)
            directory: Any = SimPath(service.disk)
            report = recover(directory, states, spec.start, spec.index)
            self.log = SimLog(service.disk, spec.start, spec.index, self.loop)
            for state in states:
                state.serving = True
            log: Any = self.log
            return WorkerStore(states, log, report, trouble, service.scenario.memtable_bytes)

        context: Any = SimContext(service.network, self)
        self.context = context
        classes = [ObjectClass(cls) for cls in service.classes]
        self.worker = Worker(spec, context, self.loop, classes, open_store, self._said, self._ended)
        endpoint = self.worker.bind(f"ipc://worker-{spec.start}.{spec.index}.{spec.incarnation}")
        self.worker.start()
        self.loop.spend(service.random.randrange(1, 400) * QUANTUM_S)
        service.ready(self, endpoint)

    def _said(self, message: FromChild) -> None:
        if isinstance(message, Quiet):
            self.service.quiet(self)

    def _ended(self, exit_code: int, unanswered: int) -> None:
        self.exit_code = exit_code
        self.ending = "ended"
        if exit_code == 0 and unanswered:
            self.history.problem("drain", f"{self.name} ended with {unanswered} calls unanswered")
        self.check_drained_in_time()

    def start_trouble(self) -> str:
        """What `on_start` of an object should do besides its work."""
        service = self.service
        if service.disk.healthy or service.random.random() >= service.scenario.trouble:
            return ""
        return service.random.choice(("raise", "sleep", "abort"))

    def die(self, *, graceful: bool) -> None:
        if self.alive and self.log is not None:
            self.service.disk.crashed(self.log)
        super().die(graceful=graceful)

    def end_itself(self) -> None:
        """Code of an object does what no code should."""
        if self.alive:
            self.service.time.at(self.clock(), self.service.kill, self.spec.index)

    def check_invariants(self, *, quiet: bool) -> None:
        """`quiet`: nothing is going on, so nothing may be left over."""
        if self.host is None:
            return
        try:
            self.host.table.check_invariants()
        except AssertionError as error:
            self.history.problem("invariant", f"{self.name}: {error!r}")
        try:
            self.host.check_book()
        except AssertionError as error:
            self.history.problem("book", f"{self.name}: {error!r}")
        try:
            self.host.output_gate.check_invariants()
        except AssertionError as error:
            self.history.problem("invariant", f"the output gate of {self.name}: {error!r}")
        for kept in self.host.classes.values():
            for activation in kept.activations.values():
                try:
                    activation.gate.check_invariants()
                    activation.cache.check_invariants()
                except AssertionError as error:
                    self.history.problem("invariant", f"{activation.id}: {error!r}")
                if activation.gate.has_waiters and not activation.pumping:
                    self.history.problem("input gate", f"{activation.id}: somebody could be let in and nobody does it")
        if quiet:
            statistics = self.host.statistics()
            left = (self.host.unanswered, statistics.tasks, statistics.queued_calls, statistics.held_messages)
            if any(left) or self.host.output_gate.dirty or self.host.output_gate.in_flight or self.host.output_gate.open_bytes:
                self.history.problem("leftover", f"{self.name}: {statistics}, open bytes {self.host.output_gate.open_bytes}")


class RouterProcess(SimProcess):
    def __init__(self, service: Service, spec: RouterSpec) -> None:
        super().__init__(service, f"router of start {service.start}")
        context: Any = SimContext(service.network, self)
        self.context = context
        self.server = RouterServer(spec, context, self.loop, lambda message: None, self._drained)
        self.unanswered: int | None = None
        self.drained_at = 0.0
        self.server.bind(f"{LISTEN}.{service.start}")
        self.soon(self.server.start)

    def _drained(self, unanswered: int) -> None:
        self.unanswered = unanswered
        self.drained_at = self.loop.time()
        self.ending = "drained"
        if unanswered:
            self.history.problem("drain", f"the router gave up {unanswered} calls")
        self.check_drained_in_time()


class _Rows:
    """What takes replies, one after the other."""

    def __init__(self, append: Callable[[tuple[Any, int, Any]], object]) -> None:
        self.append = append


class WatchedHost(Host):
    """A host whose outgoing messages are looked at: nothing that is not durable may be revealed."""

    def __init__(self, loop: Any, classes: Any, stores: Any, settings: Any, reply: Any, send: Any, **kwargs: Any) -> None:
        process: WorkerProcess = loop.process
        settings = dataclasses.replace(settings, call_bytes_max=process.service.scenario.waiting_bytes)
        history, disk = process.history, process.service.disk
        asked: dict[tuple[bytes, Any], Request] = {}
        self._asked = asked

        def watched_reply(origin: Origin, request_id: Any, status: int, result: Any) -> None:
            request = asked.pop((origin.client, request_id), None)
            if request is None:
                history.problem("answered twice", f"{process.name} answers {request_id!r} of {origin.client!r} again")
            elif process.alive:
                process.service.check_leaves(request.cls, request.name, request.method, status, result)
            reply(origin, request_id, status, result)

        reply_rows = kwargs.pop("reply_rows")

        def watched_rows(origin: Origin) -> Any:
            """The replies of a commit come this way, and are looked at as all others."""
            return None if reply_rows(origin) is None else _Rows(lambda row: watched_reply(origin, *row))

        def watched_send(request: Request, origin: Any) -> None:
            if request.cls == "Journal":
                history.leaves(f"a call of {request.method}", msgspec.msgpack.decode(request.args)[2])
            send(request, origin)

        seconds = Random(disk.random.random())
        super().__init__(
            loop,
            classes,
            stores,
            settings,
            reply=watched_reply,
            reply_rows=watched_rows,
            send=watched_send,
            wall_us=lambda: int((EPOCH_S + loop.time()) * 1e6),
            random=seconds,
            **{**kwargs, "monotonic_us": lambda: round(loop.time() * 1e6)},
        )
        process.host = self

    def handle(self, message: Message) -> None:
        for request in message.requests:
            self._asked[message.origin.client, request.id] = request
        super().handle(message)


class Service:
    """The supervisor, as far as the others notice it: starts processes, tells everybody where they are."""

    def __init__(
        self,
        time: VirtualTime,
        random: Random,
        scenario: Scenario,
        network: Network,
        disk: Disk,
        history: History,
        classes: list[Any],
        check_leaves: Callable[[str, str, str, int, Any], None],
    ) -> None:
        self.time = time
        self.random = random
        self.scenario = scenario
        self.network = network
        self.disk = disk
        self.history = history
        self.classes = classes
        self.check_leaves = check_leaves
        self.start = 0
        self.topology = Topology(0, (0,) * scenario.shards, (None,))
        self.topology_changed: Callable[[Topology], None] = lambda topology: None
        self.router: RouterProcess | None = None
        self.workers: list[WorkerProcess] = []
        self.running = False
        self.draining = False
        self._incarnations: list[int] = []
        self._quiet: set[SimProcess] = set()
        self._waiting_for: set[int] = set()

    # Starts

    def begin(self, workers: int) -> None:
        self.start += 1
        self.running, self.draining = True, False
        owners = tuple(shard % workers for shard in range(self.scenario.shards))
        self.topology = Topology(self.topology.epoch + 1, owners, (None,) * workers)
        self._incarnations = [0] * workers
        self._waiting_for = set(range(workers))
        self.router = RouterProcess(self, RouterSpec(0, LISTEN, "sim", self.scenario.shards, workers))
        self.workers = [self._spawn(index) for index in range(workers)]

    def _spawn(self, index: int) -> WorkerProcess:
        scenario, owners = self.scenario, self.topology.owners
        self._incarnations[index] += 1
        shards = tuple(shard for shard, owner in enumerate(owners) if owner == index)
        spec = WorkerSpec(
            index, len(self._incarnations), self._incarnations[index], self.start, None, shards, scenario.shards, "sim", "sim",
            "sim", scenario.cache_bytes, scenario.idle_evict_s, False,
        )  # fmt: skip
        return WorkerProcess(self, spec)

    def ready(self, process: WorkerProcess, endpoint: str) -> None:
        self.time.at(process.clock() + self._control_delay_s(), self._is_ready, process, endpoint)

    def _is_ready(self, process: WorkerProcess, endpoint: str) -> None:
        if process.alive and self.running:
            self._waiting_for.discard(process.spec.index)
            if not self._waiting_for:
                self.disk.forget_logs_before(self.start)
            self._change(process.spec.index, endpoint)

    def _change(self, index: int, endpoint: str | None) -> None:
        endpoints = list(self.topology.endpoints)
        endpoints[index] = endpoint
        self.topology = Topology(self.topology.epoch + 1, self.topology.owners, tuple(endpoints))
        self.history.note(lambda: f"topology {self.topology.endpoints}")
        for process in [self.router, *self.workers]:
            if process is not None:
                self.tell(process, TopologyChanged(self.topology))
        self.topology_changed(self.topology)

    def tell(self, process: SimProcess, message: Any) -> None:
        """Over the control channel, which keeps the order."""
        process.told_at = max(process.told_at, self.time.now + self._control_delay_s())
        if isinstance(message, Drain):
            process.drain_by = self.time.now + message.timeout_s
        self.time.at(process.told_at, self._deliver, process, message)

    def _deliver(self, process: SimProcess, message: Any) -> None:
        if isinstance(process, RouterProcess):
            process.soon(process.server.on_control, message)
        elif isinstance(process, WorkerProcess) and process.worker is not None:
            process.soon(process.worker.on_control, message)

    def _control_delay_s(self) -> float:
        return self.random.randrange(1, 30) * QUANTUM_S

    # Ends

    def kill(self, index: int) -> None:
        """SIGKILL, at this instant."""
        process = self.workers[index]
        if process.alive:
            self.history.note(lambda: f"{process.name} is killed")
            self.history.count("kills")
            process.die(graceful=False)
            self._died(process)

    def process_ended(self, process: SimProcess) -> None:
        """It has ended by itself."""
        if process.alive:
            self.history.note(lambda: f"{process.name} ends")
            process.die(graceful=True)
            if isinstance(process, WorkerProcess):
                self._died(process)
            elif self.draining:
                for worker in self.workers:
                    self.tell(worker, Drain(500.0))

    def _died(self, process: WorkerProcess) -> None:
        if not self.running:
            return
        index = process.spec.index
        self.time.after(self._control_delay_s(), self._notice, process, self.start)
        if self.draining:
            self._let_workers_leave()
        else:
            self.time.after(self.random.random() * self.scenario.restart_s, self._restart, index, self.start)

    def _notice(self, process: WorkerProcess, start: int) -> None:
        index = process.spec.index
        current = self.running and start == self.start and self.workers[index] is process
        if current and self.topology.endpoints[index] is not None:
            self._change(index, None)

    def _restart(self, index: int, start: int) -> None:
        if self.running and start == self.start and not self.draining and not self.workers[index].alive:
            if self.topology.endpoints[index] is not None:
                self._change(index, None)
            self.workers[index] = self._spawn(index)

    def drain(self) -> None:
        """The router first, then the workers: everything accepted is answered."""
        self.draining = True
        assert self.router is not None
        self.tell(self.router, Drain(500.0))

    def quiet(self, process: WorkerProcess) -> None:
        self.time.at(process.clock() + self._control_delay_s(), self._is_quiet, process)

    def _is_quiet(self, process: WorkerProcess) -> None:
        self._quiet.add(process)
        self._let_workers_leave()

    def _let_workers_leave(self) -> None:
        alive = [worker for worker in self.workers if worker.alive]
        if all(worker in self._quiet for worker in alive):
            for worker in alive:
                self.tell(worker, Leave())

    def kill_everything(self) -> None:
        self.running = False
        for process in [*self.workers, self.router]:
            if process is not None:
                process.die(graceful=False)

    @property
    def is_down(self) -> bool:
        return not any(process.alive for process in [*self.workers, self.router] if process is not None)
