"""Whether CPython, asyncio and the event loop behave as `cpython`, `task` and `spare` take them to.

Guarantee: it is tried, at the start of each worker, on a loop that is thrown away. What only the spare task leans on may be
missing: then each call gets a task of its own, which is slower. Without the rest object code would not be run as promised, and a
worker that finds that out does not start.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from tidegate.shard.loop.cpython import (
    awaited_by,
    enter_task,
    leave_task,
    loop_of,
    references_to,
    register_task,
    weak_references_to,
)
from tidegate.shard.loop.spare import SpareTask
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.neutral import NEUTRAL

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Verdict:
    """What does not hold, in words."""

    of_tasks: tuple[str, ...]
    """No object can be served without."""
    of_spare_task: tuple[str, ...]
    """Calls are slower without."""


def self_test(loop: asyncio.AbstractEventLoop) -> Verdict:
    """Of the running process, on a loop of the kind that objects run on, which is closed in the end."""
    verdicts: list[Verdict] = []

    def look() -> None:  # In a callback, as steps of tasks are.
        verdicts.append(Verdict(_broken(OF_TASKS, loop), _broken(OF_SPARE_TASK, loop)))
        loop.stop()

    try:
        loop.call_soon(look, context=NEUTRAL)
        loop.run_forever()
    finally:
        loop.close()
    return verdicts[0]


def _broken(checks: dict[str, Check], loop: asyncio.AbstractEventLoop) -> tuple[str, ...]:
    return tuple(what for what, check in checks.items() if not _holds(check, loop))


def _holds(check: Check, loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return check(loop)
    except Exception:
        return False
    finally:
        if (task := asyncio.current_task(loop)) is not None:
            leave_task(loop, task)


async def _wait(future: asyncio.Future[None]) -> None:
    await future


async def _wait_inside(future: asyncio.Future[None]) -> None:
    await _wait(future)


async def _end() -> None:
    pass


# Of tasks


def _entering(loop: asyncio.AbstractEventLoop) -> bool:
    task = ObjectTask(loop)
    enter_task(loop, task)
    entered = asyncio.current_task() is task  # type: ignore[comparison-overlap]  # one of ours
    leave_task(loop, task)
    return entered and asyncio.current_task() is None


def _registering(loop: asyncio.AbstractEventLoop) -> bool:
    task: Any = ObjectTask(loop)
    register_task(task)
    return task in asyncio.all_tasks(loop)


def _yielding(loop: asyncio.AbstractEventLoop) -> bool:
    future = loop.create_future()
    coro = _wait(future)
    yielded: Any = coro.send(None)
    marked = yielded._asyncio_future_blocking
    yielded._asyncio_future_blocking = False
    future.set_result(None)
    try:
        coro.send(None)
    except StopIteration:
        return yielded is future and marked and loop_of(yielded) is loop
    return False


def _cancelling(loop: asyncio.AbstractEventLoop) -> bool:
    future: Any = loop.create_future()
    future.cancel("why")
    error = future._make_cancelled_error()
    return isinstance(error, asyncio.CancelledError) and error.args == ("why",)


def _waking(loop: Any) -> bool:
    scheduled: list[tuple[Any, Any]] = []
    future, context = loop.create_future(), Context()
    future.add_done_callback(scheduled.append, context=context)
    loop.call_soon = lambda callback, *_, context: scheduled.append((callback, context))
    try:
        future.set_result(None)
    finally:
        del loop.call_soon
    return scheduled == [(scheduled.append, context)]


def _looking_inside(loop: asyncio.AbstractEventLoop) -> bool:
    future = loop.create_future()
    coro = _wait_inside(future)
    coro.send(None)
    inner = awaited_by(coro)
    found = inner.cr_code is _wait.__code__ and inner.cr_frame is not None and awaited_by(inner) is not None
    coro.close()
    return found and awaited_by(coro) is None


OF_TASKS: dict[str, Check] = {
    "a task that is entered by hand is the current one until it is left": _entering,
    "a task that is registered is one of all_tasks": _registering,
    "what awaits a future yields it, marked as blocking, and goes on with its result": _yielding,
    "a future makes the error of its cancellation": _cancelling,
    "the callbacks of a future go through its loop's call_soon, with their context": _waking,
    "a suspended coroutine tells which one it awaits": _looking_inside,
}


# Of the spare task


def _counting(loop: asyncio.AbstractEventLoop) -> bool:
    return [known for known, _ in _kept(loop, set())] == [False, True, False]


def _counting_weakly(loop: asyncio.AbstractEventLoop) -> bool:
    return [known for _, known in _kept(loop, weakref.WeakSet())] == [False, True, False]


def _kept(loop: asyncio.AbstractEventLoop, hands: Any) -> list[tuple[bool, bool]]:
    """Of three calls that share a task, of which the second leaves it in those hands: whether that is seen, as `Host` looks."""
    spare = SpareTask(loop)

    async def call(keep: bool) -> None:
        task = asyncio.current_task()
        if keep:
            hands.add(task)

    seen = []
    for keep in (False, True, False):
        task = spare.task
        enter_task(loop, task)
        Context().run(task.send, call(keep))
        seen.append((references_to(spare.task) > task.references_max, weak_references_to(task) > 0))
        leave_task(loop, task)
        hands.clear()
    return seen


def _driving(loop: asyncio.AbstractEventLoop) -> bool:
    future = loop.create_future()
    first, second = SpareTask(loop).task, SpareTask(loop).task
    coro = _wait(future)
    suspended = first.send(coro) is future and first._driver.gi_yieldfrom is coro
    ended = second.send(_end()) is None and second._driver.gi_yieldfrom is None
    coro.close()
    return suspended and ended


OF_SPARE_TASK: dict[str, Check] = {
    "the references to a task are more when somebody keeps it, and only then": _counting,
    "weak references to a task are counted": _counting_weakly,
    "a generator tells whether what it runs is suspended": _driving,
}
