"""A process of a simulation: a loop in virtual time that can be killed at any instant.

Guarantee: nothing of a killed process runs any more. Python, which is not killed, wants its coroutines finished: their `finally`
blocks run, and whatever they do reaches nobody.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tidegate.shard.loop.task import ObjectTask, object_task_factory
from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime

CLOSES_MAX = 10
"""How often code that swallows its end is told again."""


class Process:
    """Something with a loop."""

    def __init__(self, time: VirtualTime, failed: Callable[[str], None], *, first: bool = False) -> None:
        self.alive = True
        self.loop = ProcessLoop(time, failed, self, first=first)
        self.loop.set_task_factory(object_task_factory)
        self._left: set[asyncio.Task[Any]] = set()

    def fall(self) -> None:
        """From now on nothing of it runs. Code of its own may say so, in the middle of which `kill` cannot be called."""
        self.alive = False
        if self.loop.alive:
            self._left = asyncio.all_tasks(self.loop)
            self.loop.kill()

    def kill(self) -> None:
        self.fall()
        left, self._left = self._left, set()
        for task in left:
            close_coroutine(task.get_coro())


def close_coroutine(coro: Any) -> None:
    for _ in range(CLOSES_MAX):
        try:
            coro.close()
            return
        except BaseException:  # Whatever the code of a dead process says.
            continue


@contextmanager
def ordered_tasks() -> Iterator[None]:
    """Sets of tasks (asyncio has some) are iterated in the order in which the tasks were first put into one, not by where they
    are in memory: else two runs of one seed would differ."""
    numbers = itertools.count()

    def order(task: ObjectTask) -> int:
        known: Any = task
        try:
            number: int = known.order_number
        except AttributeError:
            number = known.order_number = next(numbers)
        return number

    kept: Any = ObjectTask.__hash__
    hashed: Any = ObjectTask
    hashed.__hash__ = order
    try:
        yield
    finally:
        hashed.__hash__ = kept
