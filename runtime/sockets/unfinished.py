"""Messages that clients have begun to send and not ended. The library keeps what has come of them, tells nobody before their last
frame is there, and knows a bound for a frame only.

Guarantee: what has come of one message is soon not more than a message may have, and of all together not more than
`bytes_max`; else connections are turned out, those first that say nothing any more. Nobody is whose messages are read.

For a message that has begun the library takes the room for all of its frame. So many large ones may take the memory although
little of them has come: where the process has more than it may, of those that have begun some are turned out, first who has
stopped, then who is slowest. As many go on as `bytes_max` has room for: what else takes the memory, as frames of which nothing
has come but the head, which nobody can tell from a connection at rest, is no fault of theirs.
Rule: pure. The connections tell what the kernel has received of each, the endpoint what was read of each client; what is to be
closed is returned. What was received and not read is an unfinished message for certain only if the socket, which serves its
connections in turn, has come round to this one meanwhile and found nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.runtime.limits import UNFINISHED_AT_ONCE

FRAME_HEAD_BYTES = 9
"""At most, in front of each frame on the wire."""
ENCRYPTED_BYTES = 33
"""What CURVE adds to a frame besides."""
SLACK_BYTES = 1 << 20
"""What comes between the moments at which this and that is asked. Less than that is nobody's affair."""


@dataclass(frozen=True)
class _Ahead:
    """A connection of which more had come than was read."""

    size: int
    read: int
    rounds: int
    """Of the socket, when nothing more was read of it for the first time."""
    is_begun: bool
    """It is an unfinished message."""
    grew: bool
    pace: int
    """Bytes that came between the newest two looks, and of those before half as much with each look."""


class Unfinished:
    def __init__(self, message_bytes_max: int, bytes_max: int) -> None:
        self.read: dict[bytes, int] = {}
        """Bytes read of each client whose connection is known. The endpoint counts up."""
        self.turned_out = 0
        self._message_bytes_max = message_bytes_max + SLACK_BYTES
        self._bytes_max = bytes_max
        self._clients: dict[int, bytes] = {}
        self._open: dict[int, None] = {}
        """Descriptors. Who is looked at next comes first."""
        self._ahead: dict[int, _Ahead] = {}
        self._going: set[int] = set()
        """They were turned out, and the library has not closed them yet."""

    def came(self, fd: int) -> None:
        self._open[fd] = None

    def left(self, fd: int) -> None:
        self._going.discard(fd)
        self._no_longer(fd)

    def _no_longer(self, fd: int) -> None:
        self._open.pop(fd, None)
        self._ahead.pop(fd, None)
        self._forget(fd)

    def met(self, client: bytes, fd: int) -> None:
        """The first message of a client was read. That may be before it is told that it came, or when it has gone."""
        self._forget(fd)
        self._clients[fd] = client
        self.read[client] = 0

    def _forget(self, fd: int) -> None:
        if (client := self._clients.pop(fd, None)) is not None:
            self.read.pop(client, None)

    def __len__(self) -> int:
        """How many connections there are to look at."""
        return len(self._open)

    @property
    def suspects(self) -> bool:
        """It should be looked again soon."""
        return bool(self._ahead)

    @property
    def _begun(self) -> list[tuple[int, _Ahead]]:
        return [(fd, each) for fd, each in self._ahead.items() if each.is_begun]

    @property
    def to_come(self) -> int:
        """Bytes that may come of those that have begun, where that are so many that some may be given up; else 0."""
        room = [max(0, self._message_bytes_max - each.size) for _, each in self._begun]
        return sum(room) if len(room) * self._message_bytes_max > self._bytes_max else 0

    def make_room(self, too_much: int) -> list[tuple[int, int]]:
        """Which are to be closed besides, as `look` says it: the process has so many bytes more than it should. Each has the room
        of a message at most, which is free when the library has closed it."""
        closed: list[tuple[int, int]] = []
        beyond = len(self._begun) * self._message_bytes_max - self._bytes_max
        too_much -= len(self._going) * self._message_bytes_max
        for _, size, fd in sorted((each.pace, each.size, fd) for fd, each in self._begun):
            if min(beyond, too_much) <= 0:
                break
            closed.append((fd, size))
            beyond -= self._message_bytes_max
            too_much -= self._message_bytes_max
        self._turned_out(closed)
        return closed

    def look(self, received: Callable[[int], int | None], rounds: int) -> list[tuple[int, int]]:
        """Which connections are to be closed, and the bytes that have come of their messages. `received`: how many bytes of a
        descriptor were taken from the kernel; None where that does not say, which is so for good. `rounds`: how often the socket
        has come round to all its connections so far."""
        return self._look(list(itertools.islice(self._open, UNFINISHED_AT_ONCE)), received, rounds)

    def look_at_suspects(self, received: Callable[[int], int | None], rounds: int) -> list[tuple[int, int]]:
        """As `look`, at none but those of which more had come than was read."""
        return self._look(list(itertools.islice(self._ahead, UNFINISHED_AT_ONCE)), received, rounds)

    def _look(self, fds: list[int], received: Callable[[int], int | None], rounds: int) -> list[tuple[int, int]]:
        for fd in fds:
            del self._open[fd]
            before = self._ahead.pop(fd, None)
            if (taken := received(fd)) is not None:
                self._open[fd] = None
                self._look_at(fd, taken, rounds, before)
        closed = self._to_be_closed()
        self._turned_out(closed)
        return closed

    def _look_at(self, fd: int, taken: int, rounds: int, before: _Ahead | None) -> None:
        client = self._clients.get(fd, b"")
        read = self.read.get(client, 0)
        size = taken - read
        if size < 0:  # Its frames had shorter heads. That is no credit for what comes later.
            self.read[client] = taken
        if size <= SLACK_BYTES:
            return
        if before is None or before.read != read:
            self._ahead[fd] = _Ahead(size, read, rounds, False, True, size)
        else:  # The first of these rounds may have been half over.
            came = size - before.size
            self._ahead[fd] = _Ahead(size, read, before.rounds, rounds > before.rounds + 1, came > 0, before.pace // 2 + came)

    def _turned_out(self, closed: list[tuple[int, int]]) -> None:
        for fd, _ in closed:
            self._no_longer(fd)
            self._going.add(fd)
        self.turned_out += len(closed)

    def _to_be_closed(self) -> list[tuple[int, int]]:
        begun = [(each.grew, -each.size, fd) for fd, each in self._begun]
        total = -sum(negative for _, negative, _ in begun)
        closed = []
        for _, negative, fd in sorted(begun):
            if total > self._bytes_max or -negative > self._message_bytes_max:
                closed.append((fd, -negative))
                total += negative
        return closed
