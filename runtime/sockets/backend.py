"""A DEALER socket to one worker: encoded requests out, replies in.

Rule 1: nothing is decided here, and nothing is bounded here: the machine bounds the calls in flight, so the socket has no
bound of its own and a send never waits. What is sent before the connection stands is queued (no ZMQ_IMMEDIATE), since the
supervisor names an endpoint only once its worker listens there.
Rule 2: a readiness edge is never lost (see `runtime/endpoint.py`): `EVENTS` is asked after every burst, sends too.
Rule 3: one socket serves one process. A new process of the worker listens elsewhere and gets a new socket, so that nothing
queued for the old one can reach it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import zmq
from zmq.backend import Socket as BackendSocket

from tidegate.runtime.limits import TURN_MESSAGES_MAX
from tidegate.runtime.wire.protocol import Malformed, Reply, parse_replies

_send = BackendSocket.send
_recv = BackendSocket.recv
_get = cast("Callable[[Any, int], int]", BackendSocket.get)
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_ASK_FIRST = 2
"""Messages of a turn before which EVENTS is asked (see `runtime/endpoint.py`)."""

log = logging.getLogger("tidegate")


def own_door(endpoint: str) -> str:
    """Where a worker that clients find at this endpoint hears the service's own processes, also when it lets no clients in."""
    return f"{endpoint}.own" if endpoint.startswith("ipc://") else endpoint


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
    ) -> None:
        self._socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, 20),
            (zmq.ZAP_DOMAIN, b"tidegate"),  # As in `runtime/endpoint.py`, rule 4.
        ):
            self._socket.setsockopt(option, value)
        if identity is not None:
            self._socket.setsockopt(zmq.ROUTING_ID, identity)
        self._socket.connect(own_door(endpoint))
        self._loop = loop
        self._replied = replied
        self._end_turn = end_turn
        self._again = False
        self.unreadable = 0
        """Messages of the worker that were no replies: a fault of ours."""
        loop.add_reader(self._socket.fileno(), self._on_readable)
        loop.call_soon(self._on_readable)

    def send(self, bodies: list[bytes]) -> None:
        for body in bodies:
            _send(self._socket, body, _NOBLOCK)
        self._rearm()

    def read_rest(self) -> None:
        """Reads what has arrived, to the end: for the last time before `close`."""
        while not self._read_burst():
            pass

    def close(self) -> None:
        """Drops what was not sent and not read."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _on_readable(self) -> None:
        self._again = False
        if self._socket.closed:
            return
        try:
            if not self._read_burst():
                self._rearm()
        finally:
            self._end_turn()

    def _read_burst(self) -> bool:
        """False when there may be more. Every frame is a body of its own."""
        socket = self._socket
        for n in range(TURN_MESSAGES_MAX):
            if n < _ASK_FIRST and not _get(socket, _EVENTS) & _POLLIN:
                return True
            try:
                body = _recv(socket, _NOBLOCK)
            except zmq.Again:
                return True
            try:
                replies = parse_replies(body)
            except Malformed as exc:
                self.unreadable += 1
                log.error("a worker sent %d bytes that are no replies: %s", len(body), exc)
                continue
            self._replied(replies)
        return False

    def _rearm(self) -> None:
        if not self._again and _get(self._socket, _EVENTS) & _POLLIN:
            self._again = True
            self._loop.call_soon(self._on_readable)
