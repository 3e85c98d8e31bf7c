"""The clock of a test: virtual time, which jumps from one thing that happens to the next.

Guarantee: what is due while time passes happens in its order, each at its own instant, and all of it before `advance` returns.
While a test runs, `time.time()`, `time.monotonic()` and, where time-machine is installed, `datetime.now()` tell virtual time.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import re
import time
import warnings
from collections.abc import Callable, Generator
from types import BuiltinFunctionType
from typing import Any

from tidegate.runtime.extras import how_to_install
from tidegate.testing.virtual_loop import VirtualTime

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
"""When each test begins."""
Duration = str | float | datetime.timedelta
"""`"30d"`, `"1h 30m"`, `"250ms"`; a number is seconds."""

_UNITS_S = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000_001}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|us|[wdhms])")


def seconds_of(duration: Duration) -> float:
    """Raises ValueError or TypeError for what is no duration."""
    if isinstance(duration, datetime.timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        seconds, at = 0.0, 0
        while (part := _PART.match(duration, at)) is not None:
            seconds, at = seconds + float(part[1]) * _UNITS_S[part[2]], part.end()
        if not at or duration[at:].strip():
            raise ValueError(f'{duration!r} is no duration; write "30d", "1h 30m", "250ms" (w, d, h, m, s, ms, us)')
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        seconds = float(duration)
    else:
        raise TypeError(f'a duration is a text like "30d", a number of seconds or a timedelta, not {duration!r}')
    if not 0 <= seconds < math.inf:
        raise ValueError(f"time does not run backwards, and not for ever: {duration!r}")
    return seconds


class Advance:
    """`await` it, and time has passed."""

    def __init__(self, what: str, seconds: Callable[[], float], over: Callable[[Advance], object]) -> None:
        self.what = what
        self._seconds = seconds
        self._over = over

    def __await__(self) -> Generator[Any, None, None]:
        self._over(self)
        return asyncio.sleep(self._seconds()).__await__()


class Clock:
    """The time of a test. It begins at 2026-01-01 00:00 UTC and stands still while code runs."""

    def __init__(self, virtual: VirtualTime, start: datetime.datetime = START) -> None:
        if start.tzinfo is None:
            raise ValueError(f"the start of the clock is an aware datetime, not {start!r}: give it a tzinfo")
        self._virtual = virtual
        self._start = start.astimezone(datetime.UTC)
        self._start_ns = round(self._start.timestamp()) * 1_000_000_000
        self._unawaited: list[Advance] = []

    @property
    def now(self) -> datetime.datetime:
        """The time it is, in UTC."""
        return self._start + datetime.timedelta(microseconds=round(self._virtual.now * 1e6))

    @property
    def now_ns(self) -> int:
        """Unix time in nanoseconds, of the process whose code runs."""
        return self._start_ns + round(self._virtual.clock() * 1e6) * 1_000

    def advance(self, duration: Duration) -> Advance:
        """`await objects.clock.advance("30d")`: so much time passes. Timers and alarms that are due meanwhile go off in their
        order, each at its own time, and what they start has been done as far as it goes. Raises ValueError or TypeError for what
        is no duration."""
        seconds = seconds_of(duration)
        return self._pass(f"clock.advance({duration!r})", lambda: seconds)

    def advance_to(self, when: datetime.datetime) -> Advance:
        """The same until that time. Raises ValueError for one that has passed, and for a naive datetime."""
        if when.tzinfo is None:
            raise ValueError(f"{when!r} is naive: give it a tzinfo")
        if when < self.now:
            raise ValueError(f"it is {self.now}, and time does not run backwards to {when}")
        return self._pass(f"clock.advance_to({when})", lambda: max(0.0, (when - self.now).total_seconds()))

    def _pass(self, what: str, seconds: Callable[[], float]) -> Advance:
        passing = Advance(what, seconds, self._unawaited.remove)
        self._unawaited.append(passing)
        return passing

    def problems(self) -> list[str]:
        """What was forgotten, at the end of a test."""
        return [f"{passing.what} was not awaited: no time has passed; write `await`" for passing in self._unawaited]


class WallClock:
    """While it is entered, the clocks of Python tell virtual time."""

    def __init__(self, clock: Clock, virtual: VirtualTime) -> None:
        self._clock = clock
        self._virtual = virtual
        self._traveller: Any = None
        self._travel: Any = None
        self._shown_ns = 0
        self._kept: dict[str, Any] = {}

    def __enter__(self) -> WallClock:
        clock, virtual = self._clock, self._virtual
        told: dict[str, Any] = {"monotonic": virtual.clock, "monotonic_ns": lambda: round(virtual.clock() * 1e9)}
        travel = _time_machine()
        if travel is not None:
            self._shown_ns = clock.now_ns
            self._travel = travel(clock.now_ns / 1e9, tick=False)
            self._traveller = self._travel.start()
            virtual.moved = self._moved
        else:
            told |= {"time": lambda: clock.now_ns / 1e9, "time_ns": lambda: clock.now_ns}
            virtual.moved = _warn_once
        for name, function in told.items():
            self._kept[name] = getattr(time, name)
            setattr(time, name, function)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._virtual.moved = lambda: None
        for name, function in self._kept.items():
            setattr(time, name, function)
        if self._travel is not None:
            self._travel.stop()

    def _moved(self) -> None:
        now_ns = self._clock.now_ns
        self._traveller.shift(datetime.timedelta(microseconds=(now_ns - self._shown_ns) // 1_000))
        self._shown_ns = now_ns


def _time_machine() -> Any:
    """None where it is not installed, and where somebody else has replaced the clock: it looks into a C function."""
    if not isinstance(time.time, BuiltinFunctionType):
        return None
    try:
        import time_machine
    except ImportError:
        return None
    return time_machine.travel


_warned: list[bool] = []


def _warn_once() -> None:
    if not _warned:
        _warned.append(True)
        text = (
            "time has passed in a test, but `datetime.now()` tells the real time in it; time-machine makes it tell that of the "
            f"test: {how_to_install('tidegate[testing]')}"
        )
        warnings.warn(text, stacklevel=2)
