"""Messages with more calls than a turn should have: they are handled in several turns, and others in between.

Rule 1: pure.
Rule 2: nothing of a client overtakes: what comes while a message of it is here waits behind that.
Rule 3: what is here is bounded, for one client to a few megabytes and one message, since no client can be told to stop sending.
"""

from __future__ import annotations

import collections

from tidegate.runtime.limits import SLICED_BYTES_MAX, TURN_BYTES_MAX, TURN_REQUESTS_MAX
from tidegate.runtime.wire.protocol import Message


class Slices:
    def __init__(self, bytes_max: int = SLICED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.lines: dict[bytes, collections.deque[Message]] = {}
        """By client: its messages, of the first of which a part may have been taken."""
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether anything is here."""
        return bool(self.lines)

    def put(self, message: Message) -> bool:
        """False when there is no room: its calls are to be refused."""
        line = self.lines.get(message.origin.client)
        mine = 0 if line is None else sum(each.size for each in line)
        if self._bytes + message.size > self._bytes_max or mine > TURN_BYTES_MAX:
            return False
        self.lines.setdefault(message.origin.client, collections.deque()).append(message)
        self._bytes += message.size
        message.requests.reverse()  # They are taken from its end.
        return True

    def take(self) -> list[Message]:
        """A part of each client's oldest message, for one turn."""
        parts = []
        calls_max = max(1, TURN_REQUESTS_MAX // max(1, len(self.lines)))
        for client, line in list(self.lines.items()):
            message = line[0]
            parts.append(Message(message.origin, message.requests[: -calls_max - 1 : -1], []))
            del message.requests[-calls_max:]
            if not message.requests:
                line.popleft()
                self._bytes -= message.size
            if not line:
                del self.lines[client]
        return parts
