"""One worker of a simulated service: the real core on a loop in virtual time, over stores that outlive it.

Guarantee: a commit takes no time and is durable at the end of its turn, unless a plan says otherwise. When the worker crashes,
nothing of it runs on, what was not durable is gone, calls in flight end in `ShardLost`, and at the same instant the next process
serves what is durable.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import ShardLost
from tidegate.runtime.wire.protocol import Message, Origin, Request
from tidegate.shard.core.output_gate import PendingCommit
from tidegate.shard.core.states import State
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.call import Call
from tidegate.shard.host.host import Host
from tidegate.shard.host.outbound import InternalOrigin
from tidegate.shard.host.ring import Ring
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.host.table import Kept
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import Method, ObjectClass
from tidegate.shard.objects.storage import Storage, Transaction
from tidegate.testing.hosted import HostedShards
from tidegate.testing.process import Process

if TYPE_CHECKING:
    from tidegate.testing.service import SimulatedService

EVICT_INTERVAL_S = 1.0
ALARM_TIMER_MS_MAX = 1 << 45
"""Nobody sets the wall clock of a test behind its back."""


class ProbedStorage(Storage):
    __slots__ = ()

    def transaction(self) -> Transaction:
        return ProbedTransaction(self)


class ProbedTransaction(Transaction):
    __slots__ = ()

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        activation: Any = self._storage._owner
        host: ProbedHost = activation.host
        if error is None and host.worker.crashes("transaction", [(activation.id.class_name, activation.id.name)]):
            await host.loop.create_future()  # For ever: it is dead.
        await super().__aexit__(kind, error, traceback)


class ProbedHost(Host):
    """A host that tells its worker what happens, and looks for classes that it does not know yet."""

    __slots__ = ("worker",)
    storage_class = ProbedStorage
    worker: SimulatedWorker

    def deliver_soon(self, call: Call) -> None:
        self.worker.service.find_class(call.request.cls)
        caller: Any = call.origin
        if not self.worker.crashes("sending", [(caller.caller.id.class_name, caller.caller.id.name)]):
            super().deliver_soon(call)

    def _run(self, activation: Activation, method: Method, request: Request, origin: Any, context: contextvars.Context) -> None:
        point = "alarm" if isinstance(origin, Ring) else "call"
        if not self.worker.crashes(point, [(activation.id.class_name, activation.id.name)]):
            super()._run(activation, method, request, origin, context)


class SimulatedWorker(HostedShards):
    host_class = ProbedHost
    host: ProbedHost

    def __init__(self, service: SimulatedService, index: int, shards: Iterable[int], settings: HostSettings) -> None:
        self.service = service
        self.index = index
        self.process: Process
        self._arrived: list[Message] = []
        """While it is down."""
        self._forwarded: dict[Any, tuple[SimulatedWorker, Process, InternalOrigin]] = {}
        """Calls of objects of other workers, by their ids."""
        super().__init__(None, service.classes.values(), shards, settings)

    def boot(self) -> None:
        self.process = Process(self.service.time, self.service.failed, first=True)
        self.loop = self.process.loop
        self._evicting: Any = None
        super().boot()
        host = self.host
        host.worker = self
        host.alarms.timer_ms_max = ALARM_TIMER_MS_MAX
        host.table.sleep_s = 0.0  # It only saves reading what is in memory here anyway.
        self.loop.listeners = self.service.network
        host.alarms.start()
        arrived, self._arrived = self._arrived, []
        for message in arrived:
            self.receive(message)

    def learn(self, object_class: ObjectClass) -> None:
        """A class that it serves from now on."""
        self.host.classes[object_class.name] = Kept(object_class)
        self.classes.append(object_class)

    # Messages

    def receive(self, message: Message) -> None:
        if self.process.alive:
            self.loop.call_soon(self._handle, message, context=NEUTRAL)
        else:
            self._arrived.append(message)

    def _handle(self, message: Message) -> None:
        self.host.turn.begin()
        self.host.handle(message)
        self._end_turn()

    def _reply(self, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        if not self.process.alive:
            return
        forwarded = self._forwarded.pop(request_id, None)
        if forwarded is None:
            self.service.answered(request_id, status, result)
            return
        source, process, asked = forwarded
        if process.alive:
            source.loop.call_soon(asked.answer, status, result, context=NEUTRAL)

    def _send(self, request: Request, origin: Any) -> None:
        """A call of one of its objects to one of another worker."""
        caller = origin.caller.id
        if self.process.alive and not self.crashes("sending", [(caller.class_name, caller.name)]):
            self.service.find_class(request.cls)
            target = self.service.worker_of(request.cls, request.name)
            target._forwarded[request.id] = self, self.process, origin
            asks = Origin(b"worker-%d" % self.index, envelope=None, json=False, single=False, requests=1)
            target.receive(Message(asks, [request], []))

    # Turns

    def wall_us(self) -> int:
        return self.service.clock.now_ns // 1_000

    def _end_turn(self) -> None:
        output_gate = self.host.output_gate
        while self.process.alive and output_gate.can_cut:
            self._commit(self.host.cut())
        if self._evicting is None and not self.host.table.is_empty:
            self._evict_in(self.settings.idle_evict_s)

    def _commit(self, commit: PendingCommit) -> None:
        objects = [(cache.class_name, cache.name) for cache in commit.members]
        if objects and self.service.commits_fail.strikes("commit", objects):
            self.host.commit_failed(commit, "the test said so")
        elif not self.crashes("before_commit", objects):
            self.commits += 1
            self.applied(self.position + 1, commit.shards)
            if not self.crashes("after_commit", objects):
                self.host.committed(commit)

    def _evict_in(self, seconds: float) -> None:
        self._evicting = self.loop.call_later(max(EVICT_INTERVAL_S, seconds), self._evict, context=NEUTRAL)

    def _evict(self) -> None:
        self._evicting = None
        now_s = self._now_s()
        again_s = self.host.table.evict_idle(now_s)
        if again_s is not None:
            self._evict_in(again_s - now_s)

    @property
    def is_at_rest(self) -> bool:
        """Nothing is to happen but that objects leave memory."""
        return self.process.alive and self.loop.timers() in ([], [self._evicting])

    # Objects

    def activation(self, class_name: str, name: str) -> Activation | None:
        """The object, where it has an instance."""
        kept = self.host.classes.get(class_name)
        return None if kept is None else kept.activations.get(name)

    def evict(self, activation: Activation) -> bool:
        """As after a long time without calls. False: it is at work."""
        if activation.state is State.RESTING:
            self.host.table.rouse(activation, self._now_s())
        activation.kept_until_s = 0.0
        if not activation.is_idle(self._now_s()):
            return False
        self.host.table.evict(activation)
        return True

    def borrowed(self, class_name: str, name: str) -> tuple[Kept, Activation]:
        """The object for a change from outside; to be given back by `changed`."""
        kept = self.host.classes[class_name]
        activation = self.host.activator.borrow(kept, name, self.shard_of(class_name, name))
        if activation is None:
            raise RuntimeError(f"{class_name}/{name} is just being reset; await something first")
        return kept, activation

    def changed(self, kept: Kept, activation: Activation) -> None:
        self.host.activator.give_back(kept, activation)
        self._end_turn()

    # Death

    def crashes(self, point: str, objects: list[tuple[str, str]]) -> bool:
        """Whether it crashes here: then whoever asks does nothing more."""
        if not self.process.alive:
            return True
        if self.service.crashes.strikes(point, objects):
            self.service.time.at(self.service.time.now, self._bury, self.process, f"at {point!r}")
            self.process.fall()
            return True
        return False

    def crash(self) -> None:
        """Here and now, called from outside."""
        if self.process.alive:
            self.process.fall()
            self._bury(self.process, "")

    def _bury(self, process: Process, where: str) -> None:
        process.kill()
        error = ShardLost(f"the worker crashed {where}, as the test said".replace("  ", " "))
        forwarded, self._forwarded = self._forwarded, {}
        self.service.lost(self, error)
        for source, asking, origin in forwarded.values():
            if asking.alive and source is not self:
                source.loop.call_soon(origin.fail, error, context=NEUTRAL)
        self.service.network.forget(self.host.web)
        self.boot()
