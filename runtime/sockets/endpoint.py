"""A ROUTER socket that speaks wire protocol 1: the door of the router and of every worker.

Rule 1: no client disturbs another. A message is always consumed to its last frame; what cannot be delivered is kept up to
a bound, then dropped and counted; a turn reads a bounded number of messages and requests.
Rule 2: a readiness edge is never lost (`edge.py`): whoever sends, or leaves a burst of messages unread, says so.
Rule 3: nothing is decided here. Requests go to the handler; replies come back through `reply` and leave at `flush`.
Rule 4: only who has completed the greeting of ZMTP 3 is heard. The oldest version has none: to it the bytes of a web page's
request are a message. libzmq refuses the older versions by itself where a domain of authentication is named, asks nobody as
long as no handler for it is bound in the context, and closes the connection; the monitor tells, so that it can be counted.

A client is what the socket takes for one: the connection, or the identity that it chose. While a connection with an identity
is open no other can take it; when it has gone, the next one with that identity is the same client.

Large messages are not copied on their way out, and the library says when it is through with them: only so can be known what a
client that does not read costs, since the library's own bounds count messages. Of small ones every so many bytes one is sent
in this way: what was sent before it has left before it.

With a guard, clients are let in by CURVE and asked for nothing at the door of the service's own processes. Each message says who
has sent it (the library's `User-Id`): a routing id alone does not, since a client may choose one that another has left.

Plain calls of the backend socket are used because they cost a third of pyzmq's multipart helpers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import zmq
from zmq.backend import Socket as BackendSocket

from tidegate.runtime.descriptors import connections_waiting_max
from tidegate.runtime.errors import CallError, Internal, Overloaded
from tidegate.runtime.heap import give_back
from tidegate.runtime.limits import (
    BATCH_PAUSE_S,
    FORWARDED_BYTES_MAX,
    FRAMES_PER_MESSAGE_MAX,
    HANDSHAKE_MS_MAX,
    LARGE_BYTES,
    RECEIVE_AHEAD_MESSAGES,
    REPLIES_PER_MESSAGE_MAX,
    RETRY_UNREAD_MS,
    TURN_BYTES_MAX,
    TURN_MESSAGES_MAX,
    TURN_REQUESTS_MAX,
)
from tidegate.runtime.sockets.connections import Connections
from tidegate.runtime.sockets.edge import ASK_FIRST, EVENTS, POLLIN, Edge, get
from tidegate.runtime.sockets.guard import OWN, SAID_S, Guard
from tidegate.runtime.sockets.outbox import Delivery, Outbox
from tidegate.runtime.sockets.slices import Slices
from tidegate.runtime.sockets.streams import Streams
from tidegate.runtime.sockets.unfinished import ENCRYPTED_BYTES, FRAME_HEAD_BYTES, Unfinished
from tidegate.runtime.sockets.zap import CLIENT_DOMAIN, OWN_DOMAIN, Zap
from tidegate.runtime.wire.counts import Counts
from tidegate.runtime.wire.protocol import (
    ERROR,
    Batch,
    Envelope,
    Malformed,
    Message,
    Origin,
    encode,
    encode_bodies,
    encode_json,
    join_bodies,
    parse_body,
    parse_message,
    parse_uncopied,
    parts_of,
)
from tidegate.runtime.wire.sessions import is_head, without_head

_send = BackendSocket.send
_recv = BackendSocket.recv
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)
_SRCFD = int(zmq.MessageOption.SRCFD)
_OUTBOX_RETRY_S = 0.002
_OUTBOX_RETRY_S_MAX = 0.256
_OUTBOX_REST = 8
"""So many times as long as it took to look after all clients that do not read others are served."""
_REMEMBERED_CLIENTS_MAX = 10_000
_GREAT_BYTES = 1 << 20
_GIVE_BACK_S = 0.5
_OUTBOX_RETRY_MESSAGES_MAX = 256

log = logging.getLogger("tidegate")

Row = tuple[Any, int, Any]
"""`(request id, status, result)`."""

_BEHIND_WIRE = Overloaded("the client has sent more calls at once than can be looked at").to_wire()
_BEHIND, _BEHIND_JSON = msgspec.Raw(encode(_BEHIND_WIRE)), msgspec.Raw(encode_json(_BEHIND_WIRE))
"""One message may have a million calls."""
_UNREAD = Overloaded(
    "the client does not read its replies; this one was dropped",
    outcome="unknown",
    retry_after_ms=RETRY_UNREAD_MS,
).to_wire()


def prepare_uncopied() -> None:
    """Call before a process serves: what is needed to send without a copy takes a thread, files and some descriptors, and there
    may be none left later."""
    zmq.Frame(b" ", track=True, copy=False, copy_threshold=0)


def _send_uncopied(socket: zmq.Socket[Any], frame: bytes) -> Delivery:
    """The last frame of a message."""
    uncopied = zmq.Frame(frame, track=True, copy=False, copy_threshold=0)
    _send(socket, uncopied, _NOBLOCK, False, True)
    return cast("Delivery", uncopied.tracker)


def _receive_sender(socket: zmq.Socket[Any]) -> tuple[bytes, str]:
    """The routing id, and who the library knows that to be: the public key of a client, or `OWN`."""
    frame = _recv(socket, _NOBLOCK, False)
    return frame.bytes, str(frame.get("User-Id"))


def _descriptor_of(frame: zmq.Frame) -> int:
    """Of the connection that it came by. -1: within a process there is none."""
    try:
        return int(frame.get(_SRCFD))
    except zmq.ZMQError:
        return -1


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    """Of so many that one message cannot have them all."""
    for at in range(0, len(rows), REPLIES_PER_MESSAGE_MAX):
        yield rows[at : at + REPLIES_PER_MESSAGE_MAX]


@dataclass(frozen=True)
class EndpointStatistics:
    messages_in: int
    messages_out: int
    malformed: int
    """Bodies that were no message of the protocol and had no request id to answer to."""
    undeliverable: int
    """Reply messages whose client had gone or did not read."""
    kept_bytes: int
    """Replies waiting for clients that do not read."""
    untaken_bytes: int
    """The same, and what is on its way to clients."""
    foreign_peers: int
    """Connections closed because they did not complete the greeting of ZMTP 3."""
    refuses_connections: bool
    """Few file descriptors are left."""
    times_full: int
    """How often it has come to that."""
    connections: int
    """That are open now. Those of the service's own processes are among them."""
    streams: int
    """Of these, unix streams of clients on this host."""


class Endpoint:
    """Binds, reads and answers. Replies to requests of one form leave in the order in which `reply` was called."""

    def __init__(
        self,
        context: zmq.Context[Any],
        handle: Callable[[Message], None],
        end_turn: Callable[[], None],
        *,
        message_bytes_max: int = FORWARDED_BYTES_MAX,
        outbox: Outbox | None = None,
        slices: Slices | None = None,
        guard: Guard | None = None,
        heap_bytes_max: int | None = None,
    ) -> None:
        """`handle` is called for every message; if it raises, the requests that the message still has are answered `internal`:
        what is answered already, or will be, must have been taken out. `end_turn` is called after every burst of messages, and
        when nothing is kept any longer for clients that did not read; it must call `flush`. With a `guard` only those come in
        whom it knows, and their calls are shown to it first. `heap_bytes_max`: of a process in which nothing takes much but
        messages; with more than that in use, of those that have begun some are given up with their connections."""
        self._guard = guard
        self._zap = None if guard is None else Zap(context, guard, self._log_unknown_key)
        self._socket = context.socket(zmq.ROUTER)
        self._set_up_socket(message_bytes_max)
        self._edge = Edge(self._socket, self._on_readable)
        self.outbox = Outbox() if outbox is None else outbox
        self._unfinished = Unfinished(message_bytes_max, 2 * self.outbox.pool_bytes)
        """Half of the budget: `BUDGET_SHARE` says what that is for."""
        self._frame_bytes = FRAME_HEAD_BYTES + (0 if guard is None else ENCRYPTED_BYTES)
        self._connections = Connections(
            context, self._socket, guard, self._unfinished, self._rounds, self._forget_gone, heap_bytes_max
        )
        self._rounds_so_far = self._round_ended = 0
        self._message_bytes_max = message_bytes_max
        self._handle = handle
        self._end_turn = end_turn
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._rows: dict[bytes, list[Row]] = {}
        self._formed: dict[Origin, list[Row]] = {}
        self._senders_of_much: set[bytes] = set()
        """Clients whose newest message was large."""
        self._slices = Slices() if slices is None else slices
        self._streams = Streams(self.outbox, self._heard, end_turn, self._connections.stream_came, bytes_max=message_bytes_max)
        self._by_stream = self._streams.by_client
        self._unproven: dict[bytes, int] = {}
        """Bytes sent to a client since it was known the last time that everything has left."""
        self._great_s = 0.0
        """When the newest large message came or went."""
        self._giving_back: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._outbox_retry_s = _OUTBOX_RETRY_S
        self._messages_in = self._messages_out = self._malformed = self._undeliverable = 0

    def _set_up_socket(self, message_bytes_max: int) -> None:
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, message_bytes_max),
            (zmq.RCVHWM, RECEIVE_AHEAD_MESSAGES),
            (zmq.ZAP_DOMAIN, OWN_DOMAIN),  # Rule 4.
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS_MAX),
            (zmq.LINGER, 2_000),
            (zmq.BACKLOG, connections_waiting_max()),
            (zmq.TCP_KEEPALIVE, 1),  # A client whose machine has gone is noticed within two minutes.
            (zmq.TCP_KEEPALIVE_IDLE, 60),
            (zmq.TCP_KEEPALIVE_INTVL, 10),
            (zmq.TCP_KEEPALIVE_CNT, 6),
        ):
            self._socket.setsockopt(option, value)

    def bind(self, endpoint: str, listening_fd: int | None = None, *, always: bool = False) -> str:
        """Returns the endpoint really bound (a port of 0 is replaced). Raises zmq.ZMQError. With the descriptor of a socket
        that listens already, that socket is the endpoint's. `always`: the service's own processes come in here, and what is
        kept back is for them; it comes first, where there is a guard."""
        if always:
            self._connections.always_open.add(endpoint)
        elif self._guard is not None:
            self._ask_for_keys(self._guard)
        if listening_fd is not None:
            self._socket.setsockopt(zmq.USE_FD, listening_fd)
        self._socket.setsockopt(zmq.IPV6, int("[" in endpoint or "*" in endpoint))
        self._socket.bind(endpoint)
        bound = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        if listening_fd is None:
            self._connections.door.bound(bound)
        return bound

    def bind_stream(self, path: str) -> None:
        """Clients on this host may come in there, too, without ZeroMQ. Only where they need no access key: nobody is asked for
        one. Raises OSError."""
        assert self._guard is None
        self._connections.stream_door(path, self._streams.bind(path))

    def _ask_for_keys(self, guard: Guard) -> None:
        """At what is bound from now on: the library keeps the options of each binding as they were at that moment."""
        self._socket.setsockopt(zmq.ZAP_DOMAIN, CLIENT_DOMAIN)
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, guard.secret.encode())

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if self._zap is not None:
            self._zap.start(loop)
        self._edge.start(loop)
        self._connections.start(loop)
        self._streams.start(loop)

    def close(self) -> None:
        """What was sent may still leave for two seconds; nothing is read any more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._edge.stop()
        self._connections.close()
        self._streams.close()
        self._socket.close()
        if self._zap is not None:
            self._zap.close()

    @property
    def messages_in(self) -> int:
        return self._messages_in

    def statistics(self) -> EndpointStatistics:
        return EndpointStatistics(
            self._messages_in,
            self._messages_out,
            self._all_malformed,
            self._undeliverable,
            self.outbox.kept_bytes,
            self.outbox.total,
            self._strangers,
            self._connections.door.is_shut,
            self._connections.times_full,
            self._connections.open + len(self._streams),
            len(self._streams),
        )

    @property
    def _strangers(self) -> int:
        return self._connections.handshakes.strangers + self._streams.strangers

    @property
    def _all_malformed(self) -> int:
        return self._malformed + self._streams.malformed

    def counts(self, **dropped: int) -> Counts:
        """`dropped`: what else was, by reason."""
        reasons = {
            "malformed": self._all_malformed,
            "undeliverable": self._undeliverable,
            "foreign_peer": self._strangers,
            "unfinished": self._unfinished.turned_out,
            **dropped,
        }
        guard, knocks, connections = self._guard, self._connections.knocks, self._connections
        refusals = {
            "no_key": 0 if guard is None else guard.without_key,
            "other_service": 0 if guard is None else guard.of_another_service,
            "unknown_key": 0 if guard is None else guard.unknown_keys,
            "flood": 0 if knocks is None else knocks.turned_out,
        }
        return {
            "access_refused": [((reason,), count) for reason, count in refusals.items()],
            "access_refused_calls": [((), 0 if guard is None else guard.refused_calls)],
            "messages_received": [((), self._messages_in)],
            "messages_sent": [((), self._messages_out)],
            "connections_accepted": [((), connections.accepted + self._streams.accepted)],
            "connections": [((), connections.open + len(self._streams))],
            "stream_connections": [((), len(self._streams))],
            "connections_refused": [((), int(connections.door.is_shut))],
            "untaken_reply_bytes": [((), self.outbox.total)],
            "drops": [((reason,), count) for reason, count in reasons.items()],
        }

    def look_for_room(self) -> None:
        """To be called now and then: what the app opens shows in no connection."""
        self._connections.look_for_room()

    def _forget_gone(self) -> None:
        """Which clients they were that have gone the library does not say. What was known of the others is found out again."""
        for remembered in (self._unproven, self._senders_of_much):
            if len(remembered) > _REMEMBERED_CLIENTS_MAX:
                remembered.clear()

    def _log_unknown_key(self, address: str) -> None:
        assert self._guard is not None
        if self._guard.is_to_be_said("", time.monotonic()):
            text = "access: turned away a client from %s: its key is not on the list (told again after %d s; %d so far)"
            log.warning(text, address, SAID_S, self._guard.unknown_keys)

    # Receiving

    def _on_readable(self) -> None:
        self._edge.is_due = False
        if self._is_closed:
            return
        try:
            self._read_burst()
        finally:  # Also when the handler raised: the edge has been consumed, and others wait.
            self._end_turn()

    def _read_burst(self) -> None:
        socket, edge, senders_of_much, read = self._socket, self._edge, self._senders_of_much, self._unfinished.read
        guard, user = self._guard, OWN
        requests = size = 0
        edge.used = True
        for n in range(TURN_MESSAGES_MAX):
            if n < ASK_FIRST and not get(socket, EVENTS) & POLLIN:
                break
            try:
                if guard is None:
                    client = _recv(socket, _NOBLOCK)
                else:
                    client, user = _receive_sender(socket)
            except zmq.Again:
                break
            self._messages_in += 1
            if client in senders_of_much or client not in read:
                messages, received = self._receive_uncopied(client)
            else:
                frames = [client, _recv(socket, _NOBLOCK)]
                received = len(frames[1])
                if get(socket, _RCVMORE):
                    received = self._read_rest(frames)
                read[client] += received + self._frame_bytes
                if received >= LARGE_BYTES:
                    senders_of_much.add(client)
                messages, malformed = parse_message(frames, self._message_bytes_max)
                self._malformed += malformed
            size += received
            if received >= _GREAT_BYTES:
                self._give_back_later()
            for message in messages:
                requests += self._take(client, user, message)
            if requests >= TURN_REQUESTS_MAX or size >= TURN_BYTES_MAX:
                return
        else:
            return
        edge.used = False  # Nothing was there a moment ago.

    def _heard(self, client: bytes, body: bytes) -> int:
        """A stream has brought a message. How many requests that had."""
        self._messages_in += 1
        if len(body) >= _GREAT_BYTES:
            self._give_back_later()
        try:
            message = parse_body(client, body)
        except Malformed:
            self._malformed += 1
            return 0
        return self._take(client, OWN, message)

    def _take(self, client: bytes, user: str, message: Message) -> int:
        """A message of a client, taken apart. How many requests it has."""
        requests = len(message.requests)
        if message.refused:
            self._answer_refused(message)
        if self._guard is not None:
            message.origin.user = user
        if message.__class__ is Batch or client in self._slices.lines:
            self._put_off(message)
            return requests
        if user != OWN:
            self._judge(message)
        handle = self._handle
        try:
            handle(message)
        except BaseException as exc:  # A fault of ours; it takes no other message with it.
            self._went_wrong(message, exc)
        return requests

    def _judge(self, message: Message) -> None:
        assert self._guard is not None
        user = message.origin.user
        refused = self._guard.judge(user, message)
        for request, error in refused:
            self.reply_error(message.origin, request.id, error)
        if refused and self._guard.is_to_be_said(user, time.monotonic()):
            text = "access: refused %d call(s) of %s: %s (told again after %d s at the earliest)"
            log.warning(text, len(refused), self._guard.name_of(user), refused[0][1].message, SAID_S)

    @property
    def is_behind(self) -> bool:
        """There are messages that have been read and not been handled to their end."""
        return bool(self._slices)

    def _put_off(self, message: Message) -> None:
        assert self._loop is not None
        slices = self._slices
        message.origin.arrived_s = time.monotonic()
        if not slices:
            self._loop.call_soon(self._handle_slices)
        if not slices.put(message):
            self._refuse(message)

    def _refuse(self, message: Message) -> None:
        """For its calls there is no room."""
        for part in parts_of(message, REPLIES_PER_MESSAGE_MAX):
            if len(part.requests) > 1 and is_head(part.requests[0]):
                without_head(part)
            behind = _BEHIND_JSON if part.origin.json else _BEHIND
            for request in part.requests:
                self.reply(part.origin, request.id, ERROR, behind)
            self._answer_refused(part)
            self.flush()
        if isinstance(message, Batch):
            self._all_cut(message)

    def _answer_refused(self, message: Message) -> None:
        for request_id, error in message.refused:
            self.reply_error(message.origin, request_id, error)

    def _handle_slices(self) -> None:
        if self._is_closed or self._loop is None:
            return
        slices = self._slices
        parts = slices.take(time.monotonic(), self.outbox.crowded)
        for part, ended in parts:
            self._answer_refused(part)
            if self._guard is not None and part.origin.user != OWN:
                self._judge(part)
            if part.requests:
                try:
                    self._handle(part)
                except BaseException as exc:
                    self._went_wrong(part, exc)
            if ended is not None:
                self._all_cut(ended)
        if slices and parts:
            self._loop.call_soon(self._handle_slices)
        elif slices:
            self._loop.call_later(BATCH_PAUSE_S, self._handle_slices)
        if parts:
            self._end_turn()

    def _all_cut(self, batch: Batch) -> None:
        origin = batch.origin
        self._malformed += not batch.answerable
        if batch.all_cut() and origin.envelope is not None:
            self._formed[origin] = origin.gathered

    def _give_back_later(self) -> None:
        """What large messages have taken goes back to the system when no more come."""
        if self._loop is None:
            return
        self._great_s = self._loop.time()
        if self._giving_back is None:
            self._giving_back = self._loop.call_later(_GIVE_BACK_S, self._give_back)

    def _give_back(self) -> None:
        assert self._loop is not None
        self._giving_back = None
        if (left_s := self._great_s + _GIVE_BACK_S - self._loop.time()) > 0:
            self._giving_back = self._loop.call_later(left_s, self._give_back)
        else:
            give_back()

    def _receive_uncopied(self, client: bytes) -> tuple[list[Message], int]:
        """One message, perhaps large, and its bytes. If it is of the usual form, it is where the library has put it."""
        frame = _recv(self._socket, _NOBLOCK, False)
        received, unfinished = len(frame.buffer), self._unfinished
        if client not in unfinished.read:
            unfinished.met(client, _descriptor_of(frame))
        unfinished.read[client] += received + self._frame_bytes
        if received < LARGE_BYTES:
            self._senders_of_much.discard(client)
        else:
            self._senders_of_much.add(client)
        if received >= LARGE_BYTES and not get(self._socket, _RCVMORE) and received <= self._message_bytes_max:
            message = parse_uncopied(client, frame.buffer)
            if message is not None:
                return [message], received
        frames = [client, frame.bytes]
        if get(self._socket, _RCVMORE):
            unfinished.read[client] -= received
            received = self._read_rest(frames)
            unfinished.read[client] += received
        messages, malformed = parse_message(frames, self._message_bytes_max)
        self._malformed += malformed
        return messages, received

    def _went_wrong(self, message: Message, error: BaseException) -> None:
        log.error("a message could not be handled", exc_info=error)
        for request in message.requests:
            self.reply_error(message.origin, request.id, Internal("the call could not be handled; the log says why"))

    def _read_rest(self, frames: list[bytes]) -> int:
        """Reads the message to its end, whatever its size; keeps of it no more than shows that it is too large. Its bytes, and
        the heads of the frames but for the first one."""
        total = len(frames[1])
        while True:
            frame = _recv(self._socket, _NOBLOCK)
            if total <= self._message_bytes_max and len(frames) <= FRAMES_PER_MESSAGE_MAX:
                frames.append(frame)
            total += len(frame) + self._frame_bytes
            if not get(self._socket, _RCVMORE):
                return total

    def _rounds(self) -> int:
        """How often the socket has come round to all its connections, which it serves in turn."""
        self._edge.used = True
        if not get(self._socket, EVENTS) & POLLIN or self._messages_in - self._round_ended > self._connections.open:
            self._rounds_so_far += 1
            self._round_ended = self._messages_in
        self._edge.rearm()
        return self._rounds_so_far

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
        origin.missing -= 1
        if origin.envelope is not None:
            origin.gathered.append((request_id, status, result))
            if origin.missing == 0:
                self._formed[origin] = origin.gathered
            elif len(origin.gathered) >= REPLIES_PER_MESSAGE_MAX:
                self._gather(origin, origin.envelope)
            return
        formed = self._formed.get(origin)
        if formed is None:
            self._formed[origin] = [(request_id, status, result)]
        else:
            formed.append((request_id, status, result))

    def reply_rows(self, origin: Origin) -> list[Row] | None:
        """Where replies to that message can be put until the next `flush`, one at least, as `reply` would. None: not so."""
        return self._rows.setdefault(origin.client, []) if origin.plain else None

    def reply_error(self, origin: Origin, request_id: int | str, error: CallError) -> None:
        self.reply(origin, request_id, ERROR, error.to_wire())

    def has_replies(self) -> bool:
        """For `flush` to send."""
        return len(self._rows) + len(self._formed) > 0

    def flush(self) -> None:
        """Sends everything queued, one message per client where the client allows it."""
        if self._is_closed:
            return
        outbox = self.outbox
        if outbox.known:
            outbox.encoded()
        if self._rows:
            rows_by_client, self._rows = self._rows, {}
            for client, rows in rows_by_client.items():
                refused = False
                if outbox.known:
                    rows, refused = self._or_errors(client, rows)
                for part in (rows,) if len(rows) <= REPLIES_PER_MESSAGE_MAX else _parts(rows):
                    for body in encode_bodies(part):
                        self._deliver(client, (body,), refused)
        if self._formed:
            formed, self._formed = self._formed, {}
            for origin, rows in formed.items():
                self._send_formed(origin, rows)
        if outbox.known:
            self._retry_later(_OUTBOX_RETRY_S)
        if self._edge.used:
            self._edge.rearm()

    def _send_formed(self, origin: Origin, rows: list[Row]) -> None:
        envelope = origin.envelope
        if envelope is not None:
            self._send_gathered(origin, envelope)
            return
        rows, refused = self._or_errors(origin.client, rows)
        for body in encode_bodies(rows, json=origin.json, single=origin.single):
            self._deliver(origin.client, (body,), refused)

    def _gather(self, origin: Origin, envelope: Envelope) -> None:
        """What is known of a very long answer waits for the rest as bytes."""
        rows, origin.gathered = origin.gathered, []
        begun = envelope.begun.setdefault(origin, [])
        if envelope.is_dropped:
            return
        if self.outbox.is_full(origin.client):
            self._drop(origin.client, envelope)
            return
        for body in encode_bodies(rows, json=origin.json, single=False):
            begun.append(body)
            envelope.gathered_bytes += len(body)
            self.outbox.gathered(origin.client, len(body))

    def _drop(self, client: bytes, envelope: Envelope) -> None:
        self._undeliverable += 1
        envelope.is_dropped = True
        for each in envelope.begun.values():
            each.clear()
        envelope.bodies.clear()
        self._let_go(client, envelope)

    def _let_go(self, client: bytes, envelope: Envelope) -> None:
        if envelope.gathered_bytes:
            self.outbox.let_go(client, envelope.gathered_bytes)
            envelope.gathered_bytes = 0

    def _send_gathered(self, origin: Origin, envelope: Envelope) -> None:
        """All answers to one body are there; they leave with those to the others."""
        rows, refused = self._or_errors(origin.client, origin.gathered)
        bodies = encode_bodies(rows, json=origin.json, single=origin.single) if rows else []
        if (begun := envelope.begun.pop(origin, None)) is not None:
            bodies = join_bodies([*begun, *bodies], json=origin.json)
        envelope.bodies += bodies
        envelope.errors |= refused
        envelope.missing -= 1
        if envelope.missing == 0 and envelope.bodies and not envelope.is_dropped:
            self._let_go(origin.client, envelope)
            self._deliver(origin.client, (*envelope.frames, *envelope.bodies), envelope.errors)

    def _or_errors(self, client: bytes, rows: list[Row]) -> tuple[list[Row], bool]:
        """These replies, or short errors in their place for a client that does not read; whether it is those."""
        if not self.outbox.is_full(client):
            return rows, False
        self._undeliverable += 1
        return [(request_id, ERROR, _UNREAD) for request_id, _, _ in rows], True

    def _deliver(self, client: bytes, frames: Sequence[bytes], errors: bool) -> None:
        if (stream := self._by_stream.get(client)) is not None:
            body = frames[0]
            if len(body) >= _GREAT_BYTES:
                self._give_back_later()
            if self._streams.send(stream, body, errors):
                self._messages_out += 1
            else:
                self._undeliverable += 1
            return
        outbox = self.outbox
        if outbox.must_wait(client):
            outbox.settle((client,))
            if outbox.must_wait(client):
                if not outbox.keep(client, frames, errors=errors):
                    self._undeliverable += 1
                return
        if not self._send(client, frames) and not outbox.keep(client, frames, errors=errors):
            self._undeliverable += 1

    def _send(self, client: bytes, frames: Sequence[bytes]) -> bool:
        """False when the client's queue is full. What has no client any more is dropped."""
        self._edge.used = True
        try:
            _send(self._socket, client, _NOBLOCK_MORE)
        except zmq.Again:
            return False
        except zmq.ZMQError:  # EHOSTUNREACH: the client has gone.
            self._undeliverable += 1
            self._unproven.pop(client, None)
            self._senders_of_much.discard(client)
            return True
        for frame in frames[:-1]:
            _send(self._socket, frame, _NOBLOCK_MORE)
        last = frames[-1]
        unproven = self._unproven.get(client, 0) + len(last)
        if unproven < LARGE_BYTES:
            self._unproven[client] = unproven
            _send(self._socket, last, _NOBLOCK)
        else:
            self._send_proven(client, last, unproven)
        self._messages_out += 1
        return True

    def _send_proven(self, client: bytes, frame: bytes, size: int) -> None:
        """The last frame of a message. It will be known when it has left, and all before it."""
        self._unproven.pop(client, None)
        if size >= _GREAT_BYTES:
            self._give_back_later()
        self.outbox.sent(client, size, _send_uncopied(self._socket, frame))

    # Clients that do not read as fast as they ask

    def _retry_later(self, delay_s: float) -> None:
        if self._retry is None and self._loop is not None:
            self._outbox_retry_s = delay_s
            self._retry = self._loop.call_later(delay_s, self._retry_outbox)

    def _retry_outbox(self) -> None:
        """Sends what can be sent now. Comes back less often while nobody reads, and soon while somebody reads."""
        self._retry = None
        if self._is_closed:
            return
        began_s = time.monotonic()
        outbox = self.outbox
        had_kept = len(outbox) > 0
        progress = outbox.settle()
        for client in outbox.clients():
            if client in self._by_stream:  # The kernel says when there is room.
                continue
            for _ in range(_OUTBOX_RETRY_MESSAGES_MAX):
                frames = outbox.first(client)
                if frames is None or outbox.is_ahead(client) or not self._send(client, frames):
                    break
                outbox.remove_first(client)
                progress = True
        if self._edge.used:
            self._edge.rearm()
        if outbox.known:
            delay_s = _OUTBOX_RETRY_S if progress else min(self._outbox_retry_s * 2, _OUTBOX_RETRY_S_MAX)
            self._retry_later(max(delay_s, _OUTBOX_REST * (time.monotonic() - began_s)))
        if had_kept and not len(outbox):
            self._end_turn()  # Who drains has waited for this.
