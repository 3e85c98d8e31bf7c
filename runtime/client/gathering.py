"""When the next calls of callers who have just been answered are sent: at once, or after a look for more answers.

What a message costs its worker is as much as forty calls, whatever it carries. Where two workers answer one after the other, the
callers of each would call both, and each worker would get half as many calls in twice as many messages; then a quarter, and so
on. Whoever waits for the other's answer gets all of them into one message again, and keeps the workers in step.

Rule 1: pure. A look costs microseconds; the shell makes it.
Rule 2: a first look is always worth its while; how many come after it, without an answer, is learnt: twice as many after one
that has found something, half as many after the last one was in vain. So a call that takes long, beside others that do not, costs
these one look.
Rule 3: from the second look on others may have the processor before: a worker may wait for it.
Rule 4: a look is a turn of the loop, and what else is done in one nobody knows: code of the application, or strangers to whom the
processor was left. So what is to be sent waits no longer than `LOOKS_S_MAX`, as soon as that is noticed; and where the time went
by in vain, it is not looked so often.
"""

from __future__ import annotations

LOOKS_MAX = 16
LOOKS_S_MAX = 0.001_5
"""Of all looks: a millisecond, also by the clocks of loops that count in milliseconds. What a worker does for a message takes
less."""
FINDS_MAX = 4
"""After so many, what is to be sent waits no longer, however much there is to be read."""


class Gathering:
    """Of one client."""

    __slots__ = ("_ends_s", "_finds", "_in_vain", "_patience")

    def __init__(self) -> None:
        self._patience = 1
        self._in_vain = self._finds = 0
        self._ends_s = 0.0

    def begin(self, now_s: float) -> None:
        """Callers have been answered."""
        self._in_vain = self._finds = 0
        self._ends_s = now_s + LOOKS_S_MAX

    def goes_on(self, now_s: float, *, found: bool) -> bool:
        """Whether it is to be looked once more. `found`: the last look has found answers, to others."""
        if now_s > self._ends_s:
            if not found:
                self._patience = 1
            return False
        if found:
            if self._in_vain:
                self._patience = min(2 * self._patience, LOOKS_MAX)
            self._finds, self._in_vain = self._finds + 1, 0
            return self._finds <= FINDS_MAX
        if self._in_vain < self._patience:
            self._in_vain += 1
            return True
        self._patience = max(1, self._patience // 2)
        return False

    @property
    def lets_others_run(self) -> bool:
        """Before that look."""
        return self._in_vain > 1
