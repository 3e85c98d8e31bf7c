"""Calls to objects that live on other workers.

Guarantee: every call ends by a reply or an error. What was sent to a worker that died ends in `shard_lost`; what waits for one
that is down is sent when it is back, or ends in `unavailable` after a few seconds. Calls to one worker leave in order.

The rules are those of the router towards its workers, and so is the code: `InFlight` per worker, a `Backend` socket each.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import zmq

from tidegate.runtime.errors import CallError, Internal, Overloaded, ShardLost, Unavailable
from tidegate.runtime.limits import INQUIRY_S, ROUTER_CALLS_PER_WORKER_MAX, WAITING_CALL_BYTES_MAX
from tidegate.runtime.sockets.backend import Backend
from tidegate.runtime.sockets.host_links import HostLinks
from tidegate.runtime.sockets.inflight import InFlight, Unanswered
from tidegate.runtime.sockets.inquiries import FORGOTTEN, Inquiries
from tidegate.runtime.sockets.moving_inflight import HostInFlight, MovingInFlight
from tidegate.runtime.wire.protocol import Reply, Request
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import Park, Parked, Topology, Waited
from tidegate.shard.host.outbound import LocalOrigin
from tidegate.shard.neutral import NEUTRAL

log = logging.getLogger("tidegate")


class Peers:
    """The other workers, as this one reaches them."""

    def __init__(
        self,
        context: zmq.Context[Any],
        loop: asyncio.AbstractEventLoop,
        identity: bytes,
        answered: Callable[[], None],
        tell: Callable[[Parked | Waited], None],
        hosts_secret: str = "",
    ) -> None:
        """`answered` is called after calls have ended, in whatever way. `tell` is for the supervisor. `hosts_secret`: by which
        the hosts of a cluster know each other."""
        self._hosts: HostLinks | None = None
        if hosts_secret:
            self._hosts = HostLinks(context, loop, hosts_secret, self._moving_replied, self._answered, self._hosts_changed)
        self._topology: Topology | None = None
        self._context = context
        self._loop = loop
        self._identity = identity
        self._call_answered = answered
        self._tell = tell
        self._parked: dict[int, _Parking] = {}
        self._table: SlotTable | None = None
        self._nobody: int | None = None
        self._is_early = False
        """Calls wait of which another host has said that it does not have their shards any more."""
        self._early: list[tuple[Request, LocalOrigin]] = []
        """Calls that were made before the first topology arrived."""
        self._workers: list[InFlight] = []
        self._backends: dict[int, Backend] = {}
        self._tokens = itertools.count(1).__next__
        self._connections = itertools.count(1).__next__
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._flushing = False
        self._inquiries: list[Inquiries] = []
        self._inquiry: asyncio.TimerHandle | None = None
        self._newest = 0

    @property
    def unanswered(self) -> int:
        return len(self._early) + sum(len(worker.unanswered) for worker in self._workers)

    def send(self, request: Request, origin: LocalOrigin, to: InFlight | None = None) -> None:
        """Sends at the end of the turn, to who has the object's shard unless it is said."""
        if self._table is None:  # It is on its way: whoever called this worker has it already.
            if len(self._early) < ROUTER_CALLS_PER_WORKER_MAX:
                self._early.append((request, origin))
            else:
                origin.fail(Unavailable("the worker has no topology yet"))
            return
        worker = self._workers[self._table.worker_of(request.cls, request.name)] if to is None else to
        size = len(request.args)
        if len(worker.unanswered) >= ROUTER_CALLS_PER_WORKER_MAX or worker.bytes + size > WAITING_CALL_BYTES_MAX:
            origin.fail(Overloaded(f"too many calls are in flight to worker {worker.worker}"))
            return
        token = self._newest = self._tokens()
        worker.add(token, request, origin, size)
        if worker.endpoint is None:
            worker.add_wait(token, self._loop.time())
            self._set_timer()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush, context=NEUTRAL)

    def park(self, message: Park) -> None:
        """The worker is about to be replaced. In each round but the first, what has waited is sent: it may be what the worker
        waits for."""
        if message.worker >= len(self._workers):
            return
        worker, now = self._workers[message.worker], self._loop.time()
        parking = self._parked.setdefault(message.worker, _Parking())
        if parking.round and worker.process is not None:
            self._came_up(worker, worker.process, now)
            self._flush()
        parking.round, parking.is_said = message.round, False
        worker.park(now)
        self._set_timer()
        self._say_parked()

    def _came_up(self, worker: InFlight, endpoint: str, now: float) -> None:
        waited, longest_s = worker.came_up(endpoint, now)
        if (parking := self._parked.get(worker.worker)) is not None:
            parking.calls += waited
            parking.longest_s = max(parking.longest_s, longest_s)

    def _say_parked(self) -> None:
        for index, parking in self._parked.items():
            if not parking.is_said and not self._workers[index].has_sent():
                parking.is_said = True
                self._tell(Parked(index, parking.round))

    def _answered(self) -> None:
        if self._parked:
            self._say_parked()
        self._call_answered()

    def _flush(self) -> None:
        self._flushing = False
        self._ask_later()
        for index, backend in self._backends.items():
            worker = self._workers[index]
            if worker.has_unsent():
                backend.send(worker.take_bodies())

    def _ask(self) -> None:
        """While calls are in flight: are the old ones known to their workers?"""
        self._inquiry = None
        for index, backend in self._backends.items():
            if isinstance(self._workers[index], HostInFlight):
                continue  # Its door knows of no call what its worker does.
            if (question := self._inquiries[index].ask(self._newest + 1)) is not None:
                backend.send([question])
        self._ask_later()

    def _ask_later(self) -> None:
        if self._inquiry is None and any(worker.unanswered for worker in self._workers):
            self._inquiry = self._loop.call_later(INQUIRY_S, self._ask, context=NEUTRAL)

    def _moving_replied(self, index: int, replies: list[Reply]) -> None:
        """What it has not taken goes to who has the shard now, or waits until that is known."""
        worker = self._workers[index]
        assert isinstance(worker, MovingInFlight), index
        replies, refused = worker.sort(replies)
        self._replied(worker, replies)
        assert self._table is not None
        assert self._nobody is not None
        for (origin, _, _), request in refused:
            home = self._workers[self._table.worker_of(request.cls, request.name)]
            self._is_early = self._is_early or home is worker
            self.send(request, cast("LocalOrigin", origin), self._workers[self._nobody] if home is worker else home)

    def _replied(self, worker: InFlight, replies: list[Reply]) -> None:
        for reply in replies:
            call = worker.answered(reply.id) if isinstance(reply.id, int) else None
            if call is not None:
                call[0].answer(reply.status, reply.result)  # type: ignore[attr-defined]  # a LocalOrigin: `send` added it
            else:
                self._answer_forgotten(worker, self._inquiries[worker.worker].reply(reply) or [])

    def _answer_forgotten(self, worker: InFlight, calls: list[Unanswered]) -> None:
        if calls:
            log.error(FORGOTTEN, worker.worker, len(calls))
        for origin, _, _ in calls:
            _fail(origin, Internal(f"worker {worker.worker} no longer knows of the call", outcome="unknown"))

    def topology_changed(self, topology: Topology) -> None:
        now = self._loop.time()
        is_newer = self._topology is None or topology.epoch != self._topology.epoch
        self._topology = topology
        if self._hosts is not None:
            topology = self._hosts.reachable(topology)
        before, self._table, self._nobody = self._table, SlotTable(topology), topology.nobody
        for index in range(len(self._workers), len(topology.endpoints)):
            of_cluster = HostInFlight if index > (self._nobody or 0) else MovingInFlight
            self._workers.append(InFlight(index) if self._nobody is None else of_cluster(index))
        self._inquiries += [Inquiries(worker) for worker in self._workers[len(self._inquiries) :]]
        for worker, endpoint in zip(self._workers, topology.endpoints, strict=True):
            worker.set_down(now, is_down=worker.worker in topology.down)
            if worker.process == endpoint:
                continue
            if worker.process is not None:
                self._lose(worker, now)
            if endpoint is not None:
                self._came_up(worker, endpoint, now)
                if (parking := self._parked.pop(worker.worker, None)) is not None:
                    self._tell(Waited(worker.worker, parking.calls, parking.longest_s * 1_000))
                self._backends[worker.worker] = self._connect(worker, endpoint)
        early, self._early = self._early, []
        if before is not None and ((self._is_early and is_newer) or before.owners != self._table.owners):
            self._is_early = False  # Not because a connection has come up: who refused a call would get it again.
            early = self._take_unsent() + early
        for request, origin in early:
            self.send(request, origin)
        self._flush()
        if early:
            self._answered()  # Some may have been refused, and a drain may have waited for them.

    def _hosts_changed(self) -> None:
        assert self._topology is not None
        self.topology_changed(self._topology)

    def _connect(self, worker: InFlight, endpoint: str) -> Backend:
        if isinstance(worker, HostInFlight):
            assert self._hosts is not None
            return self._hosts.backend(worker.worker)
        # Another identity each time: the worker may not know yet that an earlier connection is closed, and refuses a second one
        # of the same name, silently.
        identity = b"%s.%d" % (self._identity, self._connections())
        replied = (
            partial(self._moving_replied, worker.worker) if isinstance(worker, MovingInFlight) else partial(self._replied, worker)
        )
        return Backend(self._context, endpoint, self._loop, replied, self._answered, identity=identity)

    def _take_unsent(self) -> list[tuple[Request, LocalOrigin]]:
        """Shards have changed hands: what waits must wait at the new owner."""
        taken = [taken for worker in self._workers for taken in worker.take_unsent()]
        return [(request, cast("LocalOrigin", call[0])) for call, request in taken]

    def _lose(self, worker: InFlight, now: float) -> None:
        backend = self._backends.pop(worker.worker)
        backend.read_rest()  # Replies that the lost worker managed to send are good.
        backend.close()
        lost = ShardLost(f"worker {worker.worker} was lost with the call in flight")
        for origin, _, _ in worker.take_lost(now):
            _fail(origin, lost)
        self._answered()
        self._set_timer()

    def _set_timer(self) -> None:
        deadlines = [deadline for worker in self._workers if (deadline := worker.next_deadline()) is not None]
        if not deadlines:
            return
        if self._timer is not None:
            if self._timer_at <= min(deadlines):
                return
            self._timer.cancel()
        self._timer_at = min(deadlines)
        self._timer = self._loop.call_at(self._timer_at, self._on_timer, context=NEUTRAL)

    def _on_timer(self) -> None:
        self._timer = None
        now = max(self._loop.time(), self._timer_at)  # Timers may fire a little early.
        for worker in self._workers:
            text = f"worker {worker.worker} {'is down' if worker.is_down else 'is still being started'}"
            if worker.worker == self._nobody:
                text = "the object's shard is on its way from one worker to another"
            for (origin, _, _), _ in worker.take_expired(now):
                _fail(origin, Unavailable(text))
        self._answered()
        self._set_timer()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._inquiry is not None:
            self._inquiry.cancel()
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()
        if self._hosts is not None:
            self._hosts.close()


class _Parking:
    """A worker that is about to be replaced."""

    __slots__ = ("calls", "is_said", "longest_s", "round")

    def __init__(self) -> None:
        self.round = self.calls = 0
        self.longest_s = 0.0
        self.is_said = False
        """The supervisor knows that nothing is left with it."""


def _fail(origin: Any, error: CallError) -> None:
    origin.fail(error)
