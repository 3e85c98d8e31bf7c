"""A link over a unix stream to a worker on this host: what `Dealer` is over ZeroMQ, without a thread in between.

Rule 1: nothing waits here. The shells ask after the descriptor became readable, and after it became writable while there is
something unsent.
Rule 2: what arrived before the link was lost is received before the loss is told.
"""

from __future__ import annotations

import collections
import itertools
import socket
from collections.abc import Callable, Iterable

from tidegate.runtime import descriptors
from tidegate.runtime.limits import LARGE_BYTES
from tidegate.runtime.sockets.dealer import Change
from tidegate.runtime.sockets.frames import GREETING, Frames, head_of_length

PIECES_MAX = 64
"""Given to the kernel at once: it takes 1,024."""


class Stream:
    """Is connected when the other side has greeted. It is never tried again: a failure is a loss."""

    def __init__(self, path: str) -> None:
        """Raises OSError where nobody listens, where there is no room for one more that waits, or where this user may not go;
        Unavailable where no descriptor is left."""
        descriptors.require(f"connect {path}")
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.setblocking(False)
            self.socket.connect(path)
            self.socket.send(GREETING)
        except OSError:
            self.socket.close()
            raise
        self._frames = Frames()
        self._unsent: collections.deque[bytes | memoryview] = collections.deque()
        self._early: list[bytes] = []
        """What came with the greeting."""
        self._loss_is_told = False
        self.is_connected = self.reconnects = False
        self.has_ended = False
        """Nothing more will come: ask for the change."""

    @property
    def has_unsent(self) -> bool:
        """Call `send_rest` when the descriptor is writable."""
        return bool(self._unsent)

    def monitors(self) -> list[int]:
        """File descriptors: when one becomes readable, ask for a change."""
        return [] if self.is_connected else [self.socket.fileno()]

    def send(self, body: bytes) -> bool:
        """False when the body cannot be taken: the link is as good as lost."""
        if self._unsent or len(body) >= LARGE_BYTES:  # Not copied.
            self._unsent += (head_of_length(len(body)), body)
            return self.send_rest()
        data = head_of_length(len(body)) + body
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
        return True

    def send_rest(self) -> bool:
        """The same."""
        unsent = self._unsent
        try:
            while unsent:
                sent = self.socket.sendmsg(first_pieces(unsent))
                while unsent and sent >= len(unsent[0]):
                    sent -= len(unsent.popleft())
                if sent:
                    unsent[0] = memoryview(unsent[0])[sent:]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def receive(self, messages_max: int) -> list[bytes]:
        """What has arrived, about as much as one look at the socket gives. Empty: no message is whole."""
        bodies, self._early = self._early, []
        frames = self._frames
        try:
            while not bodies and not self.has_ended:
                data = self.socket.recv(frames.wanted)
                bodies = frames.feed(data)
                self.has_ended = not data or bool(frames.problem)
        except BlockingIOError:
            pass
        except OSError:
            self.has_ended = True
        return bodies

    def readable(self) -> bool:
        """The descriptor says so by itself, for as long as it is true."""
        return False

    def change(self, forget: Callable[[int], object]) -> Change | None:
        """The next thing that happened to the link. When it connects, `forget` is told that the monitor is watched no more."""
        if not self.is_connected and not self.has_ended:
            self._early = self.receive(1)
            if self._frames.is_greeted:
                forget(self.socket.fileno())
                self.is_connected = True
                return "connected"
        if self.has_ended and not self._loss_is_told:
            self._loss_is_told = True
            return "lost"
        return None

    def close(self) -> None:
        self.socket.close()


def first_pieces(pieces: Iterable[bytes | memoryview]) -> list[bytes | memoryview]:
    """As many as the kernel is given at once."""
    return list(itertools.islice(pieces, PIECES_MAX))
