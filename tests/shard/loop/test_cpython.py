"""What CPython and asyncio do not promise does here what the loop takes it for."""

from __future__ import annotations

import asyncio
from typing import Any

from tidegate.shard.loop import cpython


async def inner(future: asyncio.Future[None]) -> None:
    await future


async def outer(future: asyncio.Future[None]) -> None:
    await inner(future)


async def test_a_coroutine_tells_what_it_waits_for_and_where_down_to_the_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    coro = outer(future)
    coro.send(None)
    assert cpython.frame_of(coro) is not None
    assert cpython.awaited_by(coro).cr_code is inner.__code__
    assert cpython.awaited_by(cpython.awaited_by(coro)).__class__ is type(iter(future))
    coro.close()
    assert cpython.awaited_by(coro) is cpython.frame_of(coro) is None


async def test_gather_tells_what_it_waits_for_and_other_futures_wait_for_nothing() -> None:
    futures = [asyncio.get_running_loop().create_future() for _ in range(2)]
    together = asyncio.gather(*futures)
    assert cpython.gathered_by(together) == futures
    assert cpython.gathered_by(futures[0]) == cpython.gathered_by(None) == []
    for future in futures:
        future.set_result(None)
    await together


async def test_a_task_group_at_its_end_tells_for_which_tasks_it_waits() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    made: list[asyncio.Task[Any]] = []

    async def group() -> None:
        async with asyncio.TaskGroup() as group:
            made.extend(group.create_task(inner(future)) for _ in range(2))

    task = asyncio.create_task(group())
    await asyncio.sleep(0)
    assert set(cpython.group_awaited_by(task.get_coro())) == set(made)
    assert cpython.group_awaited_by(made[0].get_coro()) == []
    future.set_result(None)
    await task


async def test_a_sleep_schedules_what_the_loop_knows_as_its_end(monkeypatch: Any) -> None:
    loop: Any = asyncio.get_running_loop()
    scheduled: list[Any] = []
    below = type(loop).call_later
    monkeypatch.setattr(type(loop), "call_later", lambda *args, **options: scheduled.append(args[2]) or below(*args, **options))
    await asyncio.sleep(0.001)
    assert scheduled == [cpython.END_OF_SLEEP]
