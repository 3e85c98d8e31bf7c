"""A turn: one bounded pass of a worker, with one clock and one end.

Guarantee: whoever leaves something for the end of the turn (a write to commit, a reply to send, an object to evict) asks for it
by `end_soon`, and it comes once, however many ask. All that happens in a turn happens at `now_s`, as far as it shows in who was
used last. Both are by `clock`, which is not compared with the loop's: that stands still within a pass, and is behind.

A turn begins with a message, a completion or a timer. After messages the shell ends it itself, without being asked.

(On hot paths, here and elsewhere, a function that is an attribute gets a local name before it is called: CPython 3.11 looks for
it among the methods first, which costs as much as the call.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from tidegate.shard.neutral import NEUTRAL


class Turn:
    __slots__ = ("_asked", "_call_soon", "_end", "clock", "now_s")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, end: Callable[[], None], clock: Callable[[], float] | None = None
    ) -> None:
        """`end`: what is to be done at the end of a turn. `clock`: the loop's, unless given."""
        self._call_soon = cast("Any", loop).call_soon_directly
        self._end = end
        self.clock = clock or loop.time
        self._asked = False
        self.now_s = self.clock()

    def begin(self) -> None:
        clock = self.clock
        self.now_s = clock()

    def end_soon(self) -> None:
        """What the loop has to run already comes before."""
        if not self._asked:
            self._asked = True
            self._call_soon(self._end_asked, context=NEUTRAL)

    def end(self) -> None:
        """At once, for a turn that begins and ends with something that the shell itself was told."""
        self.begin()
        self._end()

    def _end_asked(self) -> None:
        self._asked = False
        self.end()
