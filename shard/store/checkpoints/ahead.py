"""What a checkpoint changes next, told to whoever brings it into memory before.

Guarantee: what is fetched is at least what the next step changes, unless a read fails; then the change fails, too, and says so.

Rule: no thread and no file; the checkpointer lets a reader make the reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice

from tidegate.runtime.limits import CHECKPOINT_SLICE_KEYS
from tidegate.shard.store.interface import Fetch, Reader, Snapshot
from tidegate.shard.store.store import ABOVE_KEYS, ShardStore

FETCHES_MAX = 4
"""Reads at once."""


class Ahead:
    """Some keys, or the first keys of a range."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.low = self.high = b""

    def __bool__(self) -> bool:
        return bool(self.keys) or self.low < self.high

    def fetch(self, store: ShardStore, reader: Reader, over: Callable[[], object]) -> None:
        """Has it read, and calls `over` when it has been."""
        fetches: list[Fetch] = [self._read_range]
        if self.keys:
            share = -(-len(self.keys) // FETCHES_MAX)
            fetches = [partial(_read_keys, self.keys[at : at + share]) for at in range(0, len(self.keys), share)]
        left = len(fetches)

        def done(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                over()

        for fetch in fetches:
            store.reads.read(reader, store.state.snapshot(), fetch, done, first=True)

    def _read_range(self, snapshot: Snapshot) -> None:
        """And the rows beside it: pages that get empty are merged with their neighbours. The next time, the keys after these."""
        before = snapshot.scan(b"", self.low, True)
        next(before, None)
        before.close()
        rows = snapshot.scan(self.low, ABOVE_KEYS, False)
        read = [key for key, _ in islice(rows, CHECKPOINT_SLICE_KEYS + 1)]
        rows.close()
        self.low = min(read[-1] + b"\0", self.high) if read else self.high


def _read_keys(keys: list[bytes], snapshot: Snapshot) -> None:
    for key in keys:
        snapshot.get(key)
