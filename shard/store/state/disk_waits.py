"""How long the loop of a worker may wait for the disk where it reads itself, and whether the disk is quick enough for that.

A read by a thread costs a call some 100 µs of CPU, half of it on the loop. Where a page that is not in memory comes in half of
that, as from most solid-state disks, whoever waits for it on the loop is served sooner, and so is everybody behind. What that may
come to is bounded: a fifth of the time, and never more than a moment at once.

Rule: pure. Times are arguments.
"""

from __future__ import annotations

from collections import deque

WAIT_SHARE = 0.2
"""Of the time, that the loop may wait for the disk in the long run."""
WAIT_S_MAX = 0.02
"""It may wait so long at once, where it has not waited lately: two reads of a disk that turns."""
QUICK_S = 0.001
"""A thread that waits for a page of a quick disk, and then for the interpreter, has it in this time."""
READS_KEPT = 16
READS_QUICK = 12


class DiskWaits:
    """Of all shards of a worker. What threads tell it they may tell at any time."""

    def __init__(self) -> None:
        self._left_s = WAIT_S_MAX
        self._at_s = 0.0
        self._reads: deque[float] = deque(maxlen=READS_KEPT)
        """Seconds for a page, of the newest reads by threads that have waited for one."""

    def waited(self, took_s: float, now_s: float) -> bool:
        """A read on the loop has waited so long; whether there may be more of them."""
        self._left_s = min(WAIT_S_MAX, self._left_s + WAIT_SHARE * (now_s - self._at_s)) - took_s
        self._at_s = now_s
        return self._left_s >= 0

    def read_apart(self, took_s: float, pages: int) -> None:
        """A thread has waited for so many pages."""
        self._reads.append(took_s / pages)

    @property
    def are_short(self) -> bool:
        """Whether the disk is known to be quick: threads have read from it lately."""
        return sum(took_s < QUICK_S for took_s in self._reads.copy()) >= READS_QUICK
