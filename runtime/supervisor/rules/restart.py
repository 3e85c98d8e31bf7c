"""When a child that failed is started again.

Rule: the first failure costs nothing, a second one soon after costs a little, and a child that fails again and again
(*flapping*) is reported and tried slowly, for ever: whatever is wrong may be repaired while the others go on.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass

DELAY_S_MIN = 0.1
DELAY_S_MAX = 5.0
STABLE_S = 30.0
"""A child that was ready for this long starts with a clean record."""
FLAPPING_FAILURES = 6
FLAPPING_WINDOW_S = 60.0


@dataclass(frozen=True)
class Restart:
    """Start again after `delay_s`. `flapping`: so often that an operator must look."""

    delay_s: float
    flapping: bool


class RestartPolicy:
    """The record of one child. Knows no process and no clock."""

    def __init__(self) -> None:
        self._ready_at: float | None = None
        self._consecutive = 0
        self._recent: collections.deque[float] = collections.deque(maxlen=FLAPPING_FAILURES)
        self.failures = 0

    def ready(self, now: float) -> None:
        self._ready_at = now

    def is_stable(self, now: float) -> bool:
        return self._ready_at is not None and now - self._ready_at >= STABLE_S

    def failed(self, now: float) -> Restart:
        if self.is_stable(now):
            self._consecutive = 0
            self._recent.clear()
        self._ready_at = None
        self.failures += 1
        self._consecutive += 1
        self._recent.append(now)
        if len(self._recent) == FLAPPING_FAILURES and now - self._recent[0] <= FLAPPING_WINDOW_S:
            return Restart(DELAY_S_MAX, flapping=True)
        return Restart(_delay_s(self._consecutive), flapping=False)


def _delay_s(failures: int) -> float:
    if failures == 1:
        return 0.0
    # The exponent is bounded so that a record of months cannot overflow.
    return float(min(DELAY_S_MIN * 2 ** min(failures - 2, 16), DELAY_S_MAX))
