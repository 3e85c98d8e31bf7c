"""The shell of the router: sockets, control messages and timers around `RouterMachine`. No rules.

A turn begins with something readable (a client's message, a worker's reply, a control message) or a timer, and ends in
`_end_turn`: what the machine has for each worker is sent, then the replies of the turn leave, each in few messages.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import zmq

from tidegate.router.machine import RouterMachine
from tidegate.runtime.child.draining import Draining
from tidegate.runtime.limits import BUDGET_SHARE, FORWARDED_BYTES_MAX, HEAP_PERCENT, INQUIRY_S, MESSAGE_BYTES_MAX
from tidegate.runtime.logs.capture import change_levels
from tidegate.runtime.sockets.backend import Backend
from tidegate.runtime.sockets.endpoint import Endpoint
from tidegate.runtime.sockets.guard import Guard
from tidegate.runtime.sockets.host_links import HostLinks
from tidegate.runtime.sockets.inflight import InFlight
from tidegate.runtime.sockets.inquiries import FORGOTTEN
from tidegate.runtime.sockets.moving_inflight import HostInFlight, MovingInFlight
from tidegate.runtime.sockets.outbox import Outbox
from tidegate.runtime.sockets.slices import Slices
from tidegate.runtime.wire.access import read_only_methods
from tidegate.runtime.wire.counts import Counts
from tidegate.runtime.wire.protocol import Message, Reply, own_identity
from tidegate.runtime.wire.supervisor_messages import (
    AccessChanged,
    Drain,
    FromChild,
    FromSupervisor,
    HoldAll,
    LevelsChanged,
    Park,
    Ping,
    Pong,
    RouterSpec,
    StatusChanged,
    Topology,
    TopologyChanged,
)

_TIMER_S_MAX = 3_600.0
"""Deadlines of centuries are more than a loop counts: after an hour it looks again."""
_SILENCE_S = 0.02
"""What was sent before the sender could know of a drain may still be on its way: nobody has asked for so long when it ends."""
_SILENCE_S_MAX = 0.5
"""How long a drain whose calls are answered goes on refusing those who do not stop asking."""

log = logging.getLogger("tidegate")


def first_topology(spec: RouterSpec) -> Topology:
    """What holds before the supervisor has said anything: every worker is down, so calls wait for it."""
    owners = tuple(shard % spec.workers for shard in range(spec.shards_total))
    nobody = spec.workers if spec.is_clustered else None
    return Topology(0, owners, (None,) * (spec.workers + spec.is_clustered), nobody=nobody)


def _log_forgotten(worker: int, calls: int) -> None:
    log.error(FORGOTTEN, worker, calls)


class RouterServer:
    """Serves clients from `start` to the end of a drain, which is reported by `drained(unanswered)`."""

    def __init__(
        self,
        spec: RouterSpec,
        context: zmq.Context[Any],
        loop: asyncio.AbstractEventLoop,
        send_control: Callable[[FromChild], None],
        drained: Callable[[int], None],
    ) -> None:
        self._context = context
        self._name = spec.name
        self._loop = loop
        self._send_control = send_control
        self._drained = drained
        self._own = own_identity(spec.secret)
        share_bytes = spec.budget_bytes // BUDGET_SHARE
        self._guard = None if spec.access is None else Guard(spec.access.secret, spec.access.keys)
        self._endpoint = Endpoint(
            context,
            self._handle,
            self._end_turn,
            message_bytes_max=FORWARDED_BYTES_MAX if spec.is_door else MESSAGE_BYTES_MAX,  # What routers say is a bit longer.
            outbox=Outbox(share_bytes, lambda client: self._machine.crowded_no_longer(client), self._own),
            slices=(slices := Slices(share_bytes, others=lambda: self._machine.bytes)),
            guard=self._guard,
            heap_bytes_max=spec.budget_bytes * HEAP_PERCENT // 100,
        )
        self._machine = RouterMachine(
            first_topology(spec),
            self._endpoint.reply,
            statistics=self.statistics,
            forgotten=_log_forgotten,
            crowded=self._endpoint.outbox.crowded,
            put_off=lambda: slices.bytes,
            bytes_max=share_bytes,
            is_door=spec.is_door,
        )
        self._topology: Topology | None = None
        self._hosts: HostLinks | None = None
        if spec.hosts_secret and not spec.is_door:
            secret, changed = spec.hosts_secret, self._hosts_changed
            self._hosts = HostLinks(context, loop, secret, self._host_replied, self._end_turn, changed)
        self._backends: dict[int, Backend] = {}
        self._unreadable_before = 0
        """Of workers that are no longer there."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._inquiry: asyncio.TimerHandle | None = None
        self._draining: Draining | None = None

    def bind(self, endpoint: str, listening_fd: int | None = None) -> str:
        """Returns the endpoint really bound. Raises zmq.ZMQError. With a descriptor, that socket listens there already."""
        return self._endpoint.bind(endpoint, listening_fd)

    def start(self) -> None:
        self._endpoint.start(self._loop)

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
        self._endpoint.close()

    def pong(self, number: int) -> Pong:
        return Pong(number, self.statistics(), {**self._machine.counts(), **self._endpoint_counts()})

    def _endpoint_counts(self) -> Counts:
        return self._endpoint.counts(stray_reply=self._machine.stray_replies, unreadable_reply=self._unreadable_replies)

    def statistics(self) -> dict[str, Any]:
        return {
            "name": self._name,
            **self._machine.statistics(),
            **dataclasses.asdict(self._endpoint.statistics()),
            "unreadable_replies": self._unreadable_replies,
        }

    @property
    def _unreadable_replies(self) -> int:
        return self._unreadable_before + sum(backend.unreadable for backend in self._backends.values())

    # Turns

    def _replied(self, worker: InFlight, replies: list[Reply]) -> None:
        self._machine.replied(worker, replies, time.monotonic())

    def _host_replied(self, index: int, replies: list[Reply]) -> None:
        host = self._machine.workers[index]
        assert isinstance(host, HostInFlight), index
        self._moving_replied(host, replies)

    def _moving_replied(self, worker: MovingInFlight, replies: list[Reply]) -> None:
        self._machine.moving_replied(worker, replies, time.monotonic())

    def _handle(self, message: Message) -> None:
        self._machine.handle(message, time.monotonic())

    def _end_turn(self) -> None:
        for worker in self._machine.workers:
            if worker.has_unsent():
                backend = self._backends.get(worker.worker)
                if backend is not None:
                    backend.send(worker.take_bodies_in_turn())
        if self._inquiry is None and any(worker.unanswered for worker in self._machine.workers):
            self._inquiry = self._loop.call_later(INQUIRY_S, self._ask)
        if self._machine.timer_is_late:
            self._machine.timer_is_late = False
            self._set_timer()
        self._endpoint.flush()
        if self._endpoint.outbox.crowded:
            self._refuse_for_crowded()
        if self._machine.has_to_say:
            for message in self._machine.take_said():
                self._send_control(message)
        if self._draining is not None:
            endpoint = self._endpoint.statistics()
            left = self._machine.unanswered() > 0 or self._endpoint.is_behind or endpoint.kept_bytes > 0
            self._draining.turn_ended(left=left, heard=endpoint.messages_in)

    def _refuse_for_crowded(self) -> None:
        for worker, body in self._machine.refuse_for_crowded():
            if (backend := self._backends.get(worker)) is not None:
                backend.send([body])
        self._endpoint.flush()

    def _ask(self) -> None:
        """While calls are in flight: are the old ones known to their workers?"""
        self._inquiry = None
        for worker, question in self._machine.ask_about_old_calls():
            if (backend := self._backends.get(worker)) is not None:
                backend.send([question])
        self._end_turn()

    def _set_timer(self) -> None:
        deadline = self._machine.next_deadline()
        if deadline is None:
            return
        deadline = min(deadline, self._loop.time() + _TIMER_S_MAX)
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._machine.handle_timer(max(self._loop.time(), self._timer_at))  # Timers may fire a little early.
        self._set_timer()
        self._end_turn()

    # The supervisor speaks

    def on_control(self, message: FromSupervisor) -> None:
        if isinstance(message, TopologyChanged):
            self._topology_changed(message.topology)
        elif isinstance(message, StatusChanged):
            self._machine.status_changed(message.status)
            if self._guard is not None and (classes := message.status.get("classes")):
                self._guard.told_read_only(read_only_methods(classes))
        elif isinstance(message, AccessChanged):
            if self._guard is not None:
                self._guard.allow(message.keys)
        elif isinstance(message, LevelsChanged):
            change_levels(message.level, message.levels)
        elif isinstance(message, Ping):
            self._send_control(self.pong(message.number))
        elif isinstance(message, Park):
            self._machine.park(message.worker, message.round, self._loop.time())
            self._end_turn()
        elif isinstance(message, HoldAll):
            self._machine.hold(self._loop.time(), on=message.on)
            self._end_turn()
        elif isinstance(message, Drain):
            self._start_drain(message.timeout_s)

    def _topology_changed(self, topology: Topology) -> None:
        self._topology = topology
        if self._hosts is not None:
            topology = self._hosts.reachable(topology)
        elif topology.nobody is not None:  # A door passes nothing on to other hosts.
            hosts = len(topology.endpoints) - topology.nobody - 1
            topology = msgspec.structs.replace(topology, endpoints=topology.endpoints[: topology.nobody + 1] + (None,) * hosts)
        for index, backend in list(self._backends.items()):
            endpoint = topology.endpoints[index] if index < len(topology.endpoints) else None
            if endpoint != self._machine.endpoint_of(index):
                backend.read_rest()  # Replies that the lost worker managed to send are good.
                backend.close()
                self._unreadable_before += backend.unreadable
                del self._backends[index]
        self._machine.topology_changed(topology, self._loop.time())
        for index, endpoint in enumerate(topology.endpoints):
            if endpoint is not None and index not in self._backends:
                self._backends[index] = self._connect(self._machine.workers[index], endpoint)
        self._end_turn()

    def _hosts_changed(self) -> None:
        assert self._topology is not None
        self._topology_changed(self._topology)

    def _connect(self, worker: InFlight, endpoint: str) -> Backend:
        if isinstance(worker, HostInFlight):
            assert self._hosts is not None
            return self._hosts.backend(worker.worker)
        if isinstance(worker, MovingInFlight):
            replied = partial(self._moving_replied, worker)
        else:
            replied = partial(self._replied, worker)
        # A name of its own each time: see `peers.py`.
        identity = b"%srouter-%s" % (self._own, secrets.token_hex(8).encode())
        return Backend(self._context, endpoint, self._loop, replied, self._end_turn, identity=identity)

    # The end

    def _start_drain(self, timeout_s: float) -> None:
        if self._draining is None:
            self._machine.start_drain()
            self._draining = Draining(self._loop, timeout_s, self._done, silence_s=_SILENCE_S, silence_s_max=_SILENCE_S_MAX)
            self._end_turn()

    def _done(self) -> None:
        """Everything is answered, or the time is over."""
        given_up = self._machine.give_up()
        self._end_turn()
        self._drained(given_up)
