"""Callbacks that object code schedules: they pass the object's input gate as its tasks do.

Guarantee: a callback that code of an object gives to `call_soon`, `call_later`, `call_at`, `call_soon_threadsafe` or
`add_done_callback` is delivered only when the gate lets it in, in the critical section in which it was scheduled; at once where
the gate is open. One that was cancelled is not delivered, and neither is one of an object that was reset or evicted, but for
those by which its tasks clean up. What a callback raises is logged with the object's name and harms nothing else.

Delivered directly, past the gate:
* what asyncio, uvloop and the runtime schedule for themselves (the end of a sleep, a timeout, a wake-up): it completes futures
  and cancels tasks, and whoever waits for those passes the gate;
* what a library schedules outside of object code, out of the protocol of a connection: nobody knows for whom it does that, and
  an object that waits for the connection in a critical section would wait for ever;
* what a library has scheduled in an object that is gone: it may serve others, as the timers of a shared connection pool do.

A pending callback keeps its object in memory, but for no longer than TIMERS_KEEP_S after a call or a task has scheduled one. So
neither a chain of timers nor those that a library keeps for its connections do that for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial
from types import FunctionType
from typing import Any, ClassVar, Final

from tidegate.runtime.limits import OBJECT_CALLBACKS_MAX, TIMERS_KEEP_S
from tidegate.runtime.logs.line import Speaker
from tidegate.shard.core.input_gate import Section
from tidegate.shard.loop.context import CURRENT, LIFE, SECTION, Owner, kept_for, keyed_in
from tidegate.shard.loop.cpython import END_OF_SLEEP
from tidegate.shard.loop.libraries import is_library, is_plumbing, plumbing, runs_object_code, task_of
from tidegate.shard.loop.places import SPEAKER, Runs, enters, name_of_code, speak_in, speaker
from tidegate.shard.neutral import NEUTRAL

NOTHING: Final = object()


class GatedCallback:
    """A scheduled callback, and the handle by which it is cancelled: an `asyncio.Handle`, or a `TimerHandle` with `when`."""

    __slots__ = (
        "_args",
        "_arrived",
        "_callback",
        "_cancelled",
        "_cleans_up",
        "_context",
        "_handle",
        "_owner",
        "_section",
        "_when",
    )

    running_for: ClassVar[Owner | None] = None
    """The object whose code runs now, if it is in no task: in a callback, or in `__init__`."""

    def __init__(
        self,
        owner: Owner,
        section: Section,
        callback: Callable[..., object],
        args: Any,
        context: Context,
        *,
        cleans_up: bool = False,
    ) -> None:
        """`cleans_up`: code of an object that has been reset has scheduled it; it runs while a task of that object is left."""
        self._owner = owner
        self._cleans_up = cleans_up
        self._section = section
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._context = context
        kept_for(context)
        self._handle: Any = None
        self._when: float | None = None
        self._arrived = False
        self._cancelled = False

    def scheduled(self, handle: Any, when: float | None = None) -> GatedCallback:
        """`handle` is the loop's, for `arrive`. Raises RuntimeError for a timer of an object that has very many."""
        self._handle = handle
        self._when = when
        owner = self._owner
        if is_gone(owner, self._context):
            return self
        if when is not None and len(owner.callbacks) >= OBJECT_CALLBACKS_MAX:
            handle.cancel()
            raise RuntimeError(
                f"{owner.id} has {len(owner.callbacks):,} timers and callbacks pending, and can set no more: cancel some first"
            )
        if GatedCallback.running_for is not owner:
            owner.kept_until_s = owner.host.loop.time() + TIMERS_KEEP_S
        owner.add_callback(self)
        return self

    # What a handle offers

    def cancel(self) -> None:
        self._cancelled = True
        self._handle.cancel()
        self._forget()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        if self._when is None:
            raise AttributeError("only what call_later and call_at return has a time")
        return self._when

    def get_context(self) -> Context:
        return self._context

    # Delivery

    def arrive(self) -> None:
        """Its time has come."""
        owner = self._owner
        self._arrived = True
        if is_gone(owner, self._context):
            if (self._cleans_up and owner.broken is not None and owner.tasks) or outlives(self._callback, owner):
                self._run()
            else:
                self._forget()
        elif owner.gate.passes(self._section):
            owner.host.turn.end_soon()
            self.deliver()
        else:
            owner.gate.wait(self._section, self)

    def deliver(self) -> None:
        """The gate lets it in."""
        owner = self._owner
        now_s = owner.host.loop.time()
        if now_s < owner.kept_until_s:
            owner.last_used_s = now_s
        GatedCallback.running_for = owner
        keyed = keyed_in(self._context)
        try:
            if keyed is None:
                self._run()
            else:
                keyed.begin_step()
                self._run()
                keyed.end_step()
        finally:
            GatedCallback.running_for = None

    def _run(self) -> None:
        callback, args = self._callback, self._args
        if callback is None:
            return
        self._forget()
        try:
            self._context.run(callback, *args)
        except BaseException as exc:  # SystemExit too: an object's code must not end the worker.
            self._owner.callback_failed(exc)

    def _forget(self) -> None:
        self._callback = self._args = None
        self._owner.callback_over(self)

    def orphan(self) -> None:
        """Its object is gone."""
        if not outlives(self._callback, self._owner):
            self.cancel()
        elif self._arrived:  # It waits at a gate that opens no more.
            self._owner.host.loop.call_soon(self._run, context=NEUTRAL)


def _of_callback(callback: GatedCallback, function: Any = None) -> Runs:
    return Runs(callback._owner, name_of_code(callback._callback if function is None else function))


enters(GatedCallback, "_run", _of_callback, "callback")


def with_gated_callbacks(loop_class: Any) -> Any:
    """A class of loops on which the callbacks of object code pass the gate.

    Futures schedule their callbacks through `call_soon`, also those written in C; transports of uvloop do not. A context tells
    what the runtime schedules, with as little ado as possible: every wake-up of a task comes this way."""
    known = plumbing  # Asked at once for the commonest: `gather` has a callback on each of its futures.
    soon, later, at, threadsafe = (
        loop_class.call_soon, loop_class.call_later, loop_class.call_at, loop_class.call_soon_threadsafe
    )  # fmt: skip

    class LoopWithGatedCallbacks(loop_class):  # type: ignore[misc]  # of any class
        call_soon_directly = soon
        """What `call_soon` costs without the gate, for what the runtime does often."""

        def call_soon(self, callback: Any, arg: Any = NOTHING, *args: Any, context: Context | None = None) -> Any:
            if context is not NEUTRAL and not (callback.__class__ is FunctionType and known.get(callback.__module__)):
                entry = gated(callback, () if arg is NOTHING else (arg, *args), context)
                if entry is not None:
                    return entry.scheduled(soon(self, entry.arrive, context=NEUTRAL))
            if arg is NOTHING:
                return soon(self, callback, context=context)
            return soon(self, callback, arg, context=context) if not args else soon(self, callback, arg, *args, context=context)

        def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
            if callback is END_OF_SLEEP and context is None:
                future, result = args
                return later(self, delay, callback, future, result, context=NEUTRAL)
            entry = None if context is NEUTRAL else gated(callback, args, context)
            if entry is None:
                return later(self, delay, callback, *args, context=context)
            return entry.scheduled(later(self, delay, entry.arrive, context=NEUTRAL), self.time() + delay)

        def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
            entry = None if context is NEUTRAL else gated(callback, args, context)
            if entry is None:
                return at(self, when, callback, *args, context=context)
            return entry.scheduled(at(self, when, entry.arrive, context=NEUTRAL), when)

        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
            entry = None if context is NEUTRAL else gated_from_thread(callback, args, context)
            if entry is None:
                return threadsafe(self, callback, *args, context=context)
            return entry.scheduled(threadsafe(self, entry.arrive, context=NEUTRAL))

        def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
            if CURRENT.get(None) is not None and (executor is None or isinstance(executor, ThreadPoolExecutor)):
                inner = getattr(getattr(func, "func", None), "__self__", None)  # `asyncio.to_thread` gives `context.run`.
                if type(inner) is Context:
                    speak_in(inner)
                elif (said := speaker()) is not None:
                    func = partial(_said_by, said, func)
                func = partial(_settling, func)
            return super().run_in_executor(executor, func, *args)

    return LoopWithGatedCallbacks


def _settling(function: Any, *args: Any) -> Any:
    """In a thread. No future takes a StopIteration: before Python 3.12 whoever waited for it did so for ever."""
    try:
        return function(*args)
    except StopIteration as exc:
        raise RuntimeError(f"{type(exc).__name__}: {exc}") from exc


def _said_by(said: Speaker, function: Any, *args: Any) -> Any:
    """In a thread that knows nothing else of the object."""
    before = SPEAKER.set(said)
    try:
        return function(*args)
    finally:
        SPEAKER.reset(before)


def gated(callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> GatedCallback | None:
    """What the loop has to schedule for `callback`; None if that is the callback itself."""
    owner = CURRENT.get(None) if context is None else context.get(CURRENT)
    if owner is None or is_plumbing(callback):
        return None
    if context is not None:
        if is_gone(owner, context) and outlives(callback, owner):
            return None
        return GatedCallback(owner, context.get(SECTION) or owner.gate.root, callback, args, context)
    if GatedCallback.running_for is not owner and asyncio.current_task() is None and is_library(callback, owner):
        return None
    speaker()  # Kept in this context, and so in the copy.
    context = copy_context()
    return GatedCallback(owner, owner.current_section(), callback, args, context, cleans_up=is_gone(owner, context))


def gated_from_thread(callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> GatedCallback | None:
    """The same for a callback that comes from any thread: its section is that of the context in which the thread was started."""
    return gated(callback, args, copy_context() if context is None else context)


def is_gone(owner: Owner, context: Context) -> bool:
    """Whether the instance whose code runs in that context has been reset or has left memory."""
    return owner.broken is not None or context.get(LIFE, 0) != owner.life


def outlives(callback: Any, owner: Owner) -> bool:
    """Whether a callback of an object that is gone runs: it is a library's. A plain task in which the object's code would go on
    is cancelled."""
    task = task_of(callback)
    if task is not None and runs_object_code(task.get_coro(), owner):
        task.cancel()
        return True
    return is_library(callback, owner)
