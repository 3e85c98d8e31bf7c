"""Unix streams to clients on this host: the listening socket of a worker, and the connections that came of it.

Rule 1: nothing is decided here. What a message means, who may have how much, what is kept and dropped: the endpoint and its
outbox.
Rule 2: a turn takes one message of each connection that has any, then the next of each, up to the bounds of a turn. The loop is
asked to look at one descriptor only, however many connections there are: all that can be read is read in one turn. While there is
one connection only, the kernel is not asked each time whose turn it is.
Rule 3: to a connection that takes less than it is sent nothing is given but what it takes; the rest is kept in the outbox, in
order, and counted there to the byte.
Rule 4: who does not begin with the greeting, or is silent for too long before it, is closed and never heard.

Who may come in is a question of the folder that the socket is in: nobody but the service's user and root.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import logging
import math
import os
import secrets
import select
import socket
from collections.abc import Callable, Iterable, Sequence

from tidegate.runtime.descriptors import connections_waiting_max
from tidegate.runtime.limits import HANDSHAKE_MS_MAX, LARGE_BYTES, TURN_BYTES_MAX, TURN_CONNECTIONS_MAX, TURN_REQUESTS_MAX
from tidegate.runtime.sockets.frames import GREETING, HEAD_BYTES, Frames, head_of_length
from tidegate.runtime.sockets.outbox import Outbox
from tidegate.runtime.sockets.stream import first_pieces

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_EVENTS_MAX = 256
"""Taken from the kernel at once; unless told, Python makes room for a thousand. It tells the others when it is asked again."""
_GUESSES_MAX = 16
"""Turns in a row in which the kernel is not asked: somebody else may want to come in."""
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SAID_S = 60.0

log = logging.getLogger("tidegate")


def stream_path(endpoint: str) -> str:
    """Where a worker that clients find at this endpoint takes streams."""
    return f"{endpoint.removeprefix('ipc://')}.str"


class Connection:
    """One client."""

    __slots__ = ("bodies", "client", "fd", "frames", "has_ended", "is_waiting", "sent", "since_s", "socket")

    def __init__(self, accepted: socket.socket, client: bytes, bytes_max: int, now: float) -> None:
        self.socket = accepted
        self.fd = accepted.fileno()
        self.client = client
        self.frames = Frames(bytes_max)
        self.bodies: collections.deque[bytes] = collections.deque()
        """Received and not handled."""
        self.sent = 0
        """Bytes of the first message that is kept for it."""
        self.is_waiting = False
        """There are such, and the kernel is asked when it has room for more."""
        self.has_ended = False
        self.since_s = now

    def receive(self) -> int:
        """What one look at the socket gives. Returns how many bytes that was."""
        frames = self.frames
        try:
            data = self.socket.recv(frames.wanted)
        except BlockingIOError:
            return 0
        except OSError:  # It was killed with replies unread.
            data = b""
        if data:
            self.bodies += frames.feed(data)
        if not data or frames.problem:
            self.has_ended = True
        return len(data)

    def write(self, pieces: Sequence[bytes | memoryview]) -> int:
        """How many bytes the kernel has taken; -1: the client has gone."""
        try:
            return self.socket.send(pieces[0]) if len(pieces) == 1 else self.socket.sendmsg(pieces)
        except BlockingIOError:
            return 0
        except OSError:
            return -1


class Streams:
    """Listens from `bind` on, and serves from `start` on."""

    def __init__(
        self,
        outbox: Outbox,
        heard: Callable[[bytes, bytes], int],
        end_turn: Callable[[], None],
        came: Callable[[int], bool],
        *,
        bytes_max: int,
    ) -> None:
        """`heard` is given the client and each of its messages, and returns how many requests that had. `came` is told of each
        connection by its descriptor, -1 where none was left for it, and says whether it may stay. `end_turn` is called after
        every burst, and must send what is to be sent."""
        self._outbox = outbox
        self._heard = heard
        self._end_turn = end_turn
        self._came = came
        self._bytes_max = bytes_max
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: socket.socket | None = None
        self._epoll: select.epoll | None = None
        self._by_fd: dict[int, Connection] = {}
        self._only: Connection | None = None
        """Where there is one connection: that."""
        self.by_client: dict[bytes, Connection] = {}
        self._ready: collections.OrderedDict[int, Connection] = collections.OrderedDict()
        """Connections that have something to be read or handled. Whose turn is next comes first."""
        self._over: list[Connection] = []
        """Those that are closed when the replies of this turn have left."""
        self._silent: dict[int, Connection] = {}
        """Those that have not greeted yet, the oldest first."""
        self._guesses_left = 0
        self._look: asyncio.TimerHandle | None = None
        self._is_due = False
        # Two clients may not have one name: those that clients of ZeroMQ choose are not known before.
        self._names = b"\0" + secrets.token_bytes(8)
        self.accepted = self.strangers = self.malformed = 0
        self._said_s = -math.inf

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._by_fd)

    def bind(self, path: str) -> int:
        """Listens there. Returns the descriptor. Raises OSError."""
        listening = socket.socket(socket.AF_UNIX)
        try:
            os.fchmod(listening.fileno(), 0o600)  # Its file will be so, whatever the umask leaves open.
            listening.setblocking(False)
            listening.bind(path)
            listening.listen(connections_waiting_max())
        except OSError:
            listening.close()
            raise
        self._listening = listening
        self._epoll = select.epoll()
        self._epoll.register(listening.fileno(), _IN)
        return listening.fileno()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._on_ready)

    def close(self) -> None:
        """What the kernel has taken still arrives; nothing is read any more. The file is the door's to remove."""
        if self._epoll is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
        if self._look is not None:
            self._look.cancel()
        for connection in list(self._by_fd.values()):
            self._close(connection)
        if self._listening is not None:
            self._listening.close()
        self._epoll.close()
        self._epoll = None

    # In

    def _on_ready(self) -> None:
        self._is_due = False
        if self._epoll is None:
            return
        try:
            self._read_burst(self._epoll)
        finally:  # Also when something raised: others wait.
            self._end_turn()
            while self._over:
                self._ended(self._over.pop())
            if self._ready and not self._is_due and self._loop is not None:
                self._is_due = True
                self._loop.call_soon(self._on_ready)

    def _read_burst(self, epoll: select.epoll) -> None:
        ready, only = self._ready, self._only
        requests, size = 0, 0 if only is None else self._guess(only)
        if size:
            requests = self._hear(only)  # type: ignore[arg-type]  # it has been read
        else:
            self._guesses_left = _GUESSES_MAX
            for fd, events in epoll.poll(0, _EVENTS_MAX):
                connection = self._by_fd.get(fd)
                if connection is None:
                    self._accept()
                    continue
                if events & _OUT:
                    self._send_kept(connection)
                if events & ~_OUT:
                    ready[fd] = connection
        while ready and requests < TURN_REQUESTS_MAX and size < TURN_BYTES_MAX:
            fd, connection = ready.popitem(last=False)
            if not connection.bodies and not connection.has_ended:
                size += connection.receive()
                if self._silent and connection.frames.is_greeted:
                    self._silent.pop(fd, None)
            requests += self._hear(connection)

    def _hear(self, connection: Connection) -> int:
        """The next message of a connection, if it has one; with more it waits for its turn. How many requests that had."""
        bodies, requests, heard = connection.bodies, 0, self._heard
        if bodies:
            requests = heard(connection.client, bodies.popleft()) or 1
        if bodies:
            self._ready[connection.fd] = connection
        elif connection.has_ended:
            self._over.append(connection)
        return requests

    def _guess(self, only: Connection) -> int:
        """Where one client calls, it is that one that has sent something, nearly always. How many bytes; 0: the kernel is to be
        asked."""
        if not self._guesses_left or self._silent or only.is_waiting or only.bodies:
            return 0
        self._guesses_left -= 1
        return only.receive()

    def _accept(self) -> None:
        assert self._listening is not None
        assert self._epoll is not None
        assert self._loop is not None
        now = self._loop.time()
        for _ in range(TURN_CONNECTIONS_MAX):
            try:
                accepted, _ = self._listening.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    self._came(-1)
                return
            self.accepted += 1
            if not self._came(accepted.fileno()):
                accepted.close()
                continue
            accepted.setblocking(False)
            connection = Connection(accepted, b"%s%x" % (self._names, self.accepted), self._bytes_max, now)
            self._by_fd[connection.fd] = self._silent[connection.fd] = connection
            self.by_client[connection.client] = connection
            self._count()
            self._epoll.register(connection.fd, _IN)
            connection.write((GREETING,))
            if self._look is None:
                self._look = self._loop.call_later(HANDSHAKE_MS_MAX / 1_000, self._look_at_silent)

    def _look_at_silent(self) -> None:
        self._look = None
        if self._epoll is None or self._loop is None:
            return
        now = self._loop.time()
        for connection in list(self._silent.values()):
            if (left_s := connection.since_s + HANDSHAKE_MS_MAX / 1_000 - now) > 0:
                self._look = self._loop.call_later(left_s, self._look_at_silent)
                return
            connection.frames.problem = "no greeting in time"
            self._ended(connection)

    def _ended(self, connection: Connection) -> None:
        """Everything that it has sent is handled, and nothing more will come. Harmless for one that is closed."""
        if self._by_fd.get(connection.fd) is not connection:
            return
        if (problem := connection.frames.problem) and self._loop is not None:
            if connection.frames.is_greeted:
                self.malformed += 1
            else:
                self.strangers += 1
            if (now := self._loop.time()) >= self._said_s + _SAID_S:
                self._said_s = now
                text = "stream: closed a connection of this host that is no client of Tidegate's: %s (told again after %d s)"
                log.warning(text, problem, _SAID_S)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        assert self._epoll is not None
        fd, client = connection.fd, connection.client
        self._epoll.unregister(fd)
        connection.socket.close()
        del self._by_fd[fd], self.by_client[client]
        self._ready.pop(fd, None)
        self._silent.pop(fd, None)
        self._count()
        while self._outbox.first(client) is not None:
            self._outbox.remove_first(client)

    def _count(self) -> None:
        self._only = next(iter(self._by_fd.values())) if len(self._by_fd) == 1 else None

    # Out

    def send(self, connection: Connection, body: bytes, errors: bool) -> bool:
        """False where it had to be dropped: one of short errors, of which there are too many, or nobody is there to read it."""
        outbox, client, size = self._outbox, connection.client, len(body)
        head = head_of_length(size)
        frames = (head + body,) if size < LARGE_BYTES else (head, body)
        if connection.is_waiting:
            return outbox.keep(client, frames, errors=errors)
        sent = connection.write(frames)
        if sent == HEAD_BYTES + size:
            return True
        if sent < 0 or not outbox.keep(client, frames, errors=errors and not sent):
            return False
        connection.sent = sent
        self._watch(connection, waiting=True)
        return True

    def _send_kept(self, connection: Connection) -> None:
        """As much as the kernel takes."""
        outbox, client = self._outbox, connection.client
        while (frames := outbox.first(client)) is not None:
            skipped = connection.sent
            pieces = _after(frames, skipped)
            size = sum(map(len, pieces))
            sent = connection.write(first_pieces(pieces))
            if sent < size:
                connection.sent = skipped + max(0, sent)
                if sent >= 0:
                    return
                break  # It has gone; that is found by reading, as what it has sent is still to be heard.
            connection.sent = 0
            outbox.remove_first(client)
        self._watch(connection, waiting=False)

    def _watch(self, connection: Connection, *, waiting: bool) -> None:
        assert self._epoll is not None
        if waiting != connection.is_waiting:
            connection.is_waiting = waiting
            self._epoll.modify(connection.fd, _IN | _OUT if waiting else _IN)


def _after(frames: Iterable[bytes], skipped: int) -> list[bytes | memoryview]:
    """What is left of them behind so many bytes."""
    left: list[bytes | memoryview] = []
    for frame in frames:
        if skipped < len(frame):
            left.append(memoryview(frame)[skipped:] if skipped else frame)
        skipped = max(0, skipped - len(frame))
    return left
