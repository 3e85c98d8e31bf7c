"""A DEALER socket to one worker: encoded requests out, replies in.

Rule 1: nothing is decided here. The machine bounds the calls in flight, so the socket has no bound of its own on what is sent
and a send never waits; of what the worker answers the library reads a few messages ahead. What is sent before the connection
stands is queued (no ZMQ_IMMEDIATE), since the supervisor names an endpoint only once its worker listens there.
Rule 2: a readiness edge is never lost (`edge.py`), whatever becomes of a message.
Rule 3: one socket serves one process. A new process of the worker listens elsewhere and gets a new socket, so that nothing
queued for the old one can reach it. The door of another host of a cluster listens where the one before it did: what stands behind
the `#` of its endpoint tells them apart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import zmq
from zmq.backend import Socket as BackendSocket

from tidegate.runtime.limits import (
    LARGE_BYTES,
    RECEIVE_AHEAD_MESSAGES,
    REPLIES_PER_MESSAGE_MAX,
    TURN_BYTES_MAX,
    TURN_MESSAGES_MAX,
)
from tidegate.runtime.sockets.edge import ASK_FIRST, EVENTS, POLLIN, Edge, get
from tidegate.runtime.sockets.silence import notice_silence
from tidegate.runtime.wire.protocol import Malformed, Reply, parse_replies

_send = BackendSocket.send
_recv = BackendSocket.recv
_NOBLOCK = int(zmq.NOBLOCK)

log = logging.getLogger("tidegate")


def own_door(endpoint: str) -> str:
    """Where a worker that clients find at this endpoint hears the service's own processes, also when it lets no clients in;
    or the door of another host."""
    return f"{endpoint}.own" if endpoint.startswith("ipc://") else endpoint.partition("#")[0]


LOST_S = 3
"""After so long without a sign of another host's machine the connection is lost: as long as it takes until the host is."""


class Backend:
    """Gives every message of the worker to `replied`, and calls `end_turn` after every burst."""

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        loop: asyncio.AbstractEventLoop,
        replied: Callable[[list[Reply]], None],
        end_turn: Callable[[], None],
        *,
        identity: bytes | None = None,
        secret: str = "",
        watched_at: str = "",
    ) -> None:
        """`secret`: of the cluster, where this is the door of another host. `watched_at`: where the library is to tell that it
        has greeted, and that it has gone."""
        self._socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, RECEIVE_AHEAD_MESSAGES),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, 20),
            (zmq.ZAP_DOMAIN, b"tidegate"),  # As in `endpoint.py`, rule 4.
        ):
            self._socket.setsockopt(option, value)
        if identity is not None:
            self._socket.setsockopt(zmq.ROUTING_ID, identity)
        if secret:
            public = zmq.curve_public(secret.encode())
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, public)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
            notice_silence(self._socket, LOST_S)  # A path that is cut is not told by anybody else.
            self._socket.setsockopt(zmq.IPV6, 1)
        if watched_at:  # Before anything of it can be missed.
            self._socket.monitor(watched_at, int(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED))
        self._socket.connect(own_door(endpoint))
        self._replied = replied
        self._end_turn = end_turn
        self._edge = Edge(self._socket, self._on_readable)
        self.unreadable = 0
        """Messages of the worker that were no replies: a fault of ours."""
        self._is_large = False
        """The newest message of the worker was: the next one is not copied."""
        self._edge.start(loop)

    def send(self, bodies: list[bytes]) -> None:
        for body in bodies:
            if len(body) < LARGE_BYTES:
                _send(self._socket, body, _NOBLOCK)
            else:  # Not copied.
                _send(self._socket, body, _NOBLOCK, False)
        self._edge.rearm()

    def read_rest(self) -> None:
        """Reads what has arrived, to the end: for the last time before `close`."""
        while not self._socket.closed and not self._read_burst():
            pass

    def close(self) -> None:
        """Drops what was not sent and not read."""
        if not self._socket.closed:
            self._edge.stop()
            self._socket.close()

    def _on_readable(self) -> None:
        self._edge.is_due = False
        if self._socket.closed:
            return
        try:
            self._read_burst()
        finally:
            if self._edge.used:
                self._edge.rearm()
            self._end_turn()

    def _read_burst(self) -> bool:
        """False when there may be more. Every frame is a body of its own."""
        socket, edge = self._socket, self._edge
        edge.used = True
        size = answers = 0
        for n in range(TURN_MESSAGES_MAX):
            if n < ASK_FIRST and not get(socket, EVENTS) & POLLIN:
                break
            try:
                body = _recv(socket, _NOBLOCK, False).buffer if self._is_large else _recv(socket, _NOBLOCK)
            except zmq.Again:
                break
            size += len(body)
            self._is_large = len(body) >= LARGE_BYTES
            try:
                replies = parse_replies(body)
            except Malformed as exc:
                self.unreadable += 1
                log.error("a worker sent %d bytes that are no replies: %s", len(body), exc)
                continue
            self._replied(replies)
            answers += len(replies)
            if size >= TURN_BYTES_MAX or answers >= REPLIES_PER_MESSAGE_MAX:
                return False
        else:
            return False
        edge.used = False
        return True
