"""How long a commit waits for callers who were answered just now and will call again: the rules. Times are arguments.

Where a commit takes long, callers who wait for each answer before they call again fall into halves: while the calls of one half
are made durable the other half's arrive, and are cut the moment that ends. Each half waits for two commits then, and twice as
many are made. So the next commit is cut when as many wait for it as were answered by the last, beside those who waited already.

Rule 1: it never waits longer than `SHARE` of what the last one took, from the end of that on.
Rule 2: who was answered need not call again. Where too few do, the commits after that wait for nobody, `IN_VAIN_COMMITS` of them.
"""

from __future__ import annotations

SHARE = 0.5
GATHER_S_MAX = 0.01
ENOUGH = 0.5
"""Such a part of those who are waited for shows that it is worth it."""
IN_VAIN_COMMITS = 16


class CommitGathering:
    def __init__(self) -> None:
        self._wanted, self._least = 0, 0.0
        self._until_s = 0.0
        self._idle = 0
        """So many commits wait for nobody yet."""

    def committed(self, now_s: float, took_s: float, answered: int, waiting: int) -> None:
        """`answered`: messages that left with that commit; `waiting`: those that wait for the next one."""
        self._wanted, self._least = waiting + answered, waiting + answered * ENOUGH
        self._until_s = now_s + min(took_s * SHARE, GATHER_S_MAX)
        self._idle = max(0, self._idle - 1)

    def wait_s(self, now_s: float, waiting: int) -> float:
        """How long the next commit is to wait from now on; 0: it is to be cut. `waiting`: messages that wait for it."""
        if self._idle or waiting >= self._wanted:
            return 0.0
        if now_s < self._until_s:
            return self._until_s - now_s
        if waiting < self._least:
            self._idle = IN_VAIN_COMMITS
        self._wanted = 0
        return 0.0
