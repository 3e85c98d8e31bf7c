"""Makes lines of one process and hands them on.

Guarantee: a line is taken at any time, from any thread; nothing is raised, whatever its parts are.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Protocol

from tidegate.runtime.logs.forms import Form
from tidegate.runtime.logs.line import Line, Speaker


class Takes(Protocol):
    def write(self, data: bytes) -> None: ...


class _Stamps:
    """Times as the lines have them. Seconds and zone are worked out once a second."""

    def __init__(self) -> None:
        self._known = (-1, "", "")
        """A second, and what stands before and after its fractions. Read and written as one: there are threads."""
        self._last = (-1, "")
        """A millisecond and its text: lines come in bursts. Likewise."""

    def of(self, time_s: float) -> str:
        at_ms = int(time_s * 1_000)
        last_ms, last = self._last
        if at_ms == last_ms:
            return last
        second = at_ms // 1_000
        known, before, after = self._known
        if second != known:
            local = time.localtime(second)
            zone = time.strftime("%z", local)
            before, after = time.strftime("%Y-%m-%dT%H:%M:%S.", local), f"{zone[:3]}:{zone[3:]}"
            self._known = second, before, after
        text = f"{before}{at_ms % 1_000:03d}{after}"
        self._last = at_ms, text
        return text


_stamp = _Stamps().of


class _Own:
    pid = os.getpid()


_own = _Own()
os.register_at_fork(after_in_child=lambda: setattr(_own, "pid", os.getpid()))
_LEVELS = {number: name.lower() for name, number in logging.getLevelNamesMapping().items() if name not in ("WARN", "FATAL")}


def level_name(level: int) -> str:
    """Of the five that there are, the one below it: an app may have levels of its own."""
    name = _LEVELS.get(level)
    if name is not None:
        return name
    return max(((number, name) for number, name in _LEVELS.items() if logging.DEBUG <= number <= level), default=(0, "debug"))[1]


class LineWriter:
    __slots__ = ("_made_here", "form", "process", "sink")

    def __init__(self, sink: Takes, form: Form, process: str, *, made_here: bool = True) -> None:
        self.sink = sink
        self.form = form
        self.process = process
        """As the lines name it."""
        self._made_here = made_here

    def line(
        self,
        level: int,
        logger: str,
        text: str,
        speaker: Speaker | None = None,
        traceback: str = "",
        extra: dict[str, Any] | None = None,
        time_s: float | None = None,
    ) -> bytes:
        stamp = _stamp(time.time() if time_s is None else time_s)
        line = Line(
            stamp, _LEVELS.get(level) or level_name(level), self.process, logger, text, _own.pid if self._made_here else 0
        )
        if speaker is not None:
            line.object, line.method, line.call = speaker
        if traceback:
            line.traceback = traceback
        if extra:
            line.extra = extra
        return self.form(line)

    def say(self, level: int, logger: str, text: str, speaker: Speaker | None = None, *more: Any) -> None:
        """As `line` takes them."""
        self.sink.write(self.line(level, logger, text, speaker, *more))

    def named(self, process: str) -> LineWriter:
        """To the same place, for what another process has written."""
        return LineWriter(self.sink, self.form, process, made_here=False)
