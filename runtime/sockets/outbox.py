"""Outbox: what clients have asked for and not taken yet. Replies on their way through the library, and those kept here for
clients that do not read as fast as they ask.

Rule 1: pure. The endpoint says what was sent, what could not be sent, and asks what to send again; this file keeps order and
bounds.
Rule 2: messages of one client leave in the order in which they were kept; nothing may overtake them.
Rule 3: all clients share one pool of bytes, and each may have as much of it as is free: one alone gets half of the pool, ten that
do not read get a tenth each and leave as much for others. Who has a quarter of that is *crowded*: nothing should be run for it
whose answer is large. Who has all of it is *full*: its replies are replaced by short errors. The service's own processes take
what they are sent at once, and pass it on to many: one is crowded sooner, so that what is small does not stand behind much.
Rule 4: a client that never reads costs a bounded amount of memory, and no work that grows with what is kept for it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tidegate.runtime.limits import BUDGET_BYTES, BUDGET_SHARE, CROWDED_SHARE, ERRORS_BYTES_MAX, SEND_AHEAD_BYTES
from tidegate.runtime.wire.protocol import own_identity

_MESSAGE_OVERHEAD_BYTES = 128


class Delivery(Protocol):
    """Of one message that the library has."""

    @property
    def done(self) -> bool:
        """It is in the hands of the operating system, or its client has gone: it takes no memory here any more."""


class _Client:
    __slots__ = ("errors_bytes", "gathered_bytes", "kept_bytes", "made_bytes", "messages", "on_way", "on_way_bytes")

    def __init__(self) -> None:
        self.messages: collections.deque[tuple[Sequence[bytes], int]] = collections.deque()
        self.kept_bytes = 0
        self.on_way: collections.deque[tuple[Delivery, int]] = collections.deque()
        """What the library has, in order, where it is known when that ends."""
        self.on_way_bytes = 0
        self.made_bytes = 0
        """Large results that are no message yet."""
        self.gathered_bytes = 0
        """Replies that leave when the last of their message is there."""
        self.errors_bytes = 0
        """Short errors kept since its share was used up."""

    @property
    def bytes(self) -> int:
        return self.kept_bytes + self.on_way_bytes + self.made_bytes + self.gathered_bytes


class Outbox:
    def __init__(
        self,
        pool_bytes: int = BUDGET_BYTES // BUDGET_SHARE,
        room: Callable[[bytes], object] = lambda client: None,
        own: bytes = own_identity(""),
    ) -> None:
        """`room` is told of each client that is crowded no longer; ids of the service's own processes begin with `own`."""
        self.pool_bytes = pool_bytes
        self._own = own
        self.room = room
        self.known: dict[bytes, _Client] = {}
        """Those for whom there is anything to look after."""
        self._waiting: dict[bytes, None] = {}
        """Clients for which messages are kept, in order."""
        self._made: set[bytes] = set()
        """Clients for which something was made in this turn."""
        self.crowded: set[bytes] = set()
        self.total = 0
        """Bytes that were made and not taken."""
        self.kept_bytes = 0
        """Of these, what is kept here."""

    def __contains__(self, client: bytes) -> bool:
        """Whether messages are kept for the client."""
        return client in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def clients(self) -> list[bytes]:
        """For whom messages are kept."""
        return list(self._waiting)

    @property
    def share_bytes(self) -> int:
        """What each client may have now."""
        return max(0, self.pool_bytes - self.total)

    def is_full(self, client: bytes) -> bool:
        """Whether replies for this client should be replaced by short errors from now on."""
        known = self.known.get(client)
        return known is not None and known.bytes >= self.share_bytes

    # What comes

    def made(self, client: bytes, size: int) -> None:
        """A large result that will be sent in this turn."""
        self._known(client).made_bytes += size
        self._made.add(client)
        self._grown(client, size)

    def encoded(self) -> None:
        """What was made in this turn is sent or kept by now."""
        made, self._made = self._made, set()
        for client in made:
            known = self.known[client]
            size, known.made_bytes = known.made_bytes, 0
            self._shrunk(client, size)

    def gathered(self, client: bytes, size: int) -> None:
        """Replies wait for others of their message."""
        self._known(client).gathered_bytes += size
        self._grown(client, size)

    def let_go(self, client: bytes, size: int) -> None:
        """They are sent, kept as a message, or given up."""
        self.known[client].gathered_bytes -= size
        self._shrunk(client, size)

    def must_wait(self, client: bytes) -> bool:
        """Whether the library should get no more for this client now."""
        known = self.known.get(client)
        return known is not None and (bool(known.messages) or known.on_way_bytes >= SEND_AHEAD_BYTES)

    def is_ahead(self, client: bytes) -> bool:
        """Whether the library has as much for this client as it may have at once."""
        return self.known[client].on_way_bytes >= SEND_AHEAD_BYTES

    def sent(self, client: bytes, size: int, delivery: Delivery) -> None:
        """The library has it, and tells when it has it no longer."""
        known = self._known(client)
        known.on_way.append((delivery, size))
        known.on_way_bytes += size
        self._grown(client, size)

    def keep(self, client: bytes, frames: Sequence[bytes], *, errors: bool = False) -> bool:
        """False when the message had to be dropped: one of short errors, of which there are too many."""
        size = sum(map(len, frames)) + _MESSAGE_OVERHEAD_BYTES
        known = self._known(client)
        if not errors:
            known.errors_bytes = 0
        elif known.errors_bytes + size > ERRORS_BYTES_MAX:
            return False
        else:
            known.errors_bytes += size
        known.messages.append((frames, size))
        known.kept_bytes += size
        self.kept_bytes += size
        self._waiting[client] = None
        self._grown(client, size)
        return True

    # What goes

    def first(self, client: bytes) -> Sequence[bytes] | None:
        """The oldest message kept for the client."""
        known = self.known.get(client)
        return known.messages[0][0] if known is not None and known.messages else None

    def remove_first(self, client: bytes) -> None:
        """The oldest message has left."""
        known = self.known[client]
        size = known.messages.popleft()[1]
        known.kept_bytes -= size
        self.kept_bytes -= size
        if not known.messages:
            del self._waiting[client]
        self._shrunk(client, size)

    def settle(self, clients: Iterable[bytes] | None = None) -> bool:
        """Looks what the library is through with, of these clients or of all. Whether there was anything."""
        settled = False
        for client in list(self.known) if clients is None else clients:
            known = self.known.get(client)
            size = 0
            while known is not None and known.on_way and known.on_way[0][0].done:
                size += known.on_way.popleft()[1]
            if known is not None and size:
                settled = True
                known.on_way_bytes -= size
                self._shrunk(client, size)
        return settled

    def _known(self, client: bytes) -> _Client:
        known = self.known.get(client)
        if known is None:
            known = self.known[client] = _Client()
        return known

    def _forget(self, client: bytes) -> None:
        if not self.known[client].bytes:
            del self.known[client]

    def _crowded_above(self, client: bytes) -> int:
        part = self.share_bytes // CROWDED_SHARE
        return min(part, SEND_AHEAD_BYTES) if client.startswith(self._own) else part

    def _grown(self, client: bytes, size: int) -> None:
        self.total += size
        if self.known[client].bytes > self._crowded_above(client):
            self.crowded.add(client)

    def _shrunk(self, client: bytes, size: int) -> None:
        self.total -= size
        self._forget(client)
        for each in list(self.crowded):
            if each not in self.known or self.known[each].bytes * 2 <= self._crowded_above(each):
                self.crowded.discard(each)
                self.room(each)

    def check_invariants(self) -> None:
        assert self.total == sum(known.bytes for known in self.known.values())
        assert self.kept_bytes == sum(known.kept_bytes for known in self.known.values())
        assert set(self._waiting) == {client for client, known in self.known.items() if known.messages}
        assert self.crowded <= self.known.keys()
        for known in self.known.values():
            assert known.bytes
            assert known.kept_bytes == sum(size for _, size in known.messages)
            assert known.on_way_bytes == sum(size for _, size in known.on_way)
