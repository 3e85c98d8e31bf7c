"""A ROUTER socket that speaks wire protocol 1: the door of the router and of every worker.

Rule 1: no client disturbs another. A message is always consumed to its last frame; what cannot be delivered is kept up to
a bound, then dropped and counted.
Rule 2: a readiness edge is never lost. Any send or receive may consume it, so `EVENTS` is asked after every burst.
Rule 3: nothing is decided here. Requests go to the handler; replies come back through `reply` and leave at `flush`.

Plain calls of the backend socket are used because they cost a third of pyzmq's multipart helpers.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import zmq
from zmq.backend import Socket as BackendSocket

from runtime.errors import CallError, Internal, TooLarge
from runtime.limits import CLIENT_OUTBOX_BYTES_MAX, MESSAGE_BYTES_MAX, TURN_MESSAGES_MAX
from runtime.protocol import ERROR, Message, Origin, encode_replies, parse_message

_send = BackendSocket.send
_recv = BackendSocket.recv
_get = cast("Callable[[Any, int], int]", BackendSocket.get)
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_POLLIN = int(zmq.POLLIN)
_OUTBOX_RETRY_S = 0.02

Row = tuple[Any, int, Any]
"""`(request id, status, result)`."""


@dataclass(frozen=True)
class EndpointStatistics:
    messages_in: int
    messages_out: int
    malformed: int
    """Bodies that were no message of the protocol and had no request id to answer to."""
    undeliverable: int
    """Reply messages whose client had gone or did not read."""


class Endpoint:
    """Binds, reads and answers. Replies to one client leave in the order in which `reply` was called."""

    def __init__(self, context: zmq.Context[Any], handle: Callable[[Message], None], end_turn: Callable[[], None]) -> None:
        """`handle` is called for every message; `end_turn` after every burst of them, and must call `flush`."""
        self._socket = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX),
            (zmq.LINGER, 2_000),
            (zmq.IPV6, 1),
            (zmq.BACKLOG, 1_024),
        ):
            self._socket.setsockopt(option, value)
        self._handle = handle
        self._end_turn = end_turn
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rows: dict[bytes, list[Row]] = {}
        self._ready: list[tuple[Origin, list[Row]]] = []
        self._outbox: dict[bytes, collections.deque[tuple[bytes, bool]]] = {}
        self._outbox_bytes: dict[bytes, int] = {}
        self._again = False
        self._messages_in = self._messages_out = self._malformed = self._undeliverable = 0

    def bind(self, endpoint: str) -> str:
        """Returns the endpoint really bound (a port of 0 is replaced). Raises zmq.ZMQError."""
        self._socket.bind(endpoint)
        return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self._on_readable)
        loop.call_soon(self._on_readable)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def statistics(self) -> EndpointStatistics:
        return EndpointStatistics(self._messages_in, self._messages_out, self._malformed, self._undeliverable)

    # Receiving

    def _on_readable(self) -> None:
        self._again = False
        if self._socket.closed:
            return
        socket = self._socket
        for _ in range(TURN_MESSAGES_MAX):
            if not _get(socket, _EVENTS) & _POLLIN:
                break
            frames = [_recv(socket, _NOBLOCK), _recv(socket, _NOBLOCK)]
            while _get(socket, _RCVMORE):
                frames.append(_recv(socket, _NOBLOCK))
            self._messages_in += 1
            messages, malformed = parse_message(frames)
            self._malformed += malformed
            for message in messages:
                for request_id, error in message.refused:
                    self.reply_error(message.origin, request_id, error)
                self._handle(message)
        self._end_turn()

    def _rearm(self) -> None:
        """Asks whether something arrived while the edge was being consumed."""
        if not self._again and _get(self._socket, _EVENTS) & _POLLIN and self._loop is not None:
            self._again = True
            self._loop.call_soon(self._on_readable)

    # Replying

    def reply(self, origin: Origin, request_id: int | str, status: int, result: Any) -> None:
        """Queues one reply; it leaves at the next `flush`. `result` is a plain immutable value, or Raw of the codec."""
        if origin.plain:
            rows = self._rows.get(origin.client)
            if rows is None:
                self._rows[origin.client] = [(request_id, status, result)]
            else:
                rows.append((request_id, status, result))
            return
        if origin.delimiter:
            origin.gathered.append((request_id, status, result))
            origin.missing -= 1
            if origin.missing == 0:
                self._ready.append((origin, origin.gathered))
        else:
            self._ready.append((origin, [(request_id, status, result)]))

    def reply_error(self, origin: Origin, request_id: int | str, error: CallError) -> None:
        self.reply(origin, request_id, ERROR, error.to_wire())

    def flush(self) -> None:
        """Sends everything queued, one message per client where the client allows it."""
        if self._rows:
            rows_by_client, self._rows = self._rows, {}
            for client, rows in rows_by_client.items():
                self._send_rows(client, rows, json=False, single=False, delimiter=False)
        if self._ready:
            ready, self._ready = self._ready, []
            for origin, rows in ready:
                self._send_rows(
                    origin.client, rows, json=origin.json, single=origin.single, delimiter=origin.delimiter
                )
        self._rearm()

    def _send_rows(self, client: bytes, rows: list[Row], *, json: bool, single: bool, delimiter: bool) -> None:
        try:
            body = encode_replies(rows, json=json, single=single)
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError, RecursionError) as exc:
            if len(rows) == 1:
                unencodable = Internal(f"the result cannot be encoded: {exc}", outcome="executed")
                rows = [(rows[0][0], ERROR, unencodable.to_wire())]
                body = encode_replies(rows, json=json, single=single)
            else:
                for row in rows:
                    self._send_rows(client, [row], json=json, single=single, delimiter=delimiter)
                return
        if len(body) > MESSAGE_BYTES_MAX:
            if len(rows) == 1:
                too_large = TooLarge(f"the reply has {len(body)} bytes", outcome="executed")
                rows = [(rows[0][0], ERROR, too_large.to_wire())]
                body = encode_replies(rows, json=json, single=single)
            else:
                half = len(rows) // 2
                self._send_rows(client, rows[:half], json=json, single=single, delimiter=delimiter)
                self._send_rows(client, rows[half:], json=json, single=single, delimiter=delimiter)
                return
        if client in self._outbox:
            self._keep(client, body, delimiter)
        else:
            self._send(client, body, delimiter)

    def _send(self, client: bytes, body: bytes, delimiter: bool) -> bool:
        """False when the client's queue is full; the body has then been kept."""
        try:
            _send(self._socket, client, _NOBLOCK_MORE)
        except zmq.Again:
            self._keep(client, body, delimiter)
            return False
        except zmq.ZMQError:  # EHOSTUNREACH: the client has gone.
            self._undeliverable += 1
            return True
        if delimiter:
            _send(self._socket, b"", _NOBLOCK_MORE)
        _send(self._socket, body, _NOBLOCK)
        self._messages_out += 1
        return True

    # Clients that do not read as fast as they ask

    def _keep(self, client: bytes, body: bytes, delimiter: bool) -> None:
        kept_bytes = self._outbox_bytes.get(client, 0) + len(body)
        if kept_bytes > CLIENT_OUTBOX_BYTES_MAX:
            self._undeliverable += 1
            return
        if not self._outbox and self._loop is not None:
            self._loop.call_later(_OUTBOX_RETRY_S, self._retry_outbox)
        self._outbox.setdefault(client, collections.deque()).append((body, delimiter))
        self._outbox_bytes[client] = kept_bytes

    def _retry_outbox(self) -> None:
        if self._socket.closed:
            return
        waiting, self._outbox, self._outbox_bytes = self._outbox, {}, {}
        for client, bodies in waiting.items():
            while bodies:
                body, delimiter = bodies.popleft()
                if not self._send(client, body, delimiter):
                    for body, delimiter in bodies:
                        self._keep(client, body, delimiter)
                    break
        self._rearm()
