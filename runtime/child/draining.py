"""The end of a process that was told to drain: it accepts nothing new, finishes what it has, and is done then.

Guarantee: done in the very turn in which nothing is left, or when the time is over; told once. No timer looks: the shell says at
the end of each turn how things stand, and whatever ends an obligation ends in a turn. Two timers may be set: that of the bound,
and that of a silence, for a process to which somebody may have sent something before he could know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Draining:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        done: Callable[[], object],
        *,
        silence_s: float = 0.0,
        silence_s_max: float = 0.0,
    ) -> None:
        """`done` is called once. After nothing is left, it has to be silent for `silence_s`; that is waited for until
        `silence_s_max` from now at most."""
        self._loop = loop
        self._done = done
        self._silence_s = silence_s
        self._silent_by_s = loop.time() + min(timeout_s, silence_s_max)
        self._silence: asyncio.TimerHandle | None = None
        self._heard = 0
        self._bound: asyncio.TimerHandle | None = loop.call_later(timeout_s, self._end)

    def turn_ended(self, *, left: bool, heard: int = 0) -> None:
        """`left`: something is left to be done. `heard`: how many messages have come in so far."""
        if self._bound is None:
            return
        if self._silence is not None and (left or heard != self._heard):
            self._silence.cancel()
            self._silence = None
        self._heard = heard
        if left or self._silence is not None:
            return
        wait_s = min(self._silence_s, self._silent_by_s - self._loop.time())
        if wait_s <= 0:
            self._end()
        else:
            self._silence = self._loop.call_later(wait_s, self._end)

    def _end(self) -> None:
        assert self._bound is not None
        for timer in (self._bound, self._silence):
            if timer is not None:
                timer.cancel()
        self._bound = self._silence = None
        self._done()
