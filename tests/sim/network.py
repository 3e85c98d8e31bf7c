"""A simulated network under the real endpoints: sockets with the calls and the edge-triggered readiness of ZeroMQ's.

What one socket sends to another arrives in order after a random delay, or, when the sender is killed, is cut off somewhere.
The readiness of a socket is an edge: any operation on it consumes the signal, so a shell that forgets to ask `EVENTS` hangs.
"""

from __future__ import annotations

import collections
import errno
import itertools
from random import Random
from typing import Any, NoReturn, Protocol

import zmq

from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime

QUANTUM_S = 0.000_05
"""Delays are multiples of this, so that many things happen at the same instant."""

_SNDMORE = int(zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)


class Process(Protocol):
    """Whoever owns sockets."""

    alive: bool

    @property
    def loop(self) -> ProcessLoop | None: ...

    def clock(self) -> float: ...

    def readable(self, socket: SimSocket) -> None:
        """Called for a process that has no loop."""
        ...

    def bounced(self, socket: SimSocket, frames: list[bytes]) -> None:
        """The same, for what it sent and nobody has read or will read."""
        ...


class Packet:
    __slots__ = ("arrives", "departs", "frames", "lost", "source", "target")

    def __init__(self, source: SimSocket, target: SimSocket, frames: list[bytes], departs: float, arrives: float) -> None:
        self.source = source
        self.target = target
        self.frames = frames
        self.departs = departs
        self.arrives = arrives
        self.lost = False


class Network:
    def __init__(self, time: VirtualTime, random: Random, delay_quanta: int) -> None:
        self.time = time
        self.random = random
        self.delay_quanta = delay_quanta
        self.bound: dict[str, SimSocket] = {}
        self.messages = 0
        self._numbers = itertools.count(1)
        self._last: dict[tuple[int, int], float] = {}
        self._under_way: dict[tuple[int, int], collections.deque[Packet]] = {}

    def next_fd(self) -> int:
        return next(self._numbers)

    def send(self, source: SimSocket, target: SimSocket, frames: list[bytes]) -> None:
        link = (source.fd, target.fd)
        departs = source.process.clock()
        arrives = departs + self.random.randrange(1, self.delay_quanta + 1) * QUANTUM_S
        if self.random.random() < 0.01:
            arrives += self.random.random() * 0.05
        arrives = self._last[link] = max(arrives, self._last.get(link, 0.0))
        packet = Packet(source, target, frames, departs, arrives)
        self._under_way.setdefault(link, collections.deque()).append(packet)
        self.time.at(arrives, self._arrive, link)

    def _arrive(self, link: tuple[int, int]) -> None:
        """The oldest packet of the link: all of a link arrive in order."""
        packet = self._under_way[link].popleft()
        if not packet.lost:
            self.messages += 1
            packet.target.arrived(packet.source, packet.frames)

    def cut_off(self, process: Process) -> None:
        """The sender is killed: of what is under way on each link some suffix is lost."""
        now = self.time.now
        for packets in self._under_way.values():
            mine = [packet for packet in packets if packet.source.process is process]
            kept = [packet for packet in mine if packet.departs <= now]
            kept = kept[: self.random.randrange(len(kept) + 1)] if self.random.random() < 0.5 else kept
            for packet in mine[len(kept) :]:
                packet.lost = True


class SimContext:
    """Stands in for `zmq.Context` in one process."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process
        self._sockets: list[SimSocket] = []

    def socket(self, kind: int) -> SimSocket:
        socket = SimSocket(self._network, self._process, router=kind == zmq.ROUTER)
        self._sockets.append(socket)
        return socket

    def bounce_unread(self) -> None:
        """The process is gone."""
        for socket in self._sockets:
            while socket.inbox:
                source, frames = socket.senders.popleft(), socket.inbox.popleft()
                if source.process.loop is None:
                    source.process.bounced(source, frames)


class SimSocket:
    """A ROUTER or a DEALER."""

    def __init__(self, network: Network, process: Process, *, router: bool) -> None:
        self.network = network
        self.process = process
        self.fd = network.next_fd()
        self.closed = False
        self.identity = b"\0%d" % self.fd
        self.inbox: collections.deque[list[bytes]] = collections.deque()
        self.senders: collections.deque[SimSocket] = collections.deque()
        self._router = router
        self._address = ""
        self._clients: dict[bytes, SimSocket] = {}
        self._peer: SimSocket | None = None
        self._receiving: collections.deque[bytes] = collections.deque()
        self._sending: list[bytes] = []

    # What the shells call

    def setsockopt(self, option: int, value: Any) -> None:
        if option == zmq.ROUTING_ID:
            self.identity = value

    def getsockopt_string(self, option: int) -> str:
        assert option == zmq.LAST_ENDPOINT
        return self._address

    def bind(self, address: str) -> None:
        assert address not in self.network.bound, f"{address} is bound a second time"
        self.network.bound[address] = self
        self._address = address

    def connect(self, address: str) -> None:
        """Endpoints are never used twice, so one that is not there now will never be."""
        peer = self.network.bound.get(address)
        if peer is not None and not peer.closed and peer.process.alive:
            self._peer = peer
            peer._clients[self.identity] = self

    def monitor(self, address: str, events: int) -> None:
        """Everybody who connects here has completed the greeting: there is nothing to tell."""

    def disable_monitor(self) -> None:
        pass

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        self.closed = True

    # What the backend's plain calls do

    def send(self, data: bytes, flags: int = 0) -> None:
        self._consume_edge()
        if self._router and not self._sending and data not in self._clients:
            raise zmq.ZMQError(errno.EHOSTUNREACH)
        self._sending.append(bytes(data))
        if flags & _SNDMORE:
            return
        frames, self._sending = self._sending, []
        peer = self._clients[frames.pop(0)] if self._router else self._peer
        if peer is not None:
            self.network.send(self, peer, frames)
        elif self.process.loop is None:
            self.network.time.after(0.0, self.process.bounced, self, frames)

    def recv(self, flags: int = 0) -> bytes:
        self._consume_edge()
        if not self._receiving:
            if not self.inbox:
                raise zmq.Again
            self._receiving.extend(self.inbox.popleft())
            self.senders.popleft()
        return self._receiving.popleft()

    def get(self, option: int) -> int:
        if option == _EVENTS:
            self._consume_edge()
            return int(zmq.POLLIN) if self.inbox else 0
        assert option == zmq.RCVMORE
        return int(bool(self._receiving))

    def _consume_edge(self) -> None:
        if self.process.loop is not None:
            self.process.loop.calm(self.fd)

    # What the network does

    def arrived(self, source: SimSocket, frames: list[bytes]) -> None:
        if self.closed or not self.process.alive:
            if source.process.loop is None:
                source.process.bounced(source, frames)
            return
        self.senders.append(source)
        self.inbox.append([source.identity, *frames] if self._router else frames)
        if self.process.loop is not None:
            self.process.loop.signal(self.fd)
        else:
            self.process.readable(self)


class Delivered:
    done = True
    """The wire has it at once."""


def send_uncopied(socket: SimSocket, data: bytes) -> Delivered:
    socket.send(data, zmq.NOBLOCK)
    return Delivered()


def send(socket: SimSocket, data: bytes, flags: int = 0, copy: bool = True) -> None:
    socket.send(data, flags)


class Frame:
    def __init__(self, data: bytes) -> None:
        self.bytes, self.buffer = data, memoryview(data)

    def get(self, option: object) -> NoReturn:
        """No message has come by a descriptor. Raises what pyzmq raises then."""
        raise zmq.ZMQError(errno.EINVAL)


def receive(socket: SimSocket, flags: int = 0, copy: bool = True) -> Any:
    if not copy:
        return Frame(socket.recv(flags))
    return socket.recv(flags)


def get(socket: SimSocket, option: int) -> int:
    return socket.get(option)
