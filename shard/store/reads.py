"""Reads of a state that are under way beside the loop.

The result of a read is what an immediate one would have returned, whatever is written before it arrives: it is made over a
snapshot of the state as it was when the read was asked, and what the memtables and caches hold was captured at the same instant.

Guarantee: the state begins no batch while a snapshot taken before may be in use (`OpenReads.when_over`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tidegate.shard.store.interface import Done, Fetch, Reader, Snapshot


class OpenReads:
    """The snapshots of one state that are in use."""

    __slots__ = ("_failed", "_open", "_waiting")

    def __init__(self, failed: Callable[[Exception], object]) -> None:
        """`failed` is told of the error of a read, before whoever asked."""
        self._failed = failed
        self._open: set[Snapshot] = set()
        self._waiting: list[tuple[set[Snapshot], Callable[[], object]]] = []

    def __len__(self) -> int:
        return len(self._open)

    def read(
        self, reader: Reader, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False
    ) -> None:
        self._open.add(snapshot)
        reader.read(snapshot, fetch, partial(self._over, snapshot, done), first=first, many_pages=many_pages)

    def when_over(self, callback: Callable[[], object]) -> None:
        """Calls it when all reads begun so far are over: at once if there are none."""
        if self._open:
            self._waiting.append((set(self._open), callback))
        else:
            callback()

    def _over(self, snapshot: Snapshot, done: Done, result: Any, error: Exception | None) -> None:
        self._open.remove(snapshot)
        if error is not None:
            self._failed(error)
        for entry in list(self._waiting):
            entry[0].discard(snapshot)
            if not entry[0]:
                self._waiting.remove(entry)
                entry[1]()
        done(result, error)
