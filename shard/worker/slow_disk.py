"""When the disk is said to be slow: the rule. Times are arguments.

What an append takes is known only while the loop looks: that it has ended is heard when code that held the loop up lets it go.
So somebody looks every `LOOK_S`, and from one look to the next no more than twice that counts.
"""

from __future__ import annotations

from tidegate.runtime.limits import SLOW_DISK_KEPT_S, SLOW_DISK_S

LOOK_S = 0.1


class SlowDisk:
    was_slow = False
    """Once, at least: else `slow_s` need not be asked."""

    def __init__(self) -> None:
        self._began_s = self._looked_s = self._took_s = 0.0
        self._slow_s = self._slow_until_s = 0.0

    def look(self, began_s: float, now_s: float) -> None:
        """The append that began then is not over, or was not a moment ago."""
        if began_s != self._began_s:
            self._began_s = self._looked_s = began_s
            self._took_s = 0.0
        self._took_s += min(now_s - self._looked_s, 2 * LOOK_S)
        self._looked_s = now_s
        if self._took_s >= SLOW_DISK_S:
            self._slow_s, self._slow_until_s, self.was_slow = self._took_s, now_s + SLOW_DISK_KEPT_S, True

    def slow_s(self, now_s: float) -> float:
        """How long an append takes, or took that is hardly over; 0: the disk does its work."""
        return self._slow_s if now_s < self._slow_until_s else 0.0
