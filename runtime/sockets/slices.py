"""Messages with more calls than a turn should have: they are handled in several turns, and others in between.

Rule 1: pure.
Rule 2: nothing of a client overtakes: what comes while a message of it is here waits behind that.
Rule 3: each part of a message that begins with the head of a session begins with it, too: the keys of its calls are made of that.
Rule 4: what is here is bounded, for one client to a few megabytes and one message, since no client can be told to stop sending.
"""

from __future__ import annotations

import collections

from tidegate.runtime.limits import SLICED_BYTES_MAX, TURN_BYTES_MAX, TURN_REQUESTS_MAX
from tidegate.runtime.wire.protocol import Message, Request
from tidegate.runtime.wire.sessions import is_head, without_head


class Slices:
    def __init__(self, bytes_max: int = SLICED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.lines: dict[bytes, collections.deque[tuple[Message, list[Request]]]] = {}
        """By client: its messages, of the first of which a part may have been taken, and their heads, if they have one."""
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether anything is here."""
        return bool(self.lines)

    def put(self, message: Message) -> bool:
        """False when there is no room: its calls are to be refused."""
        line = self.lines.get(message.origin.client)
        mine = 0 if line is None else sum(each.size for each, _ in line)
        if self._bytes + message.size > self._bytes_max or mine > TURN_BYTES_MAX:
            return False
        head = message.requests[:1] if len(message.requests) > 1 and is_head(message.requests[0]) else []
        if head:
            without_head(message)
        self.lines.setdefault(message.origin.client, collections.deque()).append((message, head))
        self._bytes += message.size
        message.requests.reverse()  # They are taken from its end.
        return True

    def take(self) -> list[Message]:
        """A part of each client's oldest message, for one turn."""
        parts = []
        calls_max = max(1, TURN_REQUESTS_MAX // max(1, len(self.lines)))
        for client, line in list(self.lines.items()):
            message, head = line[0]
            message.origin.missing += len(head)  # Whoever handles the part takes it off again.
            parts.append(Message(message.origin, head + message.requests[: -calls_max - 1 : -1], []))
            del message.requests[-calls_max:]
            if not message.requests:
                line.popleft()
                self._bytes -= message.size
            if not line:
                del self.lines[client]
        return parts
