"""Virtual time: order, jumps, blocking, helpers, death."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

import pytest

from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime


def make_loop(virtual: VirtualTime) -> tuple[ProcessLoop, list[str]]:
    failures: list[str] = []
    return ProcessLoop(virtual, failures.append), failures


def run(virtual: VirtualTime, loop: ProcessLoop, coroutine: Any, until: float = 1e6) -> Any:
    tasks: list[asyncio.Task[Any]] = []
    loop.call_soon(lambda: tasks.append(loop.create_task(coroutine)))
    virtual.run(until, lambda: bool(tasks) and tasks[0].done())
    return tasks[0].result()


def test_an_hour_of_sleep_takes_no_time_and_ends_exactly_then() -> None:
    virtual = VirtualTime(Random(1))
    loop, _ = make_loop(virtual)
    began = time.monotonic()

    async def nap() -> float:
        await asyncio.sleep(3_600)
        return asyncio.get_running_loop().time()

    assert run(virtual, loop, nap()) == 3_600
    assert time.monotonic() - began < 1


def test_asyncio_works_on_it_as_on_any_loop() -> None:
    virtual = VirtualTime(Random(1))
    loop, _ = make_loop(virtual)

    async def everything() -> list[str]:
        seen: list[str] = []

        async def note(text: str, delay: float) -> None:
            await asyncio.sleep(delay)
            seen.append(text)

        async with asyncio.TaskGroup() as group:
            group.create_task(note("later", 2))
            group.create_task(note("sooner", 1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        seen.append(await asyncio.to_thread(lambda: "thread"))
        return seen

    assert run(virtual, loop, everything()) == ["sooner", "later", "thread"]


def test_a_process_that_blocks_runs_nothing_while_others_do() -> None:
    virtual = VirtualTime(Random(1))
    (first, _), (second, _) = make_loop(virtual), make_loop(virtual)
    seen: list[tuple[str, float]] = []
    first.call_soon(first.spend, 0.5)
    first.call_later(0.1, lambda: seen.append(("first", virtual.now)))
    second.call_later(0.2, lambda: seen.append(("second", virtual.now)))
    virtual.run(1.0)
    assert seen == [("second", 0.2), ("first", 0.5)]


def test_work_of_a_helper_takes_effect_before_it_is_reported() -> None:
    virtual = VirtualTime(Random(1))
    loop, _ = make_loop(virtual)
    seen: list[tuple[str, float]] = []

    def work() -> str:
        seen.append(("done", virtual.now))
        return "result"

    async def ask() -> str:
        result: str = await loop.run_in_executor(None, work)
        seen.append(("reported", loop.time()))
        return result

    assert run(virtual, loop, ask()) == "result"
    assert [what for what, _ in seen] == ["done", "reported"]
    assert 0 < seen[0][1] < seen[1][1]


def test_nothing_of_a_killed_process_runs() -> None:
    virtual = VirtualTime(Random(1))
    loop, _ = make_loop(virtual)
    seen: list[str] = []
    loop.call_later(0.1, seen.append, "before")
    loop.call_later(0.3, seen.append, "after")
    loop.call_soon(loop.run_in_helper, lambda: loop.call_soon_threadsafe(loop.call_later, 0.3, seen.append, "helper"))
    virtual.at(0.2, loop.kill)
    virtual.run(1.0)
    assert seen == ["before"]


def test_an_exception_in_a_callback_is_reported() -> None:
    virtual = VirtualTime(Random(1))
    loop, failures = make_loop(virtual)
    loop.call_soon(lambda: 1 / 0)
    virtual.run(1.0)
    assert len(failures) == 1
    assert "division by zero" in failures[0]
