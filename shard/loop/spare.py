"""The spare task: kept ready to run the first step of calls, which for most of them is all.

Guarantee: code of a call sees itself in a task, the current one. Whoever keeps that, names, cancels or listens to it sees what
becomes of this call, and nothing of another one.

A task of its own for a call that ends in its first step would cost three times what all the rest of it does. So one task runs
call after call for as long as none of them suspends, raises, or leaves the task in somebody's hands: that is known by counting
references. Where CPython does not count them as assumed (see `self_test`), each call gets a task of its own, driven by Python
code that assumes nothing: slower, never wrong.

`Host` enters and leaves the task itself, once for many calls, and runs and counts in `_run`: a method for that would cost each
call 500 instructions, 4 % of a read.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Final

from tidegate.shard.loop.cpython import code_of, enter_task, leave_task, references_to
from tidegate.shard.loop.task import ObjectTask


@types.coroutine
def _drive() -> Generator[Any, Any, None]:
    """Runs the coroutines that are sent to it, one after the other, and yields their results. A coroutine that ends raises
    StopIteration, which costs more than all else in a short call; this one never ends. While the coroutine that it runs is
    suspended, `gi_yieldfrom` is that coroutine, and what is yielded is what it waits for."""
    coro = yield
    while True:
        coro = yield (yield from coro)  # The result is in no variable here: it is not kept until the next call.


@types.coroutine
def _drive_one(running: list[Coroutine[Any, Any, Any]]) -> Generator[Any, Any, None]:
    """Likewise, for one coroutine, which is in `running` while it is."""
    coro = yield
    running.append(coro)
    del coro
    yield _ended(running, (yield from running[0]))


def _ended(running: list[Coroutine[Any, Any, Any]], result: Any) -> Any:
    running.clear()
    return result


DRIVERS: Final = frozenset({code_of(_drive), code_of(_drive_one)})
"""What stands on the stack between a task and the code of the object."""


class PlainDriver:
    """The same for one coroutine, without a look into a generator. There is one nevertheless: since Python 3.12 the frame of a
    coroutine that an exception has seen knows who has run it, and a generator that waits was run by nobody."""

    __slots__ = ("_generator", "_running", "close", "send", "throw")

    def __init__(self) -> None:
        self._running: list[Coroutine[Any, Any, Any]] = []
        self._generator: Any = _drive_one(self._running)
        self.send, self.throw, self.close = self._generator.send, self._generator.throw, self._generator.close

    @property
    def gi_yieldfrom(self) -> Coroutine[Any, Any, Any] | None:
        return self._running[0] if self._running else None


class SpareTask:
    __slots__ = ("_loop", "_new_driver", "_references_max", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, used_again: bool = True) -> None:
        """`used_again`: False gives each call a task of its own."""
        self._loop = loop
        self._new_driver: Any = _drive if used_again else PlainDriver
        self._references_max = -1
        self.task = self._new()
        """To run the first step of a call it is given the owner, the section and the context, and its `send` the coroutine, in
        that context, while the task is the current one."""
        if used_again:
            # Counted so, by the attribute: whether a local name in its place would count twice, Python 3.14 decides case by case.
            self._references_max = references_to(self.task) + 2  # A local name, and asyncio's "current task".
            self.task = self._new()

    def _new(self) -> ObjectTask:
        return ObjectTask(self._loop).drive_with(self._new_driver(), self._references_max)

    def replace(self) -> ObjectTask:
        """The task, which is the current one, is spare no longer; another one is, and is entered. Returns the old one."""
        task = self.task
        leave_task(self._loop, task)
        self.task = self._new()
        enter_task(self._loop, self.task)
        return task

    def recover(self) -> None:
        """After an error where none should be. Afterwards no task is the current one."""
        current = asyncio.current_task(self._loop)
        if current is not None:
            leave_task(self._loop, current)
        self.task = self._new()
