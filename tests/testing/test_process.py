"""Processes that are killed, and the order of tasks in sets."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from typing import Any

from tidegate import DurableObject
from tidegate.testing import Objects
from tidegate.testing.process import Process, close_coroutine
from tidegate.testing.virtual_loop import VirtualTime


def test_nothing_of_a_killed_process_runs_on() -> None:
    virtual, seen = VirtualTime(), []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
            seen.append("woken")
        finally:
            seen.append("closed")

    process = Process(virtual, seen.append)
    process.loop.create_task(work())
    virtual.run(0.5)
    process.kill()
    virtual.run(10)
    assert seen == ["closed"]
    assert not process.alive


def test_code_that_swallows_its_end_is_given_up_in_the_end() -> None:
    told = 0

    @types.coroutine
    def stubborn() -> Generator[None, None, None]:
        nonlocal told
        while told < 3:
            try:
                yield
            except BaseException:
                told += 1

    coroutine: Any = stubborn()
    coroutine.send(None)
    close_coroutine(coroutine)
    assert told == 3


class Crowd(DurableObject):
    async def finished(self) -> list[int]:
        """The numbers of its tasks, in the order in which asyncio's set has them."""
        done, _ = await asyncio.wait([asyncio.create_task(self._number(number)) for number in range(20)])
        return [task.result() for task in done]

    async def _number(self, number: int) -> int:
        await asyncio.sleep(1)
        return number


def test_sets_of_tasks_have_the_same_order_in_each_run() -> None:
    orders = []
    for _ in range(3):
        with Objects() as objects:
            orders.append(objects.run(objects(Crowd, "c").finished()))
    assert orders[0] == orders[1] == orders[2]
