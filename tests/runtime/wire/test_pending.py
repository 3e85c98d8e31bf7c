"""What a call returns is a coroutine and a future: asyncio and anyio take it as either."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop

from tidegate.runtime.wire.pending import CoroutineFuture, PendingCall


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        told: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param, debug=True) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: told.append(context))
            runner.run(main())
            gc.collect()
            runner.run(asyncio.sleep(0))
        assert told == [], "an exception was never retrieved"

    return run


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


Call = CoroutineFuture[Any] | PendingCall[Any]


def of_an_object() -> tuple[Call, asyncio.Future[Any]]:
    future: CoroutineFuture[Any] = CoroutineFuture(loop=asyncio.get_running_loop())
    return future, future


def of_a_client() -> tuple[Call, asyncio.Future[Any]]:
    future = asyncio.get_running_loop().create_future()
    return PendingCall(future), future


MAKE = [of_an_object]


@pytest.fixture(params=[of_an_object, of_a_client], autouse=True)
def _kind(request: pytest.FixtureRequest) -> None:
    MAKE[0] = request.param


def soon(outcome: Any) -> Call:
    """Has that result, or raises it, in a later turn."""
    call, future = MAKE[0]()

    def settle() -> None:
        if not future.done():
            future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)

    asyncio.get_running_loop().call_later(0.001, settle)
    return call


def never() -> Call:
    return MAKE[0]()[0]


async def group(call: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(call)
    return task.result()


async def named(call: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.create_task(call, name="named")


async def from_a_thread(call: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(call, loop).result())


async def in_anyio(call: Coroutine[Any, Any, Any]) -> Any:
    results = []

    async def keep() -> None:
        results.append(await call)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        tasks.start_soon(lambda: call)
    return results[0]


async def gathered(call: Any) -> Any:
    return (await asyncio.gather(call, asyncio.create_task(call)))[1]


async def as_completed(call: Any) -> Any:
    (done,) = asyncio.as_completed([call])
    return await done


async def wrapped(call: Any) -> Any:
    return await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(call)), 5)


WAYS = [group, named, from_a_thread, in_anyio, gathered, as_completed, wrapped]


@pytest.mark.parametrize("way", WAYS)
def test_whatever_takes_a_coroutine_gives_its_result_and_its_exception(run: Run, way: Callable[[Any], Awaitable[Any]]) -> None:
    async def main() -> None:
        assert await way(soon(7)) == 7
        done = soon(8)
        await done
        assert await way(done) == 8
        with pytest.raises((KeyError, ExceptionGroup)):
            await way(soon(KeyError("lost")))

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of Python 3.12")
def test_an_eager_task_takes_it(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, uvloop.Loop):
            pytest.skip("uvloop hands the factory an option that it does not take")
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # since Python 3.12
        assert await group(soon(7)) == 7
        done = soon(8)
        await done
        assert asyncio.create_task(done).result() == 8

    run(main)


def test_cancelling_its_task_cancels_it_whether_the_task_has_begun_or_not(run: Run) -> None:
    async def main() -> None:
        for turns in (0, 1):
            call = never()
            task = asyncio.create_task(call)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert call.cancelled()

    run(main)


def test_anyio_cancels_what_has_begun_and_is_told_what_has_not(run: Run) -> None:
    async def main() -> None:
        call = never()
        with anyio.move_on_after(0.01):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: call)
        assert call.cancelled()
        assert inspect.getcoroutinestate(call) == inspect.CORO_CLOSED

    run(main)


def test_a_task_of_it_can_be_shown(run: Run) -> None:
    async def main() -> None:
        call, future = MAKE[0]()
        task = asyncio.create_task(call)
        await asyncio.sleep(0)
        assert "call" in repr(task)
        assert task.get_stack() == []
        assert inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_SUSPENDED  # type: ignore[arg-type]  # a coroutine
        future.set_result(1)
        assert await task == 1

    run(main)


def test_a_closed_one_says_nothing_of_the_exception_that_nobody_wants(run: Run) -> None:
    async def main() -> None:
        call = soon(KeyError("nobody's"))
        await asyncio.sleep(0.01)
        call.close()
        pending = never()
        pending.close()
        assert pending.cancelled()

    run(main)


def test_a_callback_of_a_call_is_given_the_call_and_can_be_taken_back(run: Run) -> None:
    async def main() -> None:
        call, future = MAKE[0]()
        told: list[Any] = []
        call.add_done_callback(told.append)
        call.add_done_callback(print)
        assert call.remove_done_callback(print) == 1
        assert call.remove_done_callback(print) == 0
        future.set_result(1)
        await asyncio.sleep(0)
        assert told == [call]
        assert (call.done(), call.result(), call.exception(), call.cancelled()) == (True, 1, None, False)

    run(main)
