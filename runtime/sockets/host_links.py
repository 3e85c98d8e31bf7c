"""Connections to the doors of the other hosts of a cluster.

Guarantee: nothing is sent to a host before it has greeted, and a connection that breaks is over: what was sent over it may have
been executed, what was not waits. (Those to processes of this host end when these do, of which the supervisor tells.)

Who uses them sees a topology in which only those hosts listen that can be reached now; each connection has an endpoint of its own
there, so that another one is taken for another process.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import zmq

from tidegate.runtime.sockets.backend import Backend
from tidegate.runtime.sockets.edge import Edge, is_readable
from tidegate.runtime.wire.protocol import Reply
from tidegate.runtime.wire.supervisor_messages import Topology

_numbers = itertools.count()
_unpack_event = struct.Struct("=Hi").unpack


class HostLinks:
    def __init__(
        self,
        context: zmq.Context[Any],
        loop: asyncio.AbstractEventLoop,
        secret: str,
        replied: Callable[[int, list[Reply]], None],
        end_turn: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`secret`: of the hosts. `replied` is told the index of the host. `changed` is called when one can be reached, or cannot
        any longer: then `reachable` says something else."""
        self._context = context
        self._loop = loop
        self._secret = secret
        self._replied = replied
        self._end_turn = end_turn
        self._changed = changed
        self._links: dict[int, _Link] = {}

    def reachable(self, topology: Topology) -> Topology:
        """With connections to its hosts on their way, and endpoints of those only that stand."""
        if topology.nobody is None:
            return topology
        endpoints = list(topology.endpoints)
        for index in range(topology.nobody + 1, len(endpoints)):
            endpoint, link = endpoints[index], self._links.get(index)
            if link is not None and link.endpoint != endpoint:
                link.backend.read_rest()  # It has answered, and then gone.
                self._links.pop(index).close()
                link = None
            if link is None and endpoint is not None:
                link = self._links[index] = self._connect(index, endpoint)
            endpoints[index] = link.name if link is not None and link.is_up else None
        return msgspec.structs.replace(topology, endpoints=tuple(endpoints))

    def backend(self, index: int) -> Backend:
        """Of a host that can be reached."""
        return self._links[index].backend

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _connect(self, index: int, endpoint: str) -> _Link:
        replied, turned = partial(self._replied, index), partial(self._turned, index)
        return _Link(self._context, self._loop, endpoint, self._secret, replied, self._end_turn, turned)

    def _turned(self, index: int) -> None:
        link = self._links[index]
        if link.is_lost:
            link.backend.read_rest()  # Replies that it managed to send are good.
            link.close()
            self._links[index] = self._connect(index, link.endpoint)
        self._changed()


class _Link:
    """One connection, which is up once, and lost once."""

    def __init__(
        self,
        context: zmq.Context[Any],
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        secret: str,
        replied: Callable[[list[Reply]], None],
        end_turn: Callable[[], None],
        turned: Callable[[], None],
    ) -> None:
        number = next(_numbers)
        self.endpoint = endpoint
        self.name = f"{endpoint}.{number}"
        self.is_up = self.is_lost = False
        self._turned = turned
        address = f"inproc://host-link-{number}"
        self.backend = Backend(context, endpoint, loop, replied, end_turn, secret=secret, watched_at=address)
        self._monitor: zmq.Socket[Any] = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(address)
        self._edge = Edge(self._monitor, self._on_event)
        self._edge.start(loop)

    def close(self) -> None:
        if not self._monitor.closed:
            self._edge.stop()
            self._monitor.close()
            self.backend.close()

    def _on_event(self) -> None:
        self._edge.is_due = False
        while not self._monitor.closed and is_readable(self._monitor):
            event, _ = _unpack_event(self._monitor.recv_multipart(zmq.NOBLOCK)[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_up = True
                self._turned()
            elif self.is_up and not self.is_lost:
                self.is_up, self.is_lost = False, True
                self._turned()
