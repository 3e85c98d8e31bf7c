"""The task that runs object code: every resumption of it passes the object's input gate.

Guarantee: code of an object continues only when its gate lets the event in. Apart from that an `ObjectTask` behaves as an
`asyncio.Task` does: timeouts, task groups, gather, cancellation, `current_task` and context variables work.

Rule 1: a call that never suspends costs no task: a spare one runs its first step, and is used again (`spare`).
Rule 2: this file decides nothing about gates; it asks `owner.gate` and queues itself there.
Rule 3: done-callbacks run in a neutral context. A callback inside the task's own context could not enter it again.
Rule 4: code of an instance that was reset is cancelled at its next resumption, and again whenever it has swallowed that. While it
unwinds it may await, to clean up, for a few seconds (`Ending`).
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import types
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, cast

from tidegate.runtime.limits import OBJECT_TASKS_MAX, RESET_CANCELS_MAX
from tidegate.runtime.wire.exceptions import line_of
from tidegate.runtime.wire.pending import CoroutineFuture
from tidegate.runtime.wire.unawaited import refuse_use
from tidegate.shard.core.input_gate import Section
from tidegate.shard.loop.context import CURRENT, LIFE, Keyed, Owner, kept_for
from tidegate.shard.loop.cpython import (
    awaited_by,
    enter_task,
    leave_task,
    loop_of,
    print_stack_of_task,
    register_task,
    stack_of_task,
    this_frame,
)
from tidegate.shard.loop.libraries import runs_object_code
from tidegate.shard.loop.places import Runs, enters, name_of_code, speaker
from tidegate.shard.loop.raised import forget_locals, leave_frame
from tidegate.shard.neutral import NEUTRAL

_numbers = itertools.count(1).__next__


class EntryFuture(asyncio.Future[None]):
    """The start of a critical section that had to wait: it is delivered although the gate is closed for others. A wait that was
    given up is an event like any other."""


class StorageFuture(CoroutineFuture[Any]):
    """The completion of an object's own storage operation: it is delivered although the gate is closed for it."""


refuse_use(StorageFuture, "a storage operation")


class Gone(asyncio.CancelledError):
    """Thrown into code of an instance that was reset."""


class Ending:
    """How the code of one task is brought to its end after a reset.

    Code that cleans up holds the cancellation that unwinds it; once nobody holds it any longer, it has been swallowed."""

    __slots__ = ("_thrown", "cancels", "hurries")

    def __init__(self) -> None:
        self._thrown: weakref.ref[Gone] | None = None
        self.cancels = 0
        self.hurries = False
        """The time for cleaning up is over."""

    def next_error(self) -> Gone:
        error = Gone()
        self._thrown = weakref.ref(error)
        self.cancels += 1
        return error

    @property
    def cleans_up(self) -> bool:
        return not self.hurries and self._thrown is not None and self._thrown() is not None


class ObjectTask(asyncio.Future[Any]):
    """Drives one coroutine of an object: a call that suspended, a background task, or a sub-task of these."""

    __slots__ = (
        "_context",
        "_coro",
        "_driver",
        "_fut_waiter",
        "_granted",
        "_must_cancel",
        "_num_cancels_requested",
        "_owner",
        "_task_loop",
        "_task_name",
        "began_s",
        "call",
        "ending",
        "keyed",
        "references_max",
        "section",
        "send",
        "when_done",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._task_loop: Any = loop
        self._coro: Any = None
        self._driver: Any = None
        """What runs the coroutine, of a task that was spare: see `drive_with`."""
        self._context: contextvars.Context = NEUTRAL
        self._owner: Owner | None = None
        self._fut_waiter: asyncio.Future[Any] | None = None
        self._granted: asyncio.Future[Any] | None = None
        """The future whose completion is being delivered, while this task waits at the gate."""
        self._must_cancel = False
        self._num_cancels_requested = 0
        self._task_name: str | None = None
        self.references_max = -1
        """Of a spare task: it may run another call if no more than these are left, so never once it has been cancelled, named or
        listened to."""
        self.section: Section | None = None
        """The critical section in which the task is, or the root of the gate."""
        self.ending: Ending | None = None
        """Since its object was reset."""
        self.began_s: float
        """When that was started."""
        self.call: Any = None
        """The call that this task answers, if it is not a sub-task."""
        self.when_done: Callable[[ObjectTask], None] | None = None
        self.keyed: Keyed | None = None
        """The run of a call with a key to which its code belongs, from its second step on."""

    def adopt(self, coro: Coroutine[Any, Any, Any], owner: Owner, section: Section, context: contextvars.Context) -> ObjectTask:
        """Gives the task its work. It has not begun."""
        self._coro = coro
        self._owner = owner
        self.section = section
        self._context = context
        return self

    def belongs_to(self, keyed: Keyed | None) -> None:
        """It has been started by the run of a call with a key."""
        if keyed is not None:
            self.keyed = keyed
            keyed.has_effects = True

    # Running

    def deliver(self) -> None:
        """The gate lets the task in."""
        future, self._granted = self._granted, None
        if future is None:
            self._step(None)
            return
        try:
            future.result()
        except BaseException as exc:
            leave_frame(exc)
            self._step(exc)
        else:
            self._step(None)

    def start_running(self) -> None:
        """From now on the task is one of its object's."""
        owner = self._owner
        assert owner is not None
        register_task(self)
        owner.add_task(self)
        if owner.broken is not None:
            self.ending = Ending()

    def schedule(self) -> None:
        """Asks the gate to begin (or, after a bare yield, to go on) in a later turn."""
        self._task_loop.call_soon_directly(self._wake, None, context=NEUTRAL)

    def _wake(self, future: asyncio.Future[Any] | None) -> None:
        if future is None and self._fut_waiter is not None:
            return  # It has been abandoned while another wake-up was on its way; that one was enough.
        owner = self._owner
        assert owner is not None
        assert self.section is not None
        self._granted = future
        self._fut_waiter = None
        kind = future.__class__
        at_once = kind is StorageFuture or (kind is EntryFuture and not future.cancelled())  # type: ignore[union-attr]  # not None
        if at_once or owner.broken is not None or owner.gate.passes(self.section):
            owner.host.turn.end_soon()
            self.deliver()
        else:
            owner.gate.wait(self.section, self)

    def _step(self, error: BaseException | None) -> None:
        if self.done():
            return
        if self.ending is not None and not self.ending.cleans_up:
            if self.ending.cancels == RESET_CANCELS_MAX:
                self._close()
                return
            error = self.ending.next_error()
        elif self._must_cancel:
            if not issubclass(type(error), asyncio.CancelledError):
                error = self._make_cancelled_error()  # type: ignore[attr-defined]  # of every Future
            self._must_cancel = False
        coro = self._coro
        assert coro is not None
        loop = self._task_loop
        keyed = self.keyed
        if keyed is not None:
            keyed.begin_step()
        enter_task(loop, self)
        try:
            if error is None:
                yielded = self._context.run(coro.send, None)
            else:
                yielded = self._context.run(coro.throw, error)
        except StopIteration as stop:
            self._finish(stop.value)
        except asyncio.CancelledError:
            super().cancel(self._cancel_message)
        except BaseException as exc:  # SystemExit too: an object's code must not end the worker.
            leave_frame(exc)
            super().set_exception(settable(exc))
            loop.call_soon_directly(forget_locals, this_frame(), context=NEUTRAL)
        else:
            error = None
            if self._driver is not None and self._driver.gi_yieldfrom is None:
                self._finish(yielded)
            else:
                self.suspend_on(yielded)
        finally:
            leave_task(loop, self)
            del error
        if self.done():
            self._owner.task_done(self)  # type: ignore[union-attr]  # a task that runs has an owner
            self._context = NEUTRAL  # Its own knows the section that it was in.
        if keyed is not None:
            keyed.end_step()

    def _finish(self, result: Any) -> None:
        if self._must_cancel:
            self._must_cancel = False
            super().cancel(self._cancel_message)
        else:
            super().set_result(result)

    def suspend_on(self, yielded: Any) -> None:
        """The coroutine waits for what it yielded."""
        try:
            blocking = getattr(yielded, "_asyncio_future_blocking", None)
            if blocking:
                if yielded is self:
                    self._fail_step(f"Task cannot await on itself: {self!r}")
                elif loop_of(yielded) is not self._task_loop:
                    self._fail_step(f"Task {self!r} got Future {yielded!r} attached to a different loop")
                else:
                    yielded._asyncio_future_blocking = False
                    yielded.add_done_callback(self._wake, context=NEUTRAL)
                    self._fut_waiter = yielded
                    if self.ending is not None and not self.ending.cleans_up:
                        yielded.cancel()
                    elif self._must_cancel and yielded.cancel(self._cancel_message):
                        self._must_cancel = False
            elif yielded is None:
                self.schedule()
            else:
                self._fail_step(f"Task got bad yield: {yielded!r}; await it")
        except BaseException:  # It is an object of the app's own, which misbehaves.
            self._fail_step(f"Task got bad yield of type {type.__dict__['__name__'].__get__(type(yielded))}; await it")

    def _fail_step(self, text: str) -> None:
        self._task_loop.call_soon(self._fail, RuntimeError(text), context=NEUTRAL)

    def _fail(self, error: RuntimeError) -> None:
        if self._owner is not None:
            self._owner.host.turn.end_soon()  # No gate has been passed that would have asked for it.
        self._step(error)

    def take_exception(self) -> BaseException:
        """What the code raised, when it did. The task keeps no traceback of it."""
        try:
            self.result()
        except BaseException as exc:
            leave_frame(exc)
            return exc
        raise AssertionError("it raised nothing")

    # What a Task offers

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self.references_max = -1
        self._num_cancels_requested += 1
        if self._fut_waiter is not None and self._fut_waiter.cancel(msg):
            return True
        self._must_cancel = True
        self._cancel_message = msg
        return True

    def cancelling(self) -> int:
        return self._num_cancels_requested

    def uncancel(self) -> int:
        if self._num_cancels_requested > 0:
            self._num_cancels_requested -= 1
            if self._num_cancels_requested == 0:
                self._must_cancel = False
        return self._num_cancels_requested

    def get_coro(self) -> Coroutine[Any, Any, Any] | None:
        return cast("Coroutine[Any, Any, Any] | None", self._coro if self._driver is None else awaited_by(self._driver))

    def get_context(self) -> contextvars.Context:
        return self._context

    def get_name(self) -> str:
        if self._task_name is None:
            self.references_max = -1
            self._task_name = f"ObjectTask-{_numbers()}"
        return self._task_name

    def set_name(self, value: object) -> None:
        self.references_max = -1
        self._task_name = str(value)

    def add_done_callback(self, callback: Callable[..., object], /, *, context: contextvars.Context | None = None) -> None:
        self.references_max = -1
        if context is None:  # Not handed on: the Future in C would take that for a context.
            super().add_done_callback(callback)
        else:
            super().add_done_callback(callback, context=context)

    def set_result(self, result: Any) -> None:
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception: Any) -> None:
        raise RuntimeError("Task does not support set_exception operation")

    def get_stack(self, *, limit: int | None = None) -> list[Any]:
        return stack_of_task(self, limit)

    def print_stack(self, *, limit: int | None = None, file: Any = None) -> None:
        print_stack_of_task(self, limit, file)

    def __repr__(self) -> str:
        state = "done" if self.done() else "waiting at the gate" if self._granted is not None else "pending"
        return f"<ObjectTask {self.get_name()} {state} coro={getattr(self._coro, '__qualname__', self._coro)}>"

    # A call that may finish in its first step

    def end_early(self, result: Any, error: BaseException | None) -> None:
        """The call is over and somebody may still know its task: it is done for them too."""
        if self._must_cancel or issubclass(type(error), asyncio.CancelledError):
            super().cancel(self._cancel_message)
        elif error is None:
            super().set_result(result)
        else:
            super().set_exception(settable(error))
            self.exception()  # Retrieved: the caller is told.

    def drive_with(self, driver: Any, references_max: int) -> ObjectTask:
        """Ready to run calls, one after the other, for as long as none of them suspends or raises: `send(coro)` in the context
        of the call runs the first step of one. It returns its result or, if `driver.gi_yieldfrom` is not None then, what it
        waits for; it raises what the step raises. Meanwhile the task has to be the current one."""
        self.references_max = references_max
        self._coro = self._driver = driver
        self.send = driver.send
        self.send(None)
        return self

    # A reset

    def abandon(self) -> None:
        """The object is reset. The task is cancelled when it goes on."""
        if self.done():
            return
        self._granted = None
        self.ending = Ending()
        self._rouse()

    def hurry(self) -> None:
        """The task has had its time to clean up."""
        if self.ending is not None and not self.done():
            self.ending.hurries = True
            self._rouse()

    def _rouse(self) -> None:
        if self._fut_waiter is None or not self._fut_waiter.cancel():
            self.schedule()

    def _close(self) -> None:
        """It will not go on, whatever it says to that."""
        owner = self._owner
        assert owner is not None
        name = getattr(self.get_coro(), "__qualname__", "its code")
        text = "%s was reset and %s has swallowed %d cancellations since; it is closed"
        owner.host.log.error(text, owner.id, name, RESET_CANCELS_MAX)
        coro, self._coro, self._driver = self._coro, None, None
        try:
            self._context.run(coro.close)
        except BaseException:  # It swallows that too, and waits for something that never comes.
            pass
        super().cancel()
        owner.task_done(self)
        self._context = NEUTRAL


def _of_task(task: ObjectTask, *_: Any) -> Runs:
    if task.call is None:
        return Runs(task._owner, name_of_code(task.get_coro()))
    return Runs(task._owner, task.call[2], task.call[1])


enters(ObjectTask, "_step", _of_task)


def settable(error: BaseException) -> BaseException:
    """What whoever waits for somebody's code is given: SystemExit and the like are no business of others, and a future takes no
    StopIteration."""
    if issubclass(type(error), Exception) and not issubclass(type(error), StopIteration):
        return error
    escaped = RuntimeError(f"{line_of(error)}")
    escaped.__cause__ = error
    return escaped


def section_of(task: object, owner: Owner) -> Section | None:
    """Where in its gate a task of this object is; None for any other task."""
    return task.section if isinstance(task, ObjectTask) and task._owner is owner else None


def check_coroutine(coro: object) -> None:
    """As a Task does: what is none fails where it was given, not later in the task."""
    if type(coro) is types.CoroutineType:
        return
    if isinstance(coro, types.GeneratorType) or not asyncio.iscoroutine(coro):  # Which takes generators, before 3.12.
        raise TypeError(f"a coroutine was expected, got {coro!r}")


def count_own_task(owner: Owner, coro: Any) -> None:
    """Code of the object is about to start one. Raises RuntimeError if it has very many."""
    if owner.own_tasks >= OBJECT_TASKS_MAX:
        coro.close()
        raise RuntimeError(
            f"{owner.id} has started {owner.own_tasks:,} tasks that are not done, and can start no more: "
            "await or cancel some first"
        )
    owner.own_tasks += 1


def object_task_factory(
    loop: asyncio.AbstractEventLoop, coro: Any, context: contextvars.Context | None = None, **options: Any
) -> asyncio.Future[Any]:
    """The loop's task factory: what object code starts belongs to the object; everything else is an ordinary task."""
    owner = CURRENT.get(None) if context is None else context.get(CURRENT)
    if owner is None:
        return asyncio.Task(coro, loop=loop, context=context, name=options.get("name"))
    life = LIFE.get() if context is None else context.get(LIFE, 0)
    if owner.broken is not None or owner.life != life:
        plain = asyncio.Task(coro, loop=loop, context=context, name=options.get("name"))
        if runs_object_code(coro, owner):
            plain.cancel()  # Before it begins. What a library starts may serve others, as the pool that takes a connection back.
        return plain
    check_coroutine(coro)
    count_own_task(owner, coro)
    if context is None:
        speaker()  # Kept in this context, and so in the copy.
        context = contextvars.copy_context()
    task = ObjectTask(loop).adopt(coro, owner, owner.current_section(), context)
    task.when_done = owner.own_task_done
    task.belongs_to(kept_for(context))
    if "name" in options and options["name"] is not None:
        task.set_name(options["name"])
    task.start_running()
    task.schedule()
    return task
