"""Shares: how many of what all clients have room for each of them may have.

Rule 1: pure. Whoever asks says how many there are, and can tell whose.
Rule 2: one client may have as many as are free: alone it gets half, ten that want everything get a tenth each, and as much stays
free for others. So nobody is counted while half is free.
Rule 3: counted is now and then, not with each call: while half is free a share costs nothing, and later a sixteenth of all must
have gone before it is counted again.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

from tidegate.runtime.limits import CALLS_SHARE

_RECOUNT = 16


class Shares:
    def __init__(self, total_max: int, whose: Callable[[], Iterable[bytes]]) -> None:
        """`whose` tells the client of each one that is there. Those of the client b"" are the process's own, and not bounded."""
        self.total_max = total_max
        self._whose = whose
        self._counts: collections.Counter[bytes] | None = None
        self._counted = 0
        """How many there would be if none had gone since it was counted."""

    def takes(self, client: bytes, total: int, more: int = 1) -> bool:
        """Whether there is room for one more of the client, where there are `total`: then so many come, which may be a few too
        many."""
        if total * CALLS_SHARE < self.total_max:
            self._counts = None
            return True
        if total >= self.total_max:
            return False
        if not client:
            return True
        counts = self._counts
        if counts is None:
            counts = self._count(total)
        if counts[client] >= self.total_max - total:
            if (self._counted - total) * _RECOUNT < self.total_max:
                return False
            counts = self._count(total)
            if counts[client] >= self.total_max - total:
                return False
        counts[client] += more
        self._counted += more
        return True

    def _count(self, total: int) -> collections.Counter[bytes]:
        self._counts = collections.Counter(self._whose())
        self._counted = total
        return self._counts
