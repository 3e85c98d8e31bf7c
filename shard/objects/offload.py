"""`self.offload`: a function in another process, so that what computes for long holds up nobody.

Guarantee: arguments are taken at the call; the result comes back through the input gate, as whatever an object waits for.
The processes have nothing of the service (see `worker/forks`), run on all cores behind the workers, and end with their worker.
A function that takes longer than its bound is killed with its process, and with nothing else: the next one gets a new process.
Whatever a function returns or raises, whoever waits is answered: what cannot come back as itself is named in a RuntimeError.

Rule: nothing is started before the first use. Processes are forked, so that they know the app's modules as the worker does.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from traceback import format_exception
from typing import Any, NamedTuple

from tidegate.runtime.errors import Overloaded
from tidegate.runtime.limits import OFFLOADED_MAX
from tidegate.runtime.wire.exceptions import line_of
from tidegate.shard.loop.task import settable
from tidegate.shard.neutral import NEUTRAL

NICENESS = 5
"""How far the processes stand behind the workers where cores are short."""


class _Job:
    __slots__ = ("name", "result", "work")

    def __init__(self, name: str, work: bytes, result: asyncio.Future[Any]) -> None:
        self.name = name
        self.work = work
        self.result = result

    def settle(self, error: BaseException | None, result: Any = None) -> None:
        if self.result.done():
            return
        if error is None:
            self.result.set_result(result)
        else:
            self.result.set_exception(settable(error))
            self.result.exception()  # Retrieved: whoever asked may never look.


class Offload:
    """The processes of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, processes: int, bound_s: float) -> None:
        self._loop = loop
        self._processes = processes
        self._bound_s = bound_s
        self._seats: list[_Seat] = []
        self._free: list[_Seat] = []
        self._waiting: collections.deque[_Job] = collections.deque()

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Raises what `function` raises; TypeError for what cannot be sent to another process; Overloaded, also where the system
        has no process for it; TimeoutError if it took too long; RuntimeError if the process ended. If nobody waits any longer,
        what has begun goes on to its end."""
        name, work = packed(function, args, keywords)
        count = len(self._waiting) + len(self._seats) - len(self._free)
        if count >= OFFLOADED_MAX:
            raise Overloaded(f"{count} functions are offloaded by this worker and not done")
        job = _Job(name, work, self._loop.create_future())
        self._waiting.append(job)
        contextvars.Context().run(self._begin_waiting)  # A process, or a thread that looks after it, is no object's business.
        return await job.result

    def close(self) -> None:
        for seat in self._seats:
            seat.kill()

    def _begin_waiting(self) -> None:
        while self._waiting:
            if self._waiting[0].result.done():  # Whoever asked has been reset or cancelled.
                self._waiting.popleft()
            elif self._free or len(self._seats) < self._processes:
                seat = self._free.pop() if self._free else self._new_seat()
                job = self._waiting.popleft()
                try:
                    seat.begin(job)
                except (OSError, RuntimeError) as exc:
                    seat.kill()
                    self._free.append(seat)
                    job.settle(Overloaded(f"offload: {job.name} has not begun, there is no process for it: {exc}"))
            else:
                return

    def _new_seat(self) -> _Seat:
        seat = _Seat(self._loop, self._bound_s, self._freed)
        self._seats.append(seat)
        return seat

    def _freed(self, seat: _Seat) -> None:
        self._free.append(seat)
        self._begin_waiting()


class _Seat:
    """One process, for one function at a time. (A pool of several could not be told whose process to kill.)"""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound_s: float, freed: Callable[[_Seat], None]) -> None:
        self._loop = loop
        self._bound_s = bound_s
        self._freed = freed
        self._pool: ProcessPoolExecutor | None = None
        self._late = False

    def begin(self, job: _Job) -> None:
        """Raises OSError or RuntimeError if no process or thread can be started."""
        self._late = False
        try:
            done = self._process().submit(run_packed, job.name, job.work)
        except BrokenProcessPool:  # It has ended since: of this function nothing has been done.
            self.kill()
            done = self._process().submit(run_packed, job.name, job.work)
        timer = self._loop.call_later(self._bound_s, self._on_bound, context=NEUTRAL)
        done.add_done_callback(lambda done: self._hand_over(job, timer, done))

    def kill(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            processes = list((pool._processes or {}).values())  # `kill_workers` from Python 3.14 on.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()

    def _process(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=os.nice, initargs=(NICENESS,))
        return self._pool

    def _on_bound(self) -> None:
        self._late = True
        self.kill()

    def _hand_over(self, job: _Job, timer: asyncio.TimerHandle, done: Future[OffloadedResult]) -> None:
        """In any thread: to put a large result together takes its time."""
        try:
            error, result = unpacked(job.name, done.result())
        except BaseException as exc:  # Of the pool: what the function raised is in its outcome.
            error, result = exc, None
        try:
            self._loop.call_soon_threadsafe(self._ended, job, timer, done, error, result, context=NEUTRAL)
        except RuntimeError:  # The loop is closed: the worker ends.
            pass

    def _ended(
        self, job: _Job, timer: asyncio.TimerHandle, done: Future[OffloadedResult], error: BaseException | None, result: Any
    ) -> None:
        timer.cancel()
        try:
            if done.cancelled() or isinstance(done.exception(), BrokenProcessPool):
                self.kill()
                error = self._killed(job.name) if self._late else _ended_by_itself(job.name)
            job.settle(error, result)
        finally:
            self._freed(self)

    def _killed(self, name: str) -> TimeoutError:
        return TimeoutError(f"offload: {name} was not done after {self._bound_s:g} s and was killed ([service] offload_s)")


_ADVICE = "give it a function of a module and plain values"


def _ended_by_itself(name: str) -> RuntimeError:
    return RuntimeError(f"offload: the process that ran {name} ended: what it did is unknown")


class InOtherProcess(Exception):
    """What was raised there, as its traceback told it: the cause of what is raised here."""

    def __init__(self, story: str) -> None:
        super().__init__(f'\n"""\n{story}"""')


class OffloadedResult(NamedTuple):
    """What came of a function, as it travels: the pool unpickles nothing that an app has made, since it takes what fails there
    for the end of the process."""

    value: bytes
    """The result, or the exception, pickled."""
    raised: str = ""
    """What the exception says, for whoever cannot have it itself; empty of a result."""
    story: str = ""
    """The traceback of the exception."""


def packed(function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[str, bytes]:
    """The name of the function, and what `run_packed` takes. Raises TypeError for what cannot be sent to another process."""
    name = getattr(function, "__qualname__", repr(function))
    try:
        return name, bytes(ForkingPickler.dumps((function, args, keywords)))
    except Exception as exc:
        raise _unsendable(name, exc) from exc


def run_packed(name: str, work: bytes) -> OffloadedResult:
    """In the other process. Raises nothing."""
    try:
        try:
            function, args, keywords = ForkingPickler.loads(work)
        except Exception as exc:
            raise _unsendable(name, exc) from exc
        result = function(*args, **keywords)
    except BaseException as exc:
        return _of_error(name, exc)
    try:
        return OffloadedResult(bytes(ForkingPickler.dumps(result)))
    except Exception as exc:
        return _of_error(name, _lost(name, "", exc))


def unpacked(name: str, outcome: OffloadedResult) -> tuple[BaseException | None, Any]:
    """Where the function was offloaded: what it raised, or None and its result."""
    try:
        value = ForkingPickler.loads(outcome.value)
        if not outcome.raised:
            return None, value
        value.__cause__ = InOtherProcess(outcome.story)
        return value.with_traceback(None), None
    except BaseException as exc:  # Code of the app: a constructor with other arguments than those it has handed on.
        error = _lost(name, outcome.raised, exc)
        error.__cause__ = InOtherProcess(outcome.story) if outcome.story else exc
        return error, None


def _of_error(name: str, error: BaseException) -> OffloadedResult:
    raised, story = line_of(error), "".join(format_exception(error))
    try:
        value = bytes(ForkingPickler.dumps(error))
    except Exception as exc:
        value = bytes(ForkingPickler.dumps(_lost(name, raised, exc)))
    return OffloadedResult(value, raised, story)


def _lost(name: str, raised: str, error: BaseException) -> RuntimeError:
    what = f"raised {raised}, an exception" if raised else "returned a value"
    return RuntimeError(f"offload: {name} has {what} that cannot come back from another process: {line_of(error)}")


def _unsendable(name: str, error: Exception) -> TypeError:
    return TypeError(f"offload: {name} or its arguments cannot be sent to another process: {error}; {_ADVICE}")
