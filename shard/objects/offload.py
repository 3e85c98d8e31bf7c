"""`self.offload`: a function in another process, so that what computes for long holds up nobody.

Guarantee: arguments are taken at the call; the result comes back through the input gate, as whatever an object waits for.
The processes have nothing of the service (see `worker/forks`), run on all cores behind the workers, and end with their worker.
A function that takes longer than its bound is killed with its process, and with nothing else: the next one gets a new process.

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
from typing import Any

from tidegate.runtime.errors import Overloaded
from tidegate.runtime.limits import OFFLOADED_MAX
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
            self.result.set_exception(error)
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
            done = self._process().submit(run_packed, job.work)
        except BrokenProcessPool:  # It has ended since: of this function nothing has been done.
            self.kill()
            done = self._process().submit(run_packed, job.work)
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

    def _hand_over(self, job: _Job, timer: asyncio.TimerHandle, done: Future[Any]) -> None:
        """In any thread."""
        try:
            self._loop.call_soon_threadsafe(self._ended, job, timer, done, context=NEUTRAL)
        except RuntimeError:  # The loop is closed: the worker ends.
            pass

    def _ended(self, job: _Job, timer: asyncio.TimerHandle, done: Future[Any]) -> None:
        timer.cancel()
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(error, BrokenProcessPool):
            self.kill()
            error = self._killed(job.name) if self._late else _ended_by_itself(job.name)
        job.settle(error, done.result() if error is None else None)
        self._freed(self)

    def _killed(self, name: str) -> TimeoutError:
        return TimeoutError(f"offload: {name} was not done after {self._bound_s:g} s and was killed ([service] offload_s)")


_ADVICE = "give it a function of a module and plain values"


def _ended_by_itself(name: str) -> RuntimeError:
    return RuntimeError(f"offload: the process that ran {name} ended: what it did is unknown")


def packed(function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[str, bytes]:
    """The name of the function, and what `run_packed` takes. Raises TypeError for what cannot be sent to another process."""
    name = getattr(function, "__qualname__", repr(function))
    try:
        return name, bytes(ForkingPickler.dumps((function, args, keywords)))
    except Exception as exc:
        raise TypeError(f"offload: {name} or its arguments cannot be sent to another process: {exc}; {_ADVICE}") from exc


def run_packed(work: bytes) -> Any:
    function, args, keywords = ForkingPickler.loads(work)
    return function(*args, **keywords)
