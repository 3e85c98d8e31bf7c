"""What is logged about the code of objects: which object, what happened, how often.

Rule 1: one line a second at most for each kind of failure (class, what failed, class of the exception); those between are counted
        and told in the next line. The traceback comes once for each kind.
Rule 2: never raises, whatever the exception says of itself, and whatever handlers and filters the app has added.
"""

from __future__ import annotations

import logging
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any

from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import LOGGED_KINDS_MAX, LOGGED_KINDS_S
from tidegate.runtime.wire.exceptions import name_of, text_of
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.refusals import traceback_of

if TYPE_CHECKING:
    import asyncio

Kind = tuple[str, str, str]


class _Window:
    """A second in which a kind has been told."""

    __slots__ = ("last", "level", "silent")

    def __init__(self, level: int) -> None:
        self.level = level
        self.silent = 0
        """Failures since the last line."""
        self.last = ""
        """What the newest of them would have said."""


class ObjectLog:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._log = logging.getLogger("tidegate.objects")
        self._known: dict[Kind, None] = {}
        """Kinds whose traceback has been logged, the oldest first."""
        self._open: dict[Kind, _Window] = {}
        self._timer: TimerHandle | None = None

    def failed(self, object_id: ObjectId, what: str, error: BaseException, *, level: int = logging.WARNING) -> None:
        """`what` says which code of the object it was that raised."""
        kind = (object_id.class_name, what, name_of(error))
        line = f"{object_id}: {what}: {kind[2]}: {text_of(error)}"
        if not self._is_due(kind, line, level):
            return
        if kind not in self._known:
            if len(self._known) >= LOGGED_KINDS_MAX:
                del self._known[next(iter(self._known))]
            self._known[kind] = None
            line = f"{line}\n{traceback_of(error).rstrip()}"
        self.say(level, "%s", line)

    def was_reset(self, object_id: ObjectId, line: str) -> None:
        """One kind for each class, whatever the reason: what is reset by each call writes no more than what raises in each."""
        if self._is_due((object_id.class_name, "reset", ""), line, logging.WARNING):
            self.say(logging.WARNING, "%s", line)

    def _is_due(self, kind: Kind, line: str, level: int) -> bool:
        """Whether a line of this kind may be written now; else it is counted."""
        window = self._open.get(kind)
        if window is not None:
            window.silent += 1
            window.last = line
            return False
        if len(self._open) < LOGGED_KINDS_MAX:
            self._open[kind] = _Window(level)
            if self._timer is None:
                self._timer = self._loop.call_later(LOGGED_KINDS_S, self._close_windows, context=NEUTRAL)
        return True

    def _close_windows(self) -> None:
        self._timer = None
        for kind, window in list(self._open.items()):
            if not window.silent:
                del self._open[kind]
                continue
            self.say(window.level, "%s (%d of this kind since the last line)", window.last, window.silent)
            window.silent = 0
        if self._open:
            self._timer = self._loop.call_later(LOGGED_KINDS_S, self._close_windows, context=NEUTRAL)

    def say(self, level: int, text: str, *args: Any) -> None:
        try:
            self._log.log(level, text, *args)
        except BaseException:  # A handler or filter of the app.
            pass

    def warning(self, text: str, *args: Any) -> None:
        self.say(logging.WARNING, text, *args)

    def error(self, text: str, *args: Any) -> None:
        self.say(logging.ERROR, text, *args)
