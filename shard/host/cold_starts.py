"""Reads of data that may be on disk only, so that no object waits for the disk on behalf of another.

Guarantee: while a shard's state is in memory, reads are answered at once. While it may not be, a read that memory cannot answer
is made by a *reader* beside the loop, over a snapshot of the state as it was when the read was asked; what the memtables and
caches hold was captured at the same instant, so the result is what an immediate read would have returned, whatever is written
before it arrives. The state begins no batch while a snapshot taken before may be in use (`OpenReads.when_over`).

Rule: no thread and no file; whoever implements `Reader` has those (see `tidegate.shard.reader`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.runtime.errors import Internal, Overloaded
from tidegate.runtime.limits import OBJECT_CALLS_MAX, WORKER_CALL_BYTES_MAX
from tidegate.runtime.protocol import Origin, Request
from tidegate.shard.memtable import UNKNOWN, Unknown

if TYPE_CHECKING:
    from tidegate.shard.host import Host

HEADER = ""


class Snapshot(Protocol):
    """The rows of a state as they were when it was taken. Used by one thread at a time, then closed."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]: ...

    def close(self) -> None: ...


Fetch = Callable[[Snapshot], Any]
"""What is looked up in a snapshot; it may be called in another thread, and touches nothing else."""
Done = Callable[[Any, Exception | None], object]
"""Told the result of a `Fetch`, or its error, on the loop."""


class Reader(Protocol):
    """Where reads wait for the disk without holding up the loop."""

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False) -> None:
        """Calls `fetch`, closes the snapshot, then calls `done` in a later turn of the loop. `first`: before those that were
        asked earlier."""
        ...


class OpenReads:
    """The snapshots of one state that are in use."""

    __slots__ = ("_open", "_waiting")

    def __init__(self) -> None:
        self._open: set[Snapshot] = set()
        self._waiting: list[tuple[set[Snapshot], Callable[[], object]]] = []

    def __len__(self) -> int:
        return len(self._open)

    def read(self, reader: Reader, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False) -> None:
        self._open.add(snapshot)
        reader.read(snapshot, fetch, partial(self._over, snapshot, done), first=first)

    def when_over(self, callback: Callable[[], object]) -> None:
        """Calls it when all reads begun so far are over: at once if there are none."""
        if self._open:
            self._waiting.append((set(self._open), callback))
        else:
            callback()

    def _over(self, snapshot: Snapshot, done: Done, result: Any, error: Exception | None) -> None:
        self._open.remove(snapshot)
        for entry in list(self._waiting):
            entry[0].discard(snapshot)
            if not entry[0]:
                self._waiting.remove(entry)
                entry[1]()
        done(result, error)


class HeaderStore(Protocol):
    reader: Reader | None

    def recall(self, object_key: bytes, key: str) -> bytes | Unknown | None: ...

    def fetch(self, object_key: bytes, keys: Sequence[str], done: Done) -> None: ...


class ColdStarts:
    """Calls to objects that are not in memory and whose headers may not be either: they wait, in order, until the header has
    been read, and are then delivered again, all in one turn."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._calls: dict[bytes, list[tuple[Request, Origin]]] = {}
        self._warm: bytes | None = None
        """The object whose header has just been read."""

    def joins(self, object_key: bytes, call: tuple[Request, Origin]) -> bool:
        """Whether others wait for the same header, so that this call must not overtake them; it waits behind them then, or has
        been refused."""
        calls = self._calls.get(object_key)
        if calls is None:
            return False
        host, (request, origin) = self._host, call
        if len(calls) >= OBJECT_CALLS_MAX:
            text = f"{request.cls}/{request.name} has {len(calls)} calls waiting"
            host.answer_error(origin, request.id, Overloaded(text))
        elif host.queued_bytes + len(request.args) > WORKER_CALL_BYTES_MAX:
            host.answer_error(origin, request.id, Overloaded(f"{host.queued_bytes} bytes of calls wait in the worker"))
        else:
            calls.append(call)
            host.queued_calls += 1
            host.queued_bytes += len(request.args)
        return True

    def __contains__(self, object_key: bytes) -> bool:
        return object_key in self._calls

    def calls(self) -> Iterator[tuple[Request, Origin]]:
        for calls in self._calls.values():
            yield from calls

    def takes(self, store: HeaderStore, object_key: bytes, call: tuple[Request, Origin]) -> bool:
        """Whether the header has to be fetched; the call waits for it then, or has been refused."""
        if store.reader is None or self._warm == object_key or store.recall(object_key, HEADER) is not UNKNOWN:
            return False
        self._calls[object_key] = []
        store.fetch(object_key, [HEADER], partial(self._read, object_key))
        return self.joins(object_key, call)

    def _read(self, object_key: bytes, _: Any, error: Exception | None) -> None:
        """The page is in memory now: reading it again costs nothing, and no header has to be handed around."""
        host = self._host
        calls = self._calls.pop(object_key)
        host.queued_calls -= len(calls)
        host.queued_bytes -= sum(len(request.args) for request, _ in calls)
        host.now_s = host.loop.time()
        self._warm = object_key
        for call in calls:
            if error is None:
                host.deliver(*call)
            else:
                request, origin = call
                host.answer_error(origin, request.id, Internal(f"the object could not be read: {error}", outcome="not_executed"))
        self._warm = None
        host.touch()
