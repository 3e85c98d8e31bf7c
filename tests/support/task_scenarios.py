"""What asyncio code does, as functions that return what they saw. Run by ordinary tasks and by those of objects, they must see
the same."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

Scenario = Callable[[], Awaitable[Any]]
SCENARIOS: dict[str, Scenario] = {}
VAR: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")
SHORT_S = 0.002
LONG_S = 60.0


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__.replace("_", " ")] = function
    return function


async def nap(value: Any = None, times: int = 1) -> Any:
    for _ in range(times):
        await asyncio.sleep(0)
    return value


async def fail(error: BaseException, times: int = 1) -> None:
    await nap(times=times)
    raise error


def task() -> asyncio.Task[Any]:
    current = asyncio.current_task()
    assert current is not None
    return current


@scenario
async def timeout_expires() -> Any:
    try:
        async with asyncio.timeout(SHORT_S) as timeout:
            await asyncio.sleep(LONG_S)
    except TimeoutError:
        return timeout.expired(), task().cancelling()


@scenario
async def timeout_that_does_not_expire() -> Any:
    async with asyncio.timeout(LONG_S) as timeout:
        await nap()
    return timeout.expired(), task().cancelling()


@scenario
async def inner_of_two_timeouts_expires() -> Any:
    async with asyncio.timeout(LONG_S) as outer:
        try:
            async with asyncio.timeout(SHORT_S):
                await asyncio.sleep(LONG_S)
        except TimeoutError:
            return outer.expired(), task().cancelling(), await nap("goes on")


@scenario
async def outer_of_two_timeouts_expires() -> Any:
    seen = []
    try:
        async with asyncio.timeout(SHORT_S):
            try:
                async with asyncio.timeout(LONG_S):
                    await asyncio.sleep(LONG_S)
            except TimeoutError:
                seen.append("inner")
    except TimeoutError:
        seen.append("outer")
    return seen


@scenario
async def timeout_of_zero() -> Any:
    try:
        async with asyncio.timeout(0):
            await nap(times=3)
            return "not reached"
    except TimeoutError:
        return "timeout"


@scenario
async def wait_for_results_and_timeouts() -> Any:
    seen = [await asyncio.wait_for(nap(1), LONG_S)]
    try:
        await asyncio.wait_for(asyncio.sleep(LONG_S), SHORT_S)
    except TimeoutError:
        seen.append("timeout")
    return seen, task().cancelling()


@scenario
async def group_of_tasks_succeeds() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(nap(number, number)) for number in range(4)]
    return [each.result() for each in tasks]


@scenario
async def group_of_tasks_where_one_fails() -> Any:
    others: list[asyncio.Task[Any]] = []
    failed: list[str] = []
    try:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(asyncio.sleep(LONG_S)) for _ in range(2)]
            group.create_task(fail(KeyError("x")))
            await asyncio.sleep(LONG_S)
    except* KeyError as errors:
        failed += [repr(error) for error in errors.exceptions]
    return failed, [other.cancelled() for other in others], task().cancelling()


@scenario
async def group_of_tasks_cancelled_from_outside() -> Any:
    seen = []

    async def body() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(LONG_S))
                await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            seen.append(("cancelled", task().cancelling()))
            raise

    inner = asyncio.create_task(body())
    await nap(times=3)
    inner.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await inner
    return seen, inner.cancelled()


@scenario
async def gather_results_errors_and_cancellation() -> Any:
    seen: list[Any] = [await asyncio.gather(nap(1, 3), nap(2), nap(3, 2))]
    seen.append([repr(each) for each in await asyncio.gather(nap(1), fail(KeyError("x")), return_exceptions=True)])
    try:
        await asyncio.gather(asyncio.sleep(LONG_S), fail(ValueError("y")))
    except ValueError as exc:
        seen.append(repr(exc))
    both = asyncio.gather(asyncio.sleep(LONG_S), asyncio.sleep(LONG_S))
    await nap()
    both.cancel()
    try:
        await both
    except asyncio.CancelledError:
        seen.append("cancelled")
    return seen


@scenario
async def shield_lets_the_inner_task_finish() -> Any:
    inner = asyncio.create_task(nap("done", 4))

    async def outer() -> None:
        await asyncio.shield(inner)

    waiting = asyncio.create_task(outer())
    await nap()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    return waiting.cancelled(), inner.cancelled(), await inner


@scenario
async def queue_keeps_its_order() -> Any:
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    seen = []

    async def consume() -> None:
        for _ in range(6):
            seen.append(await queue.get())
            queue.task_done()

    consumer = asyncio.create_task(consume())
    for number in range(6):
        await queue.put(number)
    await queue.join()
    await consumer
    return seen


@scenario
async def locks_events_semaphores_conditions_and_barriers() -> Any:
    lock, event, semaphore, condition = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2), asyncio.Condition()
    barrier = asyncio.Barrier(3)
    seen: list[Any] = []

    async def work(number: int) -> None:
        async with semaphore, lock:
            await nap()
            seen.append(number)
        await event.wait()
        async with condition:
            await condition.wait()
        seen.append(("passed", number))
        await barrier.wait()

    tasks = [asyncio.create_task(work(number)) for number in range(3)]
    await nap(times=20)
    event.set()
    await nap(times=5)
    async with condition:
        condition.notify_all()
    await asyncio.gather(*tasks)
    return seen


@scenario
async def the_current_task_and_all_tasks() -> Any:
    await nap()  # The task of a call is listed from its first suspension on.
    inner = asyncio.create_task(nap(times=3))
    seen = [task() is task(), inner in asyncio.all_tasks(), task() in asyncio.all_tasks(), inner is task()]
    await inner
    return [*seen, inner in asyncio.all_tasks(), task().done(), inner.get_coro() is not None]


@scenario
async def names_of_tasks() -> Any:
    inner = asyncio.create_task(nap(), name="inner")
    names = [inner.get_name()]
    inner.set_name("other")
    names.append(inner.get_name())
    await inner
    return names, isinstance(task().get_name(), str)


@scenario
async def counts_of_cancellations() -> Any:
    seen: list[Any] = []

    async def body() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(LONG_S)
            except asyncio.CancelledError as exc:
                seen.append((exc.args, task().cancelling(), task().uncancel()))
        await nap()
        seen.append("finished")

    inner = asyncio.create_task(body())
    await nap()
    seen.append(inner.cancel("first"))
    await nap(times=2)
    seen.append(inner.cancel("second"))
    await inner
    return seen, inner.cancelled(), inner.cancel(), inner.cancelling()


@scenario
async def two_cancellations_at_once_are_delivered_once() -> Any:
    seen: list[Any] = []

    async def body() -> None:
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            seen.append(task().cancelling())
        await nap()
        seen.append("finished")

    inner = asyncio.create_task(body())
    await nap()
    inner.cancel()
    inner.cancel()
    await inner
    return seen


@scenario
async def task_that_cancels_itself() -> Any:
    async def body() -> str:
        task().cancel()
        try:
            await nap()
        except asyncio.CancelledError:
            return "caught"
        return "not cancelled"

    async def body_that_ends() -> None:
        task().cancel()

    ends = asyncio.create_task(body_that_ends())
    with contextlib.suppress(asyncio.CancelledError):
        await ends
    return await asyncio.create_task(body()), ends.cancelled()


@scenario
async def task_cancelled_before_it_began() -> Any:
    seen = []

    async def body() -> None:
        seen.append("ran")

    inner = asyncio.create_task(body())
    inner.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await inner
    return seen, inner.cancelled()


@scenario
async def cancellation_when_the_awaited_future_is_done_already() -> Any:
    future = asyncio.get_running_loop().create_future()

    async def body() -> str:
        try:
            return str(await future)
        except asyncio.CancelledError:
            return "cancelled"

    inner = asyncio.create_task(body())
    await nap()
    future.set_result("result")
    inner.cancel()
    return await inner


@scenario
async def future_cancelled_under_a_task() -> Any:
    future = asyncio.get_running_loop().create_future()

    async def body() -> str:
        try:
            await future
        except asyncio.CancelledError:
            return f"cancelled {task().cancelling()}"
        return "no"

    inner = asyncio.create_task(body())
    await nap()
    future.cancel()
    return await inner


@scenario
async def errors_of_tasks() -> Any:
    inner: Any = asyncio.create_task(fail(ValueError("x")))
    seen = []
    for _ in range(2):
        try:
            await inner
        except ValueError as exc:
            seen.append(repr(exc))
    try:
        asyncio.create_task(nap()).result()
    except asyncio.InvalidStateError:
        seen.append("not done")
    for refuse in (lambda: inner.set_result(1), lambda: inner.set_exception(ValueError())):
        try:
            refuse()
        except RuntimeError:
            seen.append("refused")
    await nap(times=2)
    return seen, inner.done(), repr(inner.exception())


@scenario
async def callbacks_of_tasks() -> Any:
    seen: list[Any] = []
    inner = asyncio.create_task(nap(5))
    inner.add_done_callback(lambda done: seen.append((done is inner, done.result())))
    gone = seen.append
    inner.add_done_callback(gone)
    removed = inner.remove_done_callback(gone)
    await inner
    await nap()
    return seen, removed


@scenario
async def waiting_for_the_first() -> Any:
    slow, fast = asyncio.create_task(asyncio.sleep(LONG_S)), asyncio.create_task(nap("fast"))
    done, pending = await asyncio.wait({slow, fast}, return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    order = [await each for each in asyncio.as_completed([nap("b", 6), nap("a")])]
    return fast in done, slow in pending, order


class BadYield:
    def __await__(self) -> Generator[Any, Any, None]:
        yield "nonsense"


class BareFuture:
    """Yields a future that was not awaited."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield asyncio.get_running_loop().create_future()


@scenario
async def bad_yields() -> Any:
    seen = []
    for bad in (BadYield(), BareFuture()):
        try:
            await bad
        except RuntimeError as exc:
            seen.append("bad yield" in str(exc) or "yield was used" in str(exc))
    return seen, await nap("goes on")


@scenario
async def task_that_awaits_itself() -> Any:
    async def body() -> str:
        try:
            await task()
        except RuntimeError as exc:
            return str(exc)[:26]
        return "no"

    return await asyncio.create_task(body())


@scenario
async def coroutine_used_twice() -> Any:
    coro = nap(1)
    await coro
    try:
        await coro
    except RuntimeError as exc:
        return str(exc)


@scenario
async def context_variables_are_inherited_and_not_given_back() -> Any:
    VAR.set("outer")
    seen = []

    async def body() -> None:
        seen.append(VAR.get())
        VAR.set("inner")
        await nap()
        seen.append(VAR.get())

    await asyncio.create_task(body())
    seen.append(VAR.get())
    await body()
    seen.append(VAR.get())
    other = contextvars.copy_context()
    await asyncio.create_task(body(), context=other)
    seen += [VAR.get(), other[VAR]]
    return seen


@scenario
async def context_variables_reach_callbacks_and_threads() -> Any:
    VAR.set("mine")
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: future.set_result(VAR.get()))
    return await future, await asyncio.to_thread(VAR.get)


@scenario
async def work_in_threads() -> Any:
    here = threading.get_ident()
    loop = asyncio.get_running_loop()
    elsewhere = await asyncio.to_thread(threading.get_ident) != here
    try:
        await loop.run_in_executor(None, lambda: 1 / 0)
    except ZeroDivisionError as exc:
        return elsewhere, repr(exc), threading.get_ident() == here


@scenario
async def streams_over_a_socket_pair() -> Any:
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    other_reader, other_writer = await asyncio.open_connection(sock=right)

    async def echo() -> None:
        while line := await other_reader.readline():
            other_writer.write(line.upper())
            await other_writer.drain()
        other_writer.close()

    echoing = asyncio.create_task(echo())
    seen = []
    for line in (b"one\n", b"two\n"):
        writer.write(line)
        await writer.drain()
        seen.append(await reader.readline())
    writer.write_eof()
    seen.append(await reader.read())
    await echoing
    writer.close()
    return seen


@scenario
async def asynchronous_generators() -> Any:
    seen: list[Any] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for number in range(10):
                await nap()
                yield number
        finally:
            await nap()
            seen.append("closed")

    async with contextlib.aclosing(numbers()) as generator:
        async for number in generator:
            seen.append(number)
            if number == 1:
                break
    return seen, [n async for n in numbers()]


@scenario
async def clean_up_after_cancellation_may_wait() -> Any:
    seen = []

    async def body() -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            await nap(times=3)
            seen.append("cleaned up")

    inner = asyncio.create_task(body())
    await nap()
    inner.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await inner
    return seen, inner.cancelled()


@scenario
async def representations_and_stacks_do_not_fail() -> Any:
    inner = asyncio.create_task(asyncio.sleep(LONG_S))
    await nap()
    with open("/dev/null", "w") as null:
        inner.print_stack(file=null)
    frames = len(inner.get_stack())
    shown = "pending" in repr(inner)
    inner.cancel()
    return frames > 0, shown, inner.get_context() is not None if hasattr(inner, "get_context") else True
