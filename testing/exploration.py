"""`@explore`: one test under many schedules.

Guarantee: each run begins with nothing stored. A run fails if the test does; one that ends in an error which only tells of a
mishap (a worker that crashed in the middle of a call) says nothing of the app, and is counted as cut short. Of those that fail
the shortest is told, with what happened in it, and with the seed that runs it again.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sysconfig
import traceback
import zlib
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from tidegate.runtime.errors import CallError, MethodRaised
from tidegate.testing.schedule import Deviations, Schedule, Search, deviations_of, seed_of, shortest

if TYPE_CHECKING:
    from tidegate.testing.objects import Objects

TestT = TypeVar("TestT", bound=Callable[..., Coroutine[Any, Any, None]])
SCHEDULES = 300
WORKERS = 3
SHRINKING_TRIES = 200
OF_MISHAPS = frozenset({"shard_lost", "interrupted", "object_reset", "unavailable", "moved", "start_failed"})
"""Codes of errors that a crash or a failed commit may cause."""
MISHAP_TYPES = frozenset({"ShardLost", "Interrupted", "ObjectReset", "Unavailable", "Moved", "StartFailed"})


_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = (os.path.join(_PYTHON, "site-packages") + os.sep, os.path.join(_PYTHON, "dist-packages") + os.sep)
Test = Callable[[], Coroutine[Any, Any, None]]


def tells_of_mishap(error: BaseException) -> bool:
    """Whether it says no more than that a call was cut off: its outcome is not known."""
    if isinstance(error, MethodRaised):
        return error.type.rpartition(".")[2] in MISHAP_TYPES
    return isinstance(error, CallError) and error.code in OF_MISHAPS


def place_of(error: BaseException) -> tuple[type[BaseException], str, int]:
    """What was raised, and which line of the test, or of what it uses, has raised it: by that a failure is told from another."""
    file, line = "", 0
    for frame, number in traceback.walk_tb(error.__traceback__):
        name, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        is_python = name.startswith(_PYTHON) and not name.startswith(_INSTALLED)
        if not is_python and not name.startswith(_OURS) and not module.startswith("_pytest."):
            file, line = name, number
    return type(error), file, line


class Exploration:
    """How a test is explored, and what came of it."""

    def __init__(
        self, schedules: int, crashes: int, evictions: bool, failures: bool, delays: bool, workers: int | None = None
    ) -> None:
        self.schedules = schedules
        self.crashes = crashes
        self.evictions = evictions
        self.failures = failures
        self.delays = delays
        self.all_reads_wait = False
        """For the disk, where they may: no part of the schedule."""
        self.workers = workers or WORKERS
        self._said_workers = workers
        self.cut_short = 0
        self.search: Search | None = None
        self.fails_by: Callable[[BaseException], bool] = lambda error: False
        """Whether that, which is no Exception, is how a test says that it fails."""

    def mark(self, workers: int | None) -> str:
        """What the mark of the test says. Returns what is wrong with it."""
        if workers is not None and self._said_workers not in (None, workers):
            said = f"@explore(workers={self._said_workers}) and @pytest.mark.tidegate(workers={workers})"
            return f"{said} contradict each other: leave one of them out"
        self.workers = self._said_workers or workers or WORKERS
        return ""

    def run(self, objects: Objects, test: Test, name: str, seed: str | None) -> None:
        """`objects` begins anew before each run. Raises what the test raises, with a note that tells of the run."""
        self.cut_short = 0
        self.search = None
        if seed is not None:
            self._tell(objects, test, deviations_of(seed))
            return
        search = self.search = Search(self.schedules, Random(zlib.crc32(name.encode())))
        for schedule in search.schedules():
            error = self._error(objects, test, schedule)
            if error is not None:
                self._tell(objects, test, self._shortest(objects, test, schedule.effective, error))
                raise error  # It fails no more: whatever it depends on is no part of the schedule.

    def _shortest(self, objects: Objects, test: Test, deviations: Deviations, first: BaseException) -> Deviations:
        place, cut_short = place_of(first), self.cut_short

        def fails(candidate: Deviations) -> bool:
            error = self._error(objects, test, Schedule(candidate))
            return error is not None and place_of(error) == place

        try:
            return shortest(deviations, fails, SHRINKING_TRIES)
        finally:
            self.cut_short = cut_short  # Of those that were tried to find out.

    def _error(self, objects: Objects, test: Test, schedule: Schedule) -> BaseException | None:
        objects.begin(schedule, self)
        try:
            objects.run(test())
            objects.check()
        except BaseException as exc:
            if not self.is_failure(exc):
                raise
            if schedule.taken and tells_of_mishap(exc):
                self.cut_short += 1
                return None
            return exc
        return None

    def is_failure(self, error: BaseException) -> bool:
        """Of the test, and no more. What skips it or ends the run is not: that goes on."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self.is_failure, error.exceptions))
        return isinstance(error, Exception | asyncio.CancelledError) or self.fails_by(error)

    def _tell(self, objects: Objects, test: Test, deviations: Deviations) -> None:
        schedule = Schedule(deviations)
        objects.begin(schedule, self, timeline=True)
        try:
            objects.run(test())
            objects.check()
        except BaseException as exc:
            if self.is_failure(exc):
                exc.add_note(self._story(objects, schedule))
            raise

    @staticmethod
    def _story(objects: Objects, schedule: Schedule) -> str:
        seed = seed_of(schedule.effective)
        happened = [f"  {point.label}" for point in schedule.taken] or ["  nothing out of the ordinary"]
        return "\n".join(
            [
                f"tidegate: run it again by --tidegate-seed={seed}",
                "tidegate: the shortest schedule that was found differs from the natural one in:",
                *happened,
                "tidegate: what happened:",
                *(f"  {line}" for line in objects.timeline),
            ]
        )

    @property
    def summary(self) -> str:
        if self.search is None:
            return "one schedule, by its seed"
        every = ", which are all there are" if self.search.exhausted else ""
        short = f"; {self.cut_short} were cut short by a mishap" if self.cut_short else ""
        return f"{self.search.distinct or self.search.runs} schedules{every}{short}"


def explore(
    *,
    schedules: int = SCHEDULES,
    crashes: bool | int = True,
    evictions: bool = True,
    failures: bool = False,
    delays: bool = True,
    workers: int | None = None,
) -> Callable[[TestT], TestT]:
    """`@explore()` runs an `async def` test that takes the fixture `objects` under many schedules: calls and replies that are
    late and overtake those of others, commits that take a while, objects that leave memory after a call, and up to `crashes`
    crashes (True: one), at each point there is. All schedules that differ from the natural one at one point are tried first,
    then at more, then near those that bring new points, then drawn ones, `schedules` in all. Calls of the test are tried again
    after a crash, as those of clients are.

    `failures`: commits fail, too. `workers`: processes, each with a part of the objects; without it as many as the test's mark
    `tidegate(workers=...)` says, or three. Raises ValueError for less than one schedule or worker, and TypeError for what is no
    `async def`."""
    if schedules < 1 or (workers is not None and workers < 1):
        raise ValueError(f"to explore takes a schedule and a worker at least, not schedules={schedules}, workers={workers}")

    def mark(test: TestT) -> TestT:
        if not inspect.iscoroutinefunction(test):
            raise TypeError(f"@explore() is for an `async def` test that takes the fixture `objects`, and not for {test!r}")
        test.tidegate_exploration = Exploration(  # type: ignore[attr-defined]  # where the plugin looks
            schedules, int(crashes), evictions, failures, delays, workers
        )
        return test

    return mark
