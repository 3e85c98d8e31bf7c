"""Who may connect, as the library asks it: ZAP (RFC 27), over a socket inside the process.

Guarantee: a key that is not on the list is answered 400, and everything that goes wrong here 300. A client that was answered 400,
or 500, never tries again (libzmq 4.3.5), so that 500 for a fault of ours would lock everybody out for good; one that was
answered 300 is disconnected when the time for its greeting is over, and tries again.
Rule: nothing is decided here but by the guard.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85

from tidegate.runtime.limits import TURN_CONNECTIONS_MAX
from tidegate.runtime.sockets.edge import Edge, is_readable
from tidegate.runtime.sockets.guard import OWN, Guard

ADDRESS = "inproc://zeromq.zap.01"
OWN_DOMAIN = b"tidegate"
CLIENT_DOMAIN = b"tidegate-clients"

log = logging.getLogger("tidegate")


class Zap:
    """Of one context: everything in it that listens, or connects with a domain, is asked about here."""

    def __init__(self, context: zmq.Context[Any], guard: Guard, turned_away: Callable[[str], object]) -> None:
        """`turned_away` is told the address of a client whose key is not on the list. Before anything else is bound."""
        self._guard = guard
        self._turned_away = turned_away
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ADDRESS)
        self._edge = Edge(self._socket, self._on_readable)
        self._said_fault = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._edge.start(loop)

    def close(self) -> None:
        self._edge.stop()
        self._socket.close()

    def _on_readable(self) -> None:
        self._edge.is_due = False
        if self._socket.closed:
            return
        for _ in range(TURN_CONNECTIONS_MAX):
            if not is_readable(self._socket):
                return
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            envelope = [*itertools.takewhile(bool, frames), b""]
            request = frames[len(envelope) :]
            self._socket.send_multipart([*envelope, *self._answer(request)], zmq.NOBLOCK)
        self._edge.rearm()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        number = request[1] if len(request) > 1 else b""
        try:
            code, text, user = self._decide(request)
        except Exception:
            code, text, user = b"300", b"the service could not look for the key; try again", b""
            if not self._said_fault:
                self._said_fault = True
                log.exception("access: a client could not be looked for on the list; it is told to try again")
        return [b"1.0", number, code, text, user, b""]

    def _decide(self, request: list[bytes]) -> tuple[bytes, bytes, bytes]:
        version, _, domain, address, _, mechanism, *credentials = request
        if version == b"1.0" and mechanism == b"NULL" and domain == OWN_DOMAIN:
            return b"200", b"OK", OWN.encode()
        if version != b"1.0" or mechanism != b"CURVE" or domain != CLIENT_DOMAIN:
            raise ValueError(f"the library asks by {version!r} {mechanism!r} for {domain!r}")
        public = z85.encode(credentials[0]).decode()
        if self._guard.admits(public):
            return b"200", b"OK", public.encode()
        self._turned_away(address.decode(errors="replace"))
        return b"400", b"the key is not on the list of the service", b""
