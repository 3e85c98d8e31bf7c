"""What is logged about the code of objects: which object, what happened, how often.

Rule 1: an error that an object raises as its answer is one line. Of one kind (class, what failed, class of the exception, where
        it was raised) one comes at once, the next after a second, then after twice as long, up to a minute; those between are
        counted and told in the next line. The traceback comes once for each kind, without frames of the runtime.
Rule 2: never raises, whatever the exception says of itself, and whatever handlers and filters the app has added.
"""

from __future__ import annotations

import logging
import time
from asyncio import TimerHandle
from collections import deque
from collections.abc import Iterator
from heapq import merge, nlargest
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tidegate.runtime.errors import one_line
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import LOGGED_KINDS_MAX, LOGGED_KINDS_S, LOGGED_KINDS_S_MAX
from tidegate.runtime.logs.line import Speaker
from tidegate.runtime.logs.tracebacks import app_traceback, place_of
from tidegate.runtime.wire.exceptions import name_of, plain, text_of
from tidegate.shard.neutral import NEUTRAL

if TYPE_CHECKING:
    import asyncio

Kind = tuple[str, str, str, str, int]
_REST: Kind = ("", "", "", "", 0)
"""All others, when there are very many kinds."""


KEPT_OBJECTS = 1_000
KEPT_LINES = 5
KEPT_CHARACTERS = 300
"""So much is kept of what went wrong with objects, and as much of what was slow, for whoever inspects one."""


TroubleKind = Literal["error", "reset", "slow"]


class Trouble(NamedTuple):
    """Something that went wrong with an object, or was slow."""

    time_ms: int
    """Unix time."""
    kind: TroubleKind
    code: str
    """Where: a method, or empty."""
    line: str

    def told(self) -> dict[str, Any]:
        return {"time_ms": self.time_ms, "kind": self.kind, "code": self.code, "what": one_line(self.line)}


class _Newest:
    """The newest few of each object, of those that had one lately."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[ObjectId, deque[Trouble]] = {}
        """Those of longest ago first."""

    def keep(self, object_id: ObjectId, kind: TroubleKind, line: str, code: str = "") -> None:
        kept = self._of.pop(object_id, None) or deque(maxlen=KEPT_LINES)
        kept.append(Trouble(time.time_ns() // 1_000_000, kind, code, line[:KEPT_CHARACTERS]))
        self._of[object_id] = kept
        if len(self._of) > KEPT_OBJECTS:
            del self._of[next(iter(self._of))]

    def of(self, object_id: ObjectId) -> Iterator[Trouble]:
        """The newest first."""
        return reversed(self._of.get(object_id, ()))

    def all(self) -> Iterator[tuple[Trouble, ObjectId]]:
        return ((each, object_id) for object_id, kept in self._of.items() for each in kept)


class _Window:
    """A time in which a kind has been told."""

    __slots__ = ("last", "level", "silent", "speaker", "until_s", "width_s")

    def __init__(self, level: int, until_s: float) -> None:
        self.level = level
        self.until_s = until_s
        self.width_s = LOGGED_KINDS_S
        self.silent = 0
        """Failures since the last line."""
        self.last = ""
        """What the newest of them would have said."""
        self.speaker: Speaker | None = None
        """And of whom."""


class ObjectLog:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._log = logging.getLogger("tidegate.objects")
        self._known: dict[Kind, None] = {}
        """Kinds whose traceback has been logged, the oldest first."""
        self._open: dict[Kind, _Window] = {}
        self._timer: TimerHandle | None = None
        self._wrong, self._slow = _Newest(), _Newest()
        """Apart: an object that is slow again and again still has its error of an hour ago."""
        self.failures = 0
        """Errors of object code, logged or counted only."""

    def failed(
        self,
        object_id: ObjectId,
        what: str,
        error: BaseException,
        code: str = "",
        call: Any = None,
        *,
        level: int = logging.WARNING,
    ) -> None:
        """`what` says what has happened to which code of the object; `code` and `call` are the name of the method and the id of
        the call, where it was one."""
        self.failures += 1
        kind = (object_id.class_name, f"{code} {what}", name_of(error), *place_of(error))
        line = f"{what}: {kind[2]}: {text_of(error)}"
        self._wrong.keep(object_id, "error", line, code)
        speaker = Speaker(str(object_id), code, call)
        if not self._is_due(kind, line, level, speaker):
            return
        traceback = ""
        if kind not in self._known:
            if len(self._known) >= LOGGED_KINDS_MAX:
                del self._known[next(iter(self._known))]
            self._known[kind] = None
            traceback = plain(app_traceback(error))
        self.say(level, "%s", line, speaker=speaker, traceback=traceback)

    def was_cut_short(self, object_id: ObjectId, what: str, reason: str, code: str) -> None:
        """As `failed`, of code that has raised nothing: its object was reset while it ran."""
        self.failures += 1
        line = f"{what}: {reason}"
        self._wrong.keep(object_id, "error", line, code)
        speaker = Speaker(str(object_id), code)
        if self._is_due((object_id.class_name, f"{code} {what}", "", "", 0), line, logging.WARNING, speaker):
            self.say(logging.WARNING, "%s", line, speaker=speaker)

    def was_reset(self, object_id: ObjectId, line: str) -> None:
        """One kind for each class, whatever the reason: what is reset by each call writes no more than what raises in each."""
        speaker = Speaker(str(object_id))
        self._wrong.keep(object_id, "reset", line)
        if self._is_due((object_id.class_name, "reset", "", "", 0), line, logging.WARNING, speaker):
            self.say(logging.WARNING, "%s", line, speaker=speaker)

    def warn_of(self, object_id: ObjectId, line: str) -> None:
        """As often as it is called."""
        self.say(logging.WARNING, "%s", line, speaker=Speaker(str(object_id)))

    def was_slow(self, object_id: ObjectId, code: str, call: Any, line: str) -> None:
        """One kind for each method."""
        self._say_slow("slow", logging.INFO, object_id, code, call, line)

    def takes_long(self, object_id: ObjectId, code: str, call: Any, line: str) -> None:
        """The same of a call that is not over."""
        self._say_slow("long", logging.WARNING, object_id, code, call, line)

    def _say_slow(self, what: str, level: int, object_id: ObjectId, code: str, call: Any, line: str) -> None:
        self._slow.keep(object_id, "slow", line, code)
        speaker = Speaker(str(object_id).removesuffix("/"), code, call)
        if self._is_due((object_id.class_name, what, code, "", 0), line, level, speaker):
            self.say(level, "%s", line, speaker=speaker)

    def newest(self, object_id: ObjectId) -> list[dict[str, Any]]:
        """What went wrong with one object lately, or was slow, the newest first."""
        both = merge(self._wrong.of(object_id), self._slow.of(object_id), key=lambda each: each.time_ms, reverse=True)
        return [each.told() for each in both]

    def newest_errors(self, count: int) -> list[dict[str, Any]]:
        """What went wrong with any object lately, the newest first: at most so many."""
        newest = nlargest(count, self._wrong.all(), key=lambda item: item[0].time_ms)
        return [{"class": of.class_name, "name": of.name, **each.told()} for each, of in newest]

    def _is_due(self, kind: Kind, line: str, level: int, speaker: Speaker) -> bool:
        """Whether a line of this kind may be written now; else it is counted."""
        if kind not in self._open and len(self._open) >= LOGGED_KINDS_MAX:
            kind = _REST
        window = self._open.get(kind)
        if window is not None:
            window.silent += 1
            window.last, window.speaker = line, speaker
            return False
        self._open[kind] = _Window(level, self._loop.time() + LOGGED_KINDS_S)
        if self._timer is None:
            self._timer = self._loop.call_later(LOGGED_KINDS_S, self._close_windows, context=NEUTRAL)
        return True

    def _close_windows(self) -> None:
        self._timer = None
        now_s = self._loop.time() + LOGGED_KINDS_S / 10  # Timers may fire a little early.
        for kind, window in list(self._open.items()):
            if now_s < window.until_s:
                continue
            if not window.silent:
                del self._open[kind]
                continue
            text = "%s (%d of this kind since the last line)"
            self.say(window.level, text, window.last, window.silent, speaker=window.speaker)
            window.silent = 0
            window.width_s = min(window.width_s * 2, LOGGED_KINDS_S_MAX)
            window.until_s = now_s + window.width_s
        if self._open:
            self._timer = self._loop.call_later(LOGGED_KINDS_S, self._close_windows, context=NEUTRAL)

    def say(self, level: int, text: str, *args: Any, speaker: Speaker | None = None, traceback: str = "") -> None:
        log = self._log
        try:
            if log.isEnabledFor(level):
                record = log.makeRecord(log.name, level, "", 0, text, args, None)
                record.tidegate = speaker
                record.exc_text = traceback or None
                log.handle(record)
        except BaseException:  # A handler or filter of the app.
            pass

    def warning(self, text: str, *args: Any) -> None:
        self.say(logging.WARNING, text, *args)

    def error(self, text: str, *args: Any) -> None:
        self.say(logging.ERROR, text, *args)
