"""One DEALER socket with its monitor: a link as the operating system sees it.

Rule 1: nothing waits here. The shells ask after a file descriptor became readable, or after they waited with a poller.
Rule 2: a readiness edge is never lost (`edge.py`): who has sent or received asks `readable` before waiting again.
Rule 3: what arrived before the link was lost is received before the loss is told.

A socket of a link that may not reconnect has its reconnect interval set to days instead of switched off: switched off,
libzmq throws away replies which had arrived and were not yet read (seen with 4.3.5, and in `test_dealer`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import zmq
from zmq.backend import Socket as BackendSocket
from zmq.utils.monitor import parse_monitor_message

from tidegate.runtime import descriptors
from tidegate.runtime.errors import Unavailable
from tidegate.runtime.sockets.edge import EVENTS, POLLIN, get, is_readable
from tidegate.runtime.sockets.silence import notice_silence
from tidegate.runtime.wire.access import ClientKey

_send = BackendSocket.send
_recv = BackendSocket.recv
_NOBLOCK = int(zmq.NOBLOCK)
_number = itertools.count().__next__

_RECONNECT_MS = 50
_RECONNECT_MS_MAX = 1_000
_NEVER_MS = 7 * 24 * 3_600 * 1_000
_LOST_S = 20
"""A peer whose machine stopped, or to which the way was cut, is lost after this long."""

_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_UNFIT = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)

Change = Literal["connected", "lost", "refused", "unfit"]
"""`refused`: the service does not know the key; the library tries no more. `unfit`: the connection ended in the greeting, before
it had come to that; it is tried again."""


class Dealer:
    """Connects at once. With `reconnect` it tries until it succeeds the first time; without, a failure is a loss.

    Given several endpoints it tries all of them, each with a socket of its own, and stays with the one that answers first. (One
    socket would go on trying the others for ever: `disconnect` from an endpoint that has not answered yet changes nothing in
    libzmq 4.3.5.) With a key it talks to nobody but the service of that key, and encrypted."""

    def __init__(
        self, context: zmq.Context[Any], endpoints: Sequence[str], *, reconnect: bool, key: ClientKey | None = None
    ) -> None:
        """Raises zmq.ZMQError if none of them is an endpoint."""
        assert len(endpoints) == 1 or (endpoints and reconnect)
        self._context = context
        self.reconnects = reconnect
        self._connected = False
        self._candidates: list[_Candidate] = []
        for endpoint in endpoints:
            try:
                self._candidates.append(_Candidate(context, endpoint, key, _RECONNECT_MS if reconnect else _NEVER_MS))
            except zmq.ZMQError:
                if endpoint == endpoints[-1] and not self._candidates:
                    raise
        self.socket = self._candidates[0].socket
        self.has_unsent = self.has_ended = False
        """What is sent waits in the library, and losses are told by the monitor."""

    @property
    def is_connected(self) -> bool:
        """Or was: a link is made once."""
        return self._connected

    def monitors(self) -> list[int]:
        """File descriptors: when one becomes readable, ask for a change."""
        return [candidate.monitor.fileno() for candidate in self._candidates]

    def send(self, body: bytes) -> bool:
        """False when the body cannot be taken: the link is as good as lost."""
        try:
            _send(self.socket, body, _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def send_rest(self) -> bool:
        """There is never any."""
        return True

    def receive(self, messages_max: int) -> list[bytes]:
        """What has arrived, up to a bound. Empty: nothing was there, and the edge is armed again."""
        socket = self.socket
        bodies: list[bytes] = []
        while len(bodies) < messages_max and get(socket, EVENTS) & POLLIN:
            bodies.append(_recv(socket, _NOBLOCK))  # A message of several frames is several bodies.
        return bodies

    def readable(self) -> bool:
        return is_readable(self.socket)

    def change(self, forget: Callable[[int], object]) -> Change | None:
        """The next thing that happened to the link. None: nothing did, and the edges of the monitors are armed again. `forget` is
        told which of the monitors are watched no more: when it connects, and when it is unfit, which may bring another one."""
        for candidate in self._candidates:
            while (event := candidate.next_event()) is not None:
                if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    return "refused"
                if event in _UNFIT:
                    if self.reconnects and not self._connected and candidate.is_hasty:
                        self._hold_back(candidate, forget)
                    return "unfit"
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._connected = True
                    self._stay_with(candidate, forget)
                    return "connected"
                if self._connected or not self.reconnects:
                    return "lost"
        return None

    def _hold_back(self, hasty: _Candidate, forget: Callable[[int], object]) -> None:
        """The library's pauses grow where nobody listens. Where somebody ends the greeting, as for the key of another service, it
        would come twenty times a second for ever: another socket takes over, which tries at once, and then seldom."""
        try:
            patient = _Candidate(self._context, hasty.endpoint, hasty.key, _RECONNECT_MS_MAX)
        except (zmq.ZMQError, Unavailable):  # No descriptor is left: it is as before.
            return
        self._candidates[self._candidates.index(hasty)] = patient
        self.socket = self._candidates[0].socket
        forget(hasty.monitor.fileno())
        hasty.close()

    def _stay_with(self, chosen: _Candidate, forget: Callable[[int], object]) -> None:
        for candidate in self._candidates:
            if candidate is not chosen:
                forget(candidate.monitor.fileno())
                candidate.close()
        self._candidates = [chosen]
        self.socket = chosen.socket

    def close(self) -> None:
        for candidate in self._candidates:
            candidate.close()


class _Candidate:
    """A socket that connects to one endpoint, and its monitor."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, key: ClientKey | None, pause_ms: int) -> None:
        """`pause_ms`: between two tries, at least. Raises zmq.ZMQError for an endpoint that is none, Unavailable where no
        descriptor is left."""
        descriptors.require(f"connect {endpoint}")
        self.endpoint, self.key = endpoint, key
        self.is_hasty = key is not None and pause_ms < _RECONNECT_MS_MAX
        self.socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, 0),  # What may be in flight is bounded by the machine.
            (zmq.RCVHWM, 0),
            (zmq.IPV6, 1),
            (zmq.RECONNECT_IVL, pause_ms),
            (zmq.RECONNECT_IVL_MAX, _RECONNECT_MS_MAX if pause_ms < _RECONNECT_MS_MAX else 0),
            (zmq.ZAP_DOMAIN, b"tidegate"),  # Nothing is heard from what does not speak ZMTP 3 (`endpoint.py`, rule 4).
        ):
            self.socket.setsockopt(option, value)
        notice_silence(self.socket, _LOST_S)
        if key is not None:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, key.server.encode())
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
        address = f"inproc://link-{_number()}"
        self.socket.monitor(address, _EVENTS | zmq.EVENT_HANDSHAKE_FAILED_AUTH | sum(_UNFIT))
        self.monitor = context.socket(zmq.PAIR)
        self.monitor.setsockopt(zmq.LINGER, 0)
        self.monitor.connect(address)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError:
            self.close()
            raise

    def next_event(self) -> int | None:
        """None: there is none, and the edge of the monitor is armed again."""
        if not is_readable(self.monitor):
            return None
        return int(parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))["event"])

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()
