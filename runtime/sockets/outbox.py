"""Outbox: messages for clients that do not read as fast as they ask.

Rule 1: pure. The endpoint says what could not be sent and asks what to send again; this file keeps order and bounds.
Rule 2: messages of one client leave in the order in which they were kept; nothing may overtake them.
Rule 3: a client that never reads costs a bounded amount of memory, and no work that grows with what is kept for it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from tidegate.runtime.limits import CLIENT_OUTBOX_BYTES_MAX, OUTBOX_BYTES_MAX

_MESSAGE_OVERHEAD_BYTES = 128
_ERRORS_BYTES_MAX = CLIENT_OUTBOX_BYTES_MAX // 2
"""Room above the bound for the short errors which take the place of replies."""


class _Queue:
    __slots__ = ("messages", "total")

    def __init__(self) -> None:
        self.messages: collections.deque[tuple[Sequence[bytes], int]] = collections.deque()
        self.total = 0


class Outbox:
    """Keeps messages by client up to a bound in bytes."""

    def __init__(self, client_bytes_max: int = CLIENT_OUTBOX_BYTES_MAX, bytes_max: int = OUTBOX_BYTES_MAX) -> None:
        self._client_bytes_max = client_bytes_max
        self._bytes_max = bytes_max
        self._queues: dict[bytes, _Queue] = {}
        self.total = 0

    def __contains__(self, client: bytes) -> bool:
        return client in self._queues

    def __len__(self) -> int:
        """Clients for which something is kept."""
        return len(self._queues)

    def clients(self) -> list[bytes]:
        return list(self._queues)

    def is_full(self, client: bytes) -> bool:
        """Whether replies for this client should be replaced by short errors from now on."""
        queue = self._queues.get(client)
        return queue is not None and (queue.total >= self._client_bytes_max or self.total >= self._bytes_max)

    def keep(self, client: bytes, frames: Sequence[bytes]) -> bool:
        """False when the message had to be dropped."""
        queue = self._queues.get(client)
        size = sum(map(len, frames)) + _MESSAGE_OVERHEAD_BYTES
        kept = queue.total if queue is not None else 0
        if kept >= self._client_bytes_max + _ERRORS_BYTES_MAX or self.total >= self._bytes_max + _ERRORS_BYTES_MAX:
            return False
        if queue is None:
            queue = self._queues[client] = _Queue()
        queue.messages.append((frames, size))
        queue.total += size
        self.total += size
        return True

    def first(self, client: bytes) -> Sequence[bytes] | None:
        """The oldest message kept for the client."""
        queue = self._queues.get(client)
        return queue.messages[0][0] if queue is not None else None

    def remove_first(self, client: bytes) -> None:
        """The oldest message has left. A client without messages is forgotten."""
        queue = self._queues[client]
        size = queue.messages.popleft()[1]
        queue.total -= size
        self.total -= size
        if not queue.messages:
            del self._queues[client]

    def check_invariants(self) -> None:
        assert self.total == sum(queue.total for queue in self._queues.values())
        for queue in self._queues.values():
            assert queue.messages
            assert queue.total == sum(size for _, size in queue.messages)
