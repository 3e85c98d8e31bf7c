"""Starts of objects whose headers may be on disk only: their calls wait until they are read, and nobody else does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.runtime.errors import Internal, Overloaded
from tidegate.runtime.limits import OBJECT_CALLS_MAX, WORKER_CALL_BYTES_MAX
from tidegate.runtime.wire.protocol import Origin, Request
from tidegate.shard.store.interface import HEADER, UNKNOWN, Done, Reader, Unknown

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host


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
        host.turn.begin()
        self._warm = object_key
        for call in calls:
            if error is None:
                host.deliver(*call)
            else:
                request, origin = call
                host.answer_error(origin, request.id, Internal(f"the object could not be read: {error}", outcome="not_executed"))
        self._warm = None
        host.turn.end_soon()
