"""Messages with more calls than a turn should have: they are handled in several turns, and others in between.

Rule 1: pure.
Rule 2: nothing of a client overtakes: what comes while a message of it is here waits behind that.
Rule 3: what is here is bounded by what it takes in memory, and each client may have as much as is free. No client can be told to
stop sending.
Rule 4: of one batch so many calls are unanswered at most, and none is cut off for a client that does not read. Now and then one
part is, all the same: perhaps its calls are what the others wait for.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from tidegate.runtime.limits import (
    BATCH_AHEAD_CALLS,
    BATCH_PATIENCE_S,
    BUDGET_BYTES,
    BUDGET_SHARE,
    PUT_OFF_CALL_BYTES,
    TURN_REQUESTS_MAX,
)
from tidegate.runtime.wire.protocol import Batch, Message

_PART_CALLS_MIN = 2
"""A head alone is no part."""


class _Line:
    """Of one client."""

    __slots__ = ("bytes", "messages", "taken_s")

    def __init__(self) -> None:
        self.messages: collections.deque[tuple[Message, int]] = collections.deque()
        """Of the first a part may have been taken. And what each takes in memory."""
        self.bytes = 0
        self.taken_s = 0.0
        """When the newest part was."""


class Slices:
    def __init__(self, bytes_max: int = BUDGET_BYTES // BUDGET_SHARE, others: Callable[[], int] = lambda: 0) -> None:
        """`others`: bytes that have to share the room."""
        self._bytes_max = bytes_max
        self._others = others
        self.lines: dict[bytes, _Line] = {}
        """By client. Whose turn is next comes first."""
        self.bytes = 0

    def __bool__(self) -> bool:
        """Whether anything is here."""
        return bool(self.lines)

    def put(self, message: Message) -> bool:
        """False when there is no room: its calls are to be refused."""
        client = message.origin.client
        line = self.lines.get(client)
        size = message.size + PUT_OFF_CALL_BYTES * len(message.requests)
        mine = size if line is None else line.bytes + size
        if mine > self._bytes_max - self.bytes - self._others():
            return False
        if line is None:
            line = self.lines[client] = _Line()
        line.messages.append((message, size))
        line.bytes += size
        self.bytes += size
        return True

    def take(self, now: float, crowded: AbstractSet[bytes] = frozenset()) -> list[tuple[Message, Batch | None]]:
        """For one turn, of each client a part of its oldest message, and which batch is all cut off with that. `crowded`: they
        have too much to read."""
        parts: list[tuple[Message, Batch | None]] = []
        left = TURN_REQUESTS_MAX
        each_max = max(_PART_CALLS_MIN, left // max(1, len(self.lines)))
        for client in list(self.lines):
            if left <= 0:
                break
            line = self.lines[client]
            message, size = line.messages[0]
            if not isinstance(message, Batch):
                parts.append((message, None))
            elif (client in crowded or message.origin.missing > BATCH_AHEAD_CALLS) and now < line.taken_s + BATCH_PATIENCE_S:
                continue
            else:
                part = message.next_part(each_max)
                parts.append((part, message if message.is_over else None))
                if not message.is_over:
                    size = 0
            left -= len(parts[-1][0].requests) + len(parts[-1][0].refused)
            line.taken_s = now
            if size:
                line.messages.popleft()
                line.bytes -= size
                self.bytes -= size
            del self.lines[client]
            if line.messages:
                self.lines[client] = line
        return parts
