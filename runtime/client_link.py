"""What a client keeps for each of its links, and what its machine asks of the shell.

A *link* is one connection to the router or to a worker: made once, lost once, never used again. Pure, like the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from runtime.encoding import Decode
from runtime.limits import BATCH_CALLS_MAX, MESSAGE_BYTES_MAX


class Waiter(Protocol):
    """Who waits for the reply; a future is one. The machine calls nothing else."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Any, /) -> None: ...


Row = tuple[Any, ...]
"""A request of the wire protocol; its first element is the call id, which grows with every call."""
Entry = tuple[Waiter, Decode, float, Row, int]
"""A call in flight: who waits, how to read the result, deadline, request, and the slot it is counted for or -1."""


@dataclass(frozen=True)
class Open:
    """Connect. `reconnect`: keep trying until it succeeds; otherwise the first failure is `link_lost`."""

    link: int
    endpoint: str
    reconnect: bool


@dataclass(frozen=True)
class Close:
    """The link is no longer used; nothing of it may be delivered any more."""

    link: int


@dataclass(frozen=True)
class AskTopology:
    """Call the system's `topology` and report it by `topology_received`."""


Effect = Open | Close | AskTopology


@dataclass(frozen=True)
class ClientStatistics:
    calls_in_flight: int
    calls_unsent: int
    links_connected: int
    """Of them one is the router's."""
    slots_direct: int
    """Slots whose calls go straight to their worker."""
    replies_unexpected: int
    """Replies that came after their deadline, and messages that were none."""


class Link:
    """`calls` has every call not answered, in order of their ids; `rows` those of them which were not sent yet."""

    __slots__ = ("calls", "connected", "connecting_until", "endpoint", "number", "rows")

    def __init__(self, number: int, endpoint: str) -> None:
        self.number = number
        self.endpoint = endpoint
        self.connected = False
        self.connecting_until: float | None = None
        self.calls: dict[int, Entry] = {}
        self.rows: list[Row] = []


class Moving:
    """A slot on its way from one link to the router: new calls are held until the old link has answered all of its own."""

    __slots__ = ("held", "passed", "remaining", "source")

    def __init__(self, source: Link, remaining: int, held: Link) -> None:
        self.source = source
        self.remaining = remaining
        self.held = held
        self.passed = 0
        """The newest call that the source may have run. Older ones that it refused can no longer be sent: they would
        run after it."""


def batches_of(rows: list[Row]) -> list[list[Row]]:
    """Cut so that each fits in a message, however large the arguments."""
    if len(rows) == 1:
        return [rows]
    batches: list[list[Row]] = [[]]
    size = 0
    for row in rows:
        if len(row) > 4:
            size += len(row[4])
        if batches[-1] and (len(batches[-1]) >= BATCH_CALLS_MAX or size > MESSAGE_BYTES_MAX // 2):
            batches.append([])
            size = len(row[4]) if len(row) > 4 else 0
        batches[-1].append(row)
    return batches
