"""One worker of a simulated service: the real core on a loop in virtual time, over stores that outlive it.

Guarantee: a commit takes no time and is durable at the end of its turn, unless a plan says otherwise. When the worker crashes,
nothing of it runs on, what was not durable is gone, calls in flight end in `ShardLost`, and at the same instant the next process
serves what is durable.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import ShardLost, UnknownClass
from tidegate.runtime.wire.protocol import Message, Origin, Request
from tidegate.shard.core.output_gate import PendingCommit
from tidegate.shard.core.states import State
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.call import Call
from tidegate.shard.host.host import Host
from tidegate.shard.host.outbound import InternalOrigin, LocalOrigin
from tidegate.shard.host.ring import Ring
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.host.table import Kept
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import AppError, Method, ObjectClass
from tidegate.testing.hosted import HostedShards
from tidegate.testing.offload import OffloadHere
from tidegate.testing.probes import ProbedStorage
from tidegate.testing.process import Process

if TYPE_CHECKING:
    from tidegate.testing.service import SimulatedService

EVICT_INTERVAL_S = 1.0
EVICTED_S = 0.000_1
"""So long after a call an object leaves memory, where the schedule says so."""
COMMIT_S = 0.002
"""What a commit takes then."""
ALARM_TIMER_MS_MAX = 1 << 45
"""Nobody sets the wall clock of a test behind its back."""


class ProbedHost(Host):
    """A host that tells its worker what happens, and looks for classes that it does not know yet."""

    __slots__ = ("worker",)
    storage_class = ProbedStorage
    worker: SimulatedWorker

    def deliver_soon(self, call: Call) -> None:
        caller: Any = call.origin
        if not self.worker.finds_class(call.request, caller):
            return
        sender, service = caller.caller.id, self.worker.service
        target = f"{call.request.cls}/{call.request.name}"
        service.note_call(str(sender), f"{target}.{call.request.method}", call.request.id)
        if not self.worker.crashes("sending", [(sender.class_name, sender.name)]):
            late_s = service.late_s(f"the call {target}.{call.request.method} of {sender}", str(sender), target)
            if late_s:
                self.loop.call_later(late_s, self._deliver_later, call, context=NEUTRAL)
            else:
                super().deliver_soon(call)

    def answer(self, origin: Any, request_id: Any, status: int, result: Any) -> None:
        if isinstance(origin, LocalOrigin):
            self.worker.service.note_answer(request_id, str(origin.caller.id), status, result)
        super().answer(origin, request_id, status, result)

    def _run(self, activation: Activation, method: Method, request: Request, origin: Any, context: contextvars.Context) -> None:
        point = "alarm" if isinstance(origin, Ring) else "call"
        if not self.worker.crashes(point, [(activation.id.class_name, activation.id.name)]):
            self.worker.service.known.add((activation.id.class_name, activation.id.name))
            self.worker.service.note(f"{activation.id}.{method.name} begins")
            if self.worker.explores("delays") or self.worker.explores("all_reads_wait"):
                activation.cache.evict()  # What is clean, as where memory is short: see `probes`.
            super()._run(activation, method, request, origin, context)
            self.worker.may_evict(activation)


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
        process = self.process = Process(
            self.service.time, lambda text: self.service.failed(text) if process.alive else None, first=True
        )
        self.loop = self.process.loop
        self._evicting: Any = None
        super().boot()
        host = self.host
        host.worker = self
        host.offload = OffloadHere(self.loop, 1, self.settings.offload_s)
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
            caller: Any = asked
            self.service.note_answer(request_id, str(caller.caller.id), status, result)
            late_s = self.service.late_s("a reply to another worker", f"worker {self.index}", f"worker {source.index}")
            source.loop.call_later(late_s, asked.answer, status, result, context=NEUTRAL)

    def finds_class(self, request: Request, origin: Any) -> bool:
        """Else the caller is told."""
        try:
            self.service.find_class(request.cls, origin.caller.id.class_name)
        except (ValueError, AppError) as error:
            origin.fail(UnknownClass(str(error)))
            return False
        return True

    def _send(self, request: Request, origin: Any) -> None:
        """A call of one of its objects to one of another worker."""
        caller = origin.caller.id
        if not self.process.alive or not self.finds_class(request, origin):
            return
        if not self.crashes("sending", [(caller.class_name, caller.name)]):
            name = f"{request.cls}/{request.name}"
            self.service.note_call(str(caller), f"{name}.{request.method}", request.id)
            target = self.service.worker_of(request.cls, request.name)
            target._forwarded[request.id] = self, self.process, origin
            asks = Origin(b"worker-%d" % self.index, envelope=None, json=False, single=False, requests=1)
            late_s = self.service.late_s(f"the call {name}.{request.method} of {caller}", str(caller), name)
            self.service.time.after(late_s, target.receive, Message(asks, [request], []))

    # Turns

    def wall_us(self) -> int:
        return self.service.clock.now_ns // 1_000

    def _end_turn(self) -> None:
        output_gate = self.host.output_gate
        while self.process.alive and output_gate.can_cut:
            commit = self.host.cut()
            names = ", ".join(f"{cache.class_name}/{cache.name}" for cache in commit.members)
            if names and self.service.happens(f"the commit of {names} takes a while", wanted=self.explores("delays")):
                self.loop.call_later(COMMIT_S, self._commit_late, commit, context=NEUTRAL)
                break
            self._commit(commit)
        if self._evicting is None and not self.host.table.is_empty:
            self._evict_in(self.settings.idle_evict_s)

    def explores(self, what: str) -> bool:
        exploration = self.service.exploration
        return exploration is not None and bool(getattr(exploration, what))

    def _commit_late(self, commit: PendingCommit) -> None:
        self._commit(commit)
        self.host.turn.end_soon()

    def _commit(self, commit: PendingCommit) -> None:
        objects = [(cache.class_name, cache.name) for cache in commit.members]
        names = ", ".join(map("/".join, objects))
        fails = bool(objects) and (
            self.service.commits_fail.strikes("commit", objects)
            or self.service.happens(f"the commit of {names} fails", wanted=self.explores("failures"))
        )
        if fails:
            self.host.commit_failed(commit, "the test said so")
        elif not self.crashes("before_commit", objects):
            self.commits += 1
            self.applied(self.position + 1, commit.shards)
            if names:
                self.service.note(f"{names} durable")
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

    def may_evict(self, activation: Activation) -> None:
        """It has begun a call; where that was all, it may leave memory now."""
        wanted = self.explores("evictions") and self.process.alive
        if self.service.happens(f"{activation.id} leaves memory", wanted=wanted):
            self.loop.call_later(EVICTED_S, self._evict_where_idle, activation, context=NEUTRAL)

    def _evict_where_idle(self, activation: Activation) -> None:
        if activation.broken is None and self.activation(activation.id.class_name, activation.id.name) is activation:
            self.evict(activation)

    def borrowed(self, class_name: str, name: str) -> tuple[Kept, Activation]:
        """The object for a change from outside; to be given back by `changed`."""
        self.service.known.add((class_name, name))
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
        service = self.service
        if service.schedule is None and service.crashes.are_none:
            return False
        names = ", ".join(map("/".join, objects))
        wanted = bool(objects) and self.service.crashes_left > 0
        drawn = self.service.happens(f"the worker of {names} crashes at {point!r}", wanted=wanted)
        self.service.crashes_left -= drawn
        if drawn or self.service.crashes.strikes(point, objects):
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
