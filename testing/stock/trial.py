"""One run of a script: objects begin anew, its calls are made one after another, and mishaps happen where the schedule says so.

Guarantee: the same script and the same deviations give the same run; chance and time are part of it. A call that was cut off,
so that nobody knows whether it has run, is made once more, as its caller would.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tidegate.runtime.wire.exceptions import text_of
from tidegate.shard.objects.methods import ObjectClass
from tidegate.testing.chance import fixed_chance
from tidegate.testing.clock import START
from tidegate.testing.exploration import Exploration, tells_of_mishap
from tidegate.testing.objects import Objects
from tidegate.testing.schedule import Deviations, Point, Schedule
from tidegate.testing.service import NeverEnds
from tidegate.testing.stock.comparison import plain
from tidegate.testing.stock.scripts import Ask, Pause, Step

EVERY_S = 1.0
"""A call, and time between it and the next."""
END_S = 4_000.0
"""What passes at the end, so that alarms have rung; no whole number of minutes, beside which a moment would make a difference."""
TIMEOUT_S = 60.0
ASKED_AGAIN_MAX = 5
WORKERS = 3
CUT_OFF = "cut off"
TURNS_MAX = 5_000
"""Of all processes in a run, where that is bounded: an alarm each minute fits, one each second does not."""


class TooMuch(Exception):
    """So much happens in the time of a run that few of them could be made."""


class Manner(NamedTuple):
    """How a run goes where nothing is said of it."""

    chance: str = "one"
    late_s: float = 0.0
    """So much later everything begins, and so is all that is told of the time."""
    pace: float = 1.0
    """Of the time that passes."""


class Outcome(NamedTuple):
    answers: list[Any]
    """By step; None for time that passes. `[True, result]`, or `[False, what was raised]`."""
    stored: dict[str, dict[str, Any]]
    """By object, of all that have stored something."""
    cut_off: int | None
    """The step whose call was, and was made once more."""
    schedule: Schedule
    timeline: list[str]
    troubles: list[str]

    @property
    def told(self) -> dict[str, Any]:
        """What is compared."""
        return {"answers": self.answers, "stored": self.stored}

    @property
    def mishaps(self) -> list[Point]:
        return self.schedule.taken


class Trial:
    """Of the classes of an app. `together`: a step whose call is made at the same time as that of the next one."""

    def __init__(self, classes: Sequence[ObjectClass]) -> None:
        self._classes = [each.cls for each in classes]
        self._exploration = Exploration(0, crashes=1, evictions=False, failures=True, delays=False, workers=WORKERS)
        self._exploration.all_reads_wait = True  # A crash finds what they tear in two.

    def run(
        self, steps: Sequence[Step], manner: Manner, deviations: Deviations | None = None, *, together: int | None = None,
        timeline: bool = False, bounded: bool = False,
    ) -> Outcome:  # fmt: skip
        """Raises TooMuch, where it is bounded."""
        start = START + datetime.timedelta(seconds=manner.late_s)
        objects = Objects(start=start, idle_evict=10 * 365 * 86_400.0)
        schedule = Schedule(deviations or {})
        objects.begin(schedule, self._exploration, timeline=timeline)
        objects.http.otherwise = {}
        objects.serve(*self._classes)
        play = _Play(objects, steps, manner, together, TURNS_MAX if bounded else math.inf)
        try:
            with fixed_chance(manner.chance):
                try:
                    objects.run(play.go())
                except NeverEnds as error:
                    play.troubles.append(str(error))
            return Outcome(
                [plain(answer) for answer in play.answers], plain(_stored(objects)), play.cut_off, schedule, objects.timeline,
                [*play.troubles, *objects.troubles],
            )  # fmt: skip
        finally:
            objects.abandon()


def _stored(objects: Objects) -> dict[str, dict[str, Any]]:
    found = {target: dict(rows) for target, rows in objects.stored_by_all().items() if rows}
    for alarm in objects.alarms():
        found.setdefault(f"{alarm.class_name}/{alarm.name}", {})["(its alarm)"] = "is set"
    return dict(sorted(found.items()))


class _Play:
    def __init__(self, objects: Objects, steps: Sequence[Step], manner: Manner, together: int | None, turns_max: float) -> None:
        self._objects = objects
        self._steps = steps
        self._manner = manner
        self._together = together
        self._turns_max = turns_max
        self.answers: list[Any] = [None] * len(steps)
        self.cut_off: int | None = None
        self.troubles: list[str] = []

    async def go(self) -> None:
        began = self._objects.clock.now
        due_s, at = 0.0, 0
        while at < len(self._steps):
            step = self._steps[at]
            due_s += step.seconds if isinstance(step, Pause) else EVERY_S
            await self._pass(began, due_s)
            if at == self._together:
                await asyncio.gather(self._answer(at), self._answer(at + 1))
                at += 1
            elif isinstance(step, Ask):
                await self._answer(at)
            at += 1
            self._between(at)
        await self._pass(began, due_s + END_S)

    async def _pass(self, began: datetime.datetime, due_s: float) -> None:
        """Until so long after the beginning; a run that has lost a moment catches up."""
        clock = self._objects.clock
        when = began + datetime.timedelta(seconds=due_s * self._manner.pace)
        if self._turns_max < math.inf:
            await self._pass_with_care(when)
        await clock.advance_to(max(when, clock.now))

    async def _pass_with_care(self, when: datetime.datetime) -> None:
        """In parts that grow, so that it is seen soon how much happens in an hour."""
        clock, part = self._objects.clock, datetime.timedelta(seconds=1)
        while clock.now + part < when:
            await clock.advance_to(clock.now + part)
            part *= 2
            if self._objects.turns > self._turns_max:
                raise TooMuch

    def _between(self, step: int) -> None:
        """What may happen between two calls."""
        if self._objects.explored(f"everything leaves memory after step {step}"):
            self._objects.evict()
        if self._objects.explored(f"all workers crash after step {step}, when nothing is under way", is_crash=True):
            self._objects.crash()

    async def _answer(self, at: int) -> None:
        ask = self._steps[at]
        assert isinstance(ask, Ask)
        for _ in range(ASKED_AGAIN_MAX):
            try:
                made = self._objects(ask.class_name, ask.name, timeout=TIMEOUT_S)
                self.answers[at] = [True, await getattr(made, ask.method)(*ask.args, **ask.kwargs)]
                return
            except Exception as error:
                if not tells_of_mishap(error):
                    self.answers[at] = [False, f"{type(error).__name__}: {text_of(error)}"]
                    return
                self.cut_off = at
        self.answers[at] = [False, CUT_OFF]
