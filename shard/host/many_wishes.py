"""Many objects that an operator wishes to be read, or made, at once: each is a wish of its own, a few are under way at a time.

Guarantee: it is answered once, with what came of each, in the order of the wish. What is read of all together is some MiB at
most, however large their values are: the supervisor has the answers of all workers in memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tidegate.runtime.wire.wishes import (
    MANY_BYTES_MAX,
    OF_MANY,
    SHOWN_BYTES_MAX,
    SHOWN_ROWS_MAX,
    Load,
    ObjectWish,
    ReadMany,
    Show,
)
from tidegate.shard.neutral import NEUTRAL

if TYPE_CHECKING:
    from tidegate.shard.host.wishes import Answered, Wishes

AT_ONCE = 8
"""What these take together is what others wait for: a millisecond, unless they are large."""
_ALL_ROWS = Show(limit=SHOWN_ROWS_MAX, whole=True)


class Many:
    """One of them."""

    def __init__(
        self, wishes: Wishes, loop: asyncio.AbstractEventLoop, wish: OF_MANY, timeout_s: float, answered: Answered
    ) -> None:
        self._wishes = wishes
        self._loop = loop
        self._wish = wish
        self._until_s = loop.time() + timeout_s
        self._answered = answered
        self._pages: list[dict[str, Any] | None] = [None] * len(wish.names())
        self._begun = self._bytes = self._under_way = 0
        self._goes_on = False
        """That is about to be called."""

    def go_on(self) -> None:
        """Begins the next ones."""
        self._goes_on = False
        while self._begun < len(self._pages) and self._under_way < AT_ONCE and self._bytes < MANY_BYTES_MAX:
            at, left_s = self._begun, self._until_s - self._loop.time()
            self._begun += 1
            self._under_way += 1
            class_name, _, name = self._wish.names()[at].partition("/")

            def answered(error: dict[str, Any] | None, result: dict[str, Any] | None, at: int = at) -> None:
                self._one_answered(at, {"error": error} if error is not None else result or {})

            self._wishes.begin(self._one(at), class_name, name, left_s, answered)
        if not self._under_way and not self._goes_on:
            self._answered(None, {"pages": self._pages})

    def _one(self, at: int) -> ObjectWish:
        if isinstance(self._wish, ReadMany):
            return _ALL_ROWS
        one = self._wish.objects[at]
        return Load(one.rows, replace=self._wish.replace, alarm_ms=one.alarm_ms)

    def _one_answered(self, at: int, page: dict[str, Any]) -> None:
        self._under_way -= 1
        if isinstance(self._wish, ReadMany) and "rows" in page:
            size = sum(len(row["key"]) + row["bytes"] for row in page["rows"])
            if size > SHOWN_BYTES_MAX:  # A single value: of a large one too, the page of an object begins with it.
                page, size = {**page, "rows": [], "more": True, "unchanged_since": None}, 0
            self._bytes += size
        self._pages[at] = page
        if not self._goes_on:  # Not at once: it may be `go_on` that is told so.
            self._goes_on = True
            self._loop.call_soon(self.go_on, context=NEUTRAL)
