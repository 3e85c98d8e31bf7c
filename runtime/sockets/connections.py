"""The connections of a ROUTER socket as the library tells of them: who comes, who is closed in the greeting, who goes; and what
is done when few file descriptors are left.

Rule: nothing is heard of what connections say: that is the endpoint's. What is to be counted stands here, in `handshakes`,
`knocks` and the guard.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import math
import struct
from collections.abc import Callable
from typing import Any

import zmq
from zmq.backend import Socket as BackendSocket

from tidegate.runtime import descriptors
from tidegate.runtime.heap import allocated, give_back, in_memory
from tidegate.runtime.limits import (
    KNOCK_BARRED_S,
    KNOCK_LOOK_S,
    SUSPECTS_LOOK_S,
    TURN_CONNECTIONS_MAX,
    UNFINISHED_GROWTH_BYTES,
    UNFINISHED_LOOK_S,
)
from tidegate.runtime.sockets.door import Door, bytes_so_far, bytes_taken, peer_address
from tidegate.runtime.sockets.edge import EVENTS, POLLIN, Edge, get
from tidegate.runtime.sockets.guard import SAID_S, Guard
from tidegate.runtime.sockets.handshakes import Handshakes
from tidegate.runtime.sockets.knocks import Knocks, place_of
from tidegate.runtime.sockets.unfinished import Unfinished

_recv = BackendSocket.recv
_NOBLOCK = int(zmq.NOBLOCK)
_STRANGERS_LOG_S = 60.0
_FULL_LOG_S = 60.0
_FULL_RETRY_S = 0.5
_GONE_S = 0.5
"""Then the library has freed what it held of a connection that was turned out."""
_FAILURES = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_WATCHED = int(zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sum(_FAILURES))
_LEFT = (errno.ECONNRESET, errno.EPIPE)
_unpack_event = struct.Struct("=Hi").unpack
_numbers = itertools.count()

log = logging.getLogger("tidegate")


class Connections:
    def __init__(
        self,
        context: zmq.Context[Any],
        socket: zmq.Socket[Any],
        guard: Guard | None,
        unfinished: Unfinished,
        rounds: Callable[[], int],
        gone: Callable[[], None],
        heap_bytes_max: int | None = None,
    ) -> None:
        """Of this socket, which is to be bound later. `rounds` says what `Unfinished.look` wants to know; `gone` is called
        whenever somebody has gone; the library does not say who. With more than `heap_bytes_max` in memory what is free goes
        back, and if it is in use, some of many messages that have begun are given up."""
        self._socket = socket
        self._gone = gone
        self._unfinished = unfinished
        self._rounds = rounds
        self._unfinished_look: asyncio.TimerHandle | None = None
        self._heap_bytes_max = heap_bytes_max
        self._trimmed_s = -math.inf
        self._trimmed_to = 0
        self._looked_s = -math.inf
        self._memory_looked_at = 0
        in_memory()  # Its descriptor is there before those of clients.
        self._unfinished_logged_s = -math.inf
        self._guard = guard
        self.door = Door()
        self.handshakes = Handshakes()
        self.knocks = None if guard is None else Knocks()
        self._knock_look: asyncio.TimerHandle | None = None
        self._knocks_logged_s = -math.inf
        self.always_open: set[str] = set()
        """Endpoints that stay so when few descriptors are left."""
        address = f"inproc://endpoint-{next(_numbers)}"
        socket.monitor(address, _WATCHED)
        self._monitor: zmq.Socket[Any] = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # At a bound the library's thread would wait for this one.
        self._monitor.connect(address)
        self._edge = Edge(self._monitor, self._on_connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        limit = descriptors.limit()
        kept = descriptors.kept(limit)
        self._accept_below = limit - kept
        """The kernel gives the lowest number that is free: a connection with this one says that all below are taken."""
        self._turn_out_from = limit - kept // 2
        """So many came before it was noticed that these are not kept: others need what is left."""
        self._listen_below = limit - kept - kept // 4
        self.times_full = 0
        self._full_logged_s = -math.inf
        self._full_said = False
        self._failure = ""
        """Why the connection that is closed next did not complete the greeting, where the library says so."""
        self._strangers_logged = 0
        self._strangers_log_s: float | None = None
        self.accepted = self._disconnected = 0

    @property
    def open(self) -> int:
        return self.accepted - self._disconnected

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._edge.start(loop)

    def close(self) -> None:
        """Before the socket is."""
        self._edge.stop()
        self._socket.disable_monitor()
        self._monitor.close()
        self.door.close()

    def stream_door(self, path: str, fd: int) -> None:
        """Streams come in there as others do: the file is called otherwise while there is no room, and goes in the end."""
        self.door.bound(f"ipc://{path}")
        self.door.listens(f"ipc://{path}", fd)

    def stream_came(self, fd: int) -> bool:
        """A stream was accepted under this number; -1: none was left for it. Whether it may stay."""
        if fd >= self._accept_below or fd < 0:
            if self.door.is_shut:
                self.door.turn_away()
            else:
                self._shut_door()
        return 0 <= fd < self._turn_out_from

    def _on_connections(self) -> None:
        self._edge.is_due = False
        if self._monitor.closed:
            return
        monitor, handshakes = self._monitor, self.handshakes
        stranger = b""
        is_full = False
        for _ in range(TURN_CONNECTIONS_MAX):
            if not get(monitor, EVENTS) & POLLIN:
                break
            event, value = _unpack_event(_recv(monitor, _NOBLOCK))
            address = _recv(monitor, _NOBLOCK)
            if event == zmq.EVENT_ACCEPTED:
                self.accepted += 1
                if self.knocks is not None and (at := peer_address(value)) is not None:
                    self._knocked(self.knocks, value, place_of(at))
                handshakes.accepted(value)
                self._unfinished.came(value)
                self._look_again()
                is_full = is_full or value >= self._accept_below
                if value >= self._turn_out_from:
                    self.door.turn_out(value)
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                handshakes.succeeded()
            elif event == zmq.EVENT_LISTENING:
                if (bound := address.decode()) not in self.always_open:
                    self.door.listens(bound, value)
            elif event != zmq.EVENT_DISCONNECTED:  # One of the failures; that it is closed comes next.
                self._failure = self._failure_of(event, value)
            else:
                self._disconnected += 1
                self._unfinished.left(value)
                self._gone()
                if self.knocks is not None:
                    self.knocks.left(value)
                failure, self._failure = self._failure, ""
                if handshakes.failed(value, left=failure != "failed") if failure else handshakes.closed(value):
                    stranger = address
        else:
            self._edge.rearm()
        if stranger:
            self._log_strangers(stranger.decode(errors="replace"))
        if is_full and not self.door.is_shut:
            self._shut_door()

    def _failure_of(self, event: int, value: int) -> str:
        """`left`, `failed`, or `refused`: it is not a stranger, and told elsewhere."""
        has_left = event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value in _LEFT
        if (guard := self._guard) is None:
            return "left" if has_left else "failed"
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            guard.without_key += value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
            guard.of_another_service += value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
        guard.without_key += has_left  # Where one side has a key and the other has none, whoever sees it first closes.
        return "refused" if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH else "failed"

    def _knocked(self, knocks: Knocks, fd: int, address: str) -> None:
        assert self._loop is not None
        now = self._loop.time()
        if (goes := knocks.came(fd, address, now)) is not None:
            self.door.turn_out(goes)
            if knocks.barred.get(address) == now + KNOCK_BARRED_S:
                self.door.bar(knocks.barred)
            self._log_knocks(knocks, address, now)
        if self._knock_look is None:
            self._knock_look = self._loop.call_later(KNOCK_LOOK_S, self._look_at_knocks, knocks)

    def _look_at_knocks(self, knocks: Knocks) -> None:
        self._knock_look = None
        if self._monitor.closed or self._loop is None:
            return
        for fd in knocks.waiting:
            found, address = bytes_so_far(fd), knocks.address_of(fd)
            if found is not None and not knocks.said(fd, *found):
                self.door.turn_out(fd)
                self._log_knocks(knocks, address, self._loop.time())
        if knocks.no_longer_barred(self._loop.time()):
            self.door.bar(knocks.barred)
        if knocks.waiting or knocks.barred:
            self._knock_look = self._loop.call_later(KNOCK_LOOK_S, self._look_at_knocks, knocks)

    def _look_again(self) -> None:
        if self._unfinished_look is None and self._loop is not None:
            pause_s = SUSPECTS_LOOK_S if self._unfinished.suspects else UNFINISHED_LOOK_S
            self._unfinished_look = self._loop.call_later(pause_s, self._look_at_unfinished)

    def _look_at_unfinished(self) -> None:
        """Where much has come that was not read, it shows in the memory of the process: else nobody is looked at."""
        self._unfinished_look = None
        if self._monitor.closed or not self._unfinished:
            return
        assert self._loop is not None
        memory, now = in_memory(), self._loop.time()
        is_much = self._heap_bytes_max is not None and memory > self._heap_bytes_max // 2
        has_grown = memory >= self._memory_looked_at + UNFINISHED_GROWTH_BYTES
        # Where there is much already, what begins may not show: it was in memory, and free.
        if has_grown or (is_much and now >= self._looked_s + UNFINISHED_LOOK_S):
            self._turn_out(self._unfinished.look(bytes_taken, self._rounds()))
            self._memory_looked_at, self._looked_s = memory, now
        elif self._unfinished.suspects:
            self._turn_out(self._unfinished.look_at_suspects(bytes_taken, self._rounds()))
        self._memory_looked_at = min(self._memory_looked_at, memory)
        if is_much:
            self._make_room(memory, now)
        self._trimmed_to = min(self._trimmed_to, memory)
        self._look_again()

    def _make_room(self, memory: int, now: float) -> None:
        assert self._heap_bytes_max is not None
        is_short = memory > self._heap_bytes_max
        if is_short and now >= self._trimmed_s + _GONE_S and memory >= self._trimmed_to + UNFINISHED_GROWTH_BYTES:
            give_back()
            self._trimmed_s, self._trimmed_to = now, in_memory()
        to_come = self._unfinished.to_come
        may_be = memory + to_come - self._heap_bytes_max
        # The heap is asked last: that takes long. It may say more than there is: what nobody has written to.
        if to_come and may_be > 0 and (too_much := min(allocated() - self._heap_bytes_max, may_be)) > 0:
            self._turn_out(self._unfinished.make_room(too_much))

    def _turn_out(self, unfinished: list[tuple[int, int]]) -> None:
        assert self._loop is not None
        for fd, size in unfinished:
            self._log_unfinished(peer_address(fd), size)
            self.door.turn_out(fd)
        if unfinished:
            self._loop.call_later(_GONE_S, give_back)

    def _log_unfinished(self, address: str | None, size: int) -> None:
        assert self._loop is not None
        if (now := self._loop.time()) >= self._unfinished_logged_s + SAID_S:
            self._unfinished_logged_s = now
            text = (
                "listen: closed a connection of %s that held %.0f MiB of a message which had not ended; %d closed so far "
                "(told again after %d s)"
            )
            log.warning(text, address or "somebody", size / (1 << 20), self._unfinished.turned_out, SAID_S)

    def _log_knocks(self, knocks: Knocks, address: str, now: float) -> None:
        if now >= self._knocks_logged_s + SAID_S:
            self._knocks_logged_s = now
            text = (
                "access: too many connections without a key from %s, or too many bytes; %d closed so far (told again after %d s)"
            )
            log.warning(text, address, knocks.turned_out, SAID_S)

    def look_for_room(self) -> None:
        """To be called now and then: what the app opens shows in no connection."""
        if not self.door.is_shut and descriptors.in_use_if_cheap() >= self._accept_below:
            self._shut_door()

    def _shut_door(self) -> None:
        """Few descriptors are left: who is connected stays, and nobody comes in until some have gone."""
        assert self._loop is not None
        self.door.shut()
        self.times_full += 1
        self._full_said = self._loop.time() >= self._full_logged_s + _FULL_LOG_S
        if self._full_said:
            self._full_logged_s = self._loop.time()
            text = (
                "listen: %d of %d file descriptors are in use; nobody else is let in until it is less than %d "
                "(raise the limit: ulimit -n, or LimitNOFILE= in the unit)"
            )
            log.error(text, descriptors.in_use(), descriptors.limit(), self._listen_below)
        self.door.turn_away()
        self._loop.call_later(_FULL_RETRY_S, self._open_door)

    def _open_door(self) -> None:
        assert self._loop is not None
        if self._monitor.closed:
            return
        if descriptors.in_use() >= self._listen_below:
            self.door.turn_away()
            self._loop.call_later(_FULL_RETRY_S, self._open_door)
        else:
            self.door.open()
            if self._full_said:
                log.info("listen: clients are let in again")

    def _log_strangers(self, address: str) -> None:
        """Once a minute at most."""
        assert self._loop is not None
        now = self._loop.time()
        strangers = self.handshakes.strangers - self._strangers_logged
        if strangers > 0 and (self._strangers_log_s is None or now >= self._strangers_log_s + _STRANGERS_LOG_S):
            self._strangers_log_s = now
            self._strangers_logged += strangers
            text = "listen %s: closed %d connection(s) that did not speak ZMTP 3 (only clients of ZeroMQ 4 or newer are served)"
            if (guard := self._guard) is not None:
                text = (
                    "listen %s: closed %d connection(s) in the greeting (so far in all: "
                    f"{guard.without_key} had no access key, or left, {guard.of_another_service} had one for another service; "
                    "others did not speak ZMTP 3)"
                )
            log.warning(text, address, strangers)
