"""Event loops in virtual time: several processes in one thread, and nothing ever sleeps.

Guarantee: the same seed runs the same callbacks in the same order. Time stands still while code runs and then jumps to the
next timer, message or completion; processes that are runnable at the same instant take turns as the seed says, or, without one,
in a fixed order: each has done all that it can do at this instant before the next one goes on.

A process that blocks (a sync on its loop thread) is one whose loop does not run until later: `spend`. Helper threads are
functions that run at one instant and whose completion is reported at a later one.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import heapq
import itertools
from asyncio import events
from collections.abc import Callable
from random import Random
from typing import Any

from tidegate.shard.loop.callbacks import with_gated_callbacks
from tidegate.shard.loop.task import settable
from tidegate.shard.loop.transports import with_gated_transports
from tidegate.testing.connections import ConnectedLoop

RESOLUTION_S = 1e-9
"""Timers nearer to each other than this are due together."""
PASSES_MAX = 1_000
"""Of one process after another, where there is an order, before it is looked at the others."""


class VirtualTime:
    """The clock of everybody, and what happens when."""

    def __init__(self, random: Random | None = None) -> None:
        self.now = 0.0
        self.random = random
        self.moved: Callable[[], object] = lambda: None
        """Told when time has passed."""
        self.loops: list[ProcessLoop] = []
        self.running: ProcessLoop | None = None
        """The process whose code runs now."""
        self.turns = 0
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, function: Callable[..., object], *args: Any) -> None:
        """Something that happens outside all processes: a message arrives, a process is killed."""
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), function, args))

    def after(self, delay: float, function: Callable[..., object], *args: Any) -> None:
        self.at(self.now + delay, function, *args)

    @property
    def event_is_due(self) -> bool:
        return bool(self._events) and self._events[0][0] <= self.now + RESOLUTION_S

    def step(self, until: float) -> bool:
        """One turn of one process, or one event; False when there is nothing left before `until`."""
        if self.random is None and not self.event_is_due:
            for loop in self.loops:
                if loop.next_time() <= self.now + RESOLUTION_S:
                    loop.run_turn()
                    return True
        upcoming = [(loop.next_time(), loop) for loop in self.loops]
        soonest = min([when for when, _ in upcoming], default=float("inf"))
        if self._events:
            soonest = min(soonest, self._events[0][0])
        if soonest > until:
            self.now = max(self.now, until)
            return False
        if soonest > self.now:
            self.now = soonest
            self.moved()
        due = self.now + RESOLUTION_S
        runnable = [loop for when, loop in upcoming if when <= due]
        random = self.random
        if self.event_is_due and (not runnable or random is None or random.random() < 0.5):
            _, _, function, args = heapq.heappop(self._events)
            function(*args)
        elif random is None or len(runnable) == 1:
            runnable[0].run_turn()
        else:
            random.choice(runnable).run_turn()
        if random is not None:
            self.turns += 1
        return True

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        while not done() and self.step(until):
            pass

    def clock(self) -> float:
        """What a monotonic clock would say to the code that runs now."""
        return self.now if self.running is None else self.running.clock()


_GatedBaseLoop: Any = with_gated_transports(with_gated_callbacks(ConnectedLoop))


class ProcessLoop(_GatedBaseLoop):  # type: ignore[misc]  # made of any class
    """The loop of one process. It runs only by `VirtualTime`."""

    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[Any]

    def __init__(self, time: VirtualTime, failed: Callable[[str], None], process: Any = None, *, first: bool = False) -> None:
        """`failed` is told of exceptions that escape a callback. `first`: where there is an order, before those there are."""
        super().__init__()
        self.process = process
        self.alive = True
        self.blocked_until = 0.0
        self.after_turn: Callable[[], None] | None = None
        self._time = time
        self._helper_now: float | None = None
        self._readers: dict[int, asyncio.Handle] = {}
        self._signalled: dict[int, None] = {}
        self.set_exception_handler(lambda _, context: failed(_describe(context)))
        time.loops.insert(0 if first else len(time.loops), self)

    # Time

    def time(self) -> float:
        now, blocked_until = self._time.now, self.blocked_until
        return now if now > blocked_until else blocked_until

    def clock(self) -> float:
        return self.time() if self._helper_now is None else self._helper_now

    def spend(self, seconds: float) -> None:
        """The thread that runs now blocks: the loop's own, or a helper."""
        if self._helper_now is None:
            self.blocked_until = self.time() + seconds
        else:
            self._helper_now += seconds

    def next_time(self) -> float:
        """When there is something to run; infinity when there is not."""
        if self._ready or any(fd in self._readers for fd in self._signalled):
            return self.blocked_until
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        return max(scheduled[0]._when, self.blocked_until) if scheduled else float("inf")

    def timers(self) -> list[Any]:
        """Handles of those that are pending."""
        return [timer for timer in self._scheduled if not timer._cancelled]

    # Running

    def run_turn(self) -> None:
        """What is due now, until the process blocks or dies."""
        due = self._time.now + RESOLUTION_S
        for fd in self._signalled:
            if fd in self._readers:
                self._ready.append(self._readers[fd])
        while self._scheduled and self._scheduled[0]._when <= due:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                self._ready.append(timer)
        self.enter()
        try:
            if self._time.random is not None:
                self._run_ready(due)
            else:  # In one go: to enter a loop is a system call.
                for _ in range(PASSES_MAX):
                    self._time.turns += 1
                    if not self._run_ready(due):
                        break
        finally:
            self.leave()
        if self.after_turn is not None and self.alive:
            self.after_turn()

    def _run_ready(self, due: float) -> bool:
        """What is ready, but for what that makes ready; whether there is more for this process to do at this instant."""
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
            if not self.alive or self.blocked_until > due or not ready:
                return False
        return not self._time.event_is_due

    def enter(self) -> None:
        self._time.running = self
        events._set_running_loop(self)

    def leave(self) -> None:
        self._time.running = None
        events._set_running_loop(None)

    def kill(self) -> None:
        """The process is gone: nothing of it runs again."""
        self.alive = False
        self._time.loops.remove(self)
        self._ready.clear()
        self._scheduled.clear()
        self._readers.clear()
        self._closed = True

    def _check_closed(self) -> None:
        """Code of a dead process that Python still finalizes may schedule what it likes."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are skipped when they are due."""

    # Sockets

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:
        self._readers[fd] = asyncio.Handle(callback, args, self, None)

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def signal(self, fd: int) -> None:
        """The descriptor is readable, until `calm`."""
        self._signalled[fd] = None

    def calm(self, fd: int) -> None:
        self._signalled.pop(fd, None)

    # Helper threads

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._time.at(self.clock() + self._handover_s(), self._hand_over, handle)
        return handle

    def _hand_over(self, handle: asyncio.Handle) -> None:
        if self.alive:
            self._ready.append(handle)

    def run_in_helper(self, function: Callable[[], object]) -> None:
        """A helper thread gets work. What it does takes effect at one instant; it reports by `call_soon_threadsafe`."""
        self._time.at(self.time() + self._handover_s(), self._help, function)

    def _help(self, function: Callable[[], object]) -> None:
        if not self.alive:
            return
        self._time.running = self
        self._helper_now = self._time.now
        try:
            function()
        finally:
            self._helper_now = None
            self._time.running = None

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            assert self._helper_now is not None
            self._helper_now += self._handover_s()
            try:
                value = function(*args)
            except BaseException as exc:
                self.call_soon_threadsafe(_settle, future, None, exc)
            else:
                self.call_soon_threadsafe(_settle, future, value, None)

        self.run_in_helper(work)
        return future

    def _handover_s(self) -> float:
        return self._time.random.randrange(1, 20) * 0.000_05 if self._time.random is not None else 0.0


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(settable(error))
    else:
        future.set_result(value)


def _describe(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}: {error!r}" if error is not None else str(context.get("message"))
