"""What a client keeps for each of its links, and what its machine asks of the shell.

A *link* is one connection to the router or to a worker: made once, lost once, never used again. Pure, like the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tidegate.runtime.client.terms import Terms
from tidegate.runtime.errors import BadRequest, CallError, TooLarge
from tidegate.runtime.limits import BATCH_CALLS_MAX, MESSAGE_BYTES_MAX
from tidegate.runtime.wire.encoding import Decode
from tidegate.runtime.wire.protocol import encode


class Waiter(Protocol):
    """Who waits for the reply; a future is one. The machine calls nothing else. `set_result` of one that is done changes nothing,
    or raises."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Any, /) -> None: ...


Row = tuple[Any, ...]
"""A request of the wire protocol; its first element is the call id, which grows with every call."""
IN_SESSION, PLAIN = 1, 2
Caller = object
"""Who made a call: a task; None for who makes one call after the other."""
Entry = tuple[Waiter, Decode, float, Row, int, float, Terms, Caller]
"""A call in flight: who waits, how to read the result, deadline, request, the slot it is counted for or -1, when it was made,
how, and by whom."""


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
    calls_held: int
    """Of those unsent: they wait for one to the same object that is tried again."""


class Link:
    """`calls` has every call not answered, in order of their ids; `rows` those of them which were not sent yet."""

    __slots__ = ("calls", "connected", "connecting_until", "endpoint", "kinds", "number", "rows")

    def __init__(self, number: int, endpoint: str) -> None:
        self.number = number
        self.endpoint = endpoint
        self.connected = False
        self.connecting_until: float | None = None
        self.calls: dict[int, Entry] = {}
        self.rows: list[Row] = []
        self.kinds = 0
        """What calls are among them: `IN_SESSION`, `PLAIN`, both, or 0: it has to be looked at."""

    def add(self, row: Row) -> None:
        """A call that was sent before, or was to be sent on another link."""
        self.rows.append(row)
        self.kinds = IN_SESSION | PLAIN


class Passed:
    """The newest calls that may have run, by object and by who made them. An older one that was refused would run after it."""

    __slots__ = ("_newest",)

    def __init__(self) -> None:
        self._newest: dict[Any, int] = {}

    def note(self, entry: Entry) -> None:
        call_id, name = entry[3][0], entry[3][1:3]
        for key in (name, (*name, entry[7])):
            self._newest[key] = max(call_id, self._newest.get(key, 0))

    def has_passed(self, entry: Entry) -> bool:
        """Whether a later call to the same object may have run: of the same caller, where calls are tried again. Callers who
        know nothing of each other do not know who was first."""
        call_id, name = entry[3][0], entry[3][1:3]
        return bool(call_id < self._newest.get((*name, entry[7]) if entry[6].retries else name, 0))


class Moving:
    """A slot on its way from one link to the router: new calls are held until the old link has answered all of its own."""

    __slots__ = ("held", "passed", "refused", "remaining", "source")

    def __init__(self, source: Link, remaining: int, held: Link) -> None:
        self.source = source
        self.remaining = remaining
        self.held = held
        self.refused: set[int] = set()
        """Calls that the source has refused."""
        self.passed = Passed()
        """Those that it may have run."""


def bodies_of(rows: list[Row], head: Row | None = None) -> tuple[list[bytes], dict[int, CallError]]:
    """The messages that carry the calls, each behind that head, and by id the calls that none can carry."""
    bodies: list[bytes] = []
    unsendable: dict[int, CallError] = {}
    for batch in batches_of(rows):
        try:
            body = encode(batch if head is None else [head, *batch])
        except UnicodeEncodeError as exc:
            if len(batch) == 1:
                unsendable[batch[0][0]] = BadRequest(f"class, name and method must be valid Unicode: {exc}")
            for row in batch if len(batch) > 1 else ():
                more, refused = bodies_of([row], head)
                bodies += more
                unsendable |= refused
            continue
        if len(body) > MESSAGE_BYTES_MAX:
            unsendable[batch[0][0]] = TooLarge(f"the call has {len(body)} bytes, more than {MESSAGE_BYTES_MAX}")
        else:
            bodies.append(body)
    return bodies, unsendable


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


def check_seconds(name: str, value: object) -> None:
    """Raises TypeError or ValueError for what is no duration. None and infinity are."""
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{name} must be a number of seconds from 0 on, not {value!r}")
