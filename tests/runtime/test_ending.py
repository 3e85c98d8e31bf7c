"""What is to end ends in time, also where cancellations are swallowed."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from tidegate.runtime.ending import end, run, while_it_goes_on, within

FOREVER = 1_000_000


async def stubborn(swallows: int) -> str:
    """Goes on as if nobody had cancelled it, so many times."""
    for _ in range(swallows):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
    await asyncio.Event().wait()
    return ""


def test_a_task_that_swallows_cancellations_is_cancelled_until_it_has_ended() -> None:
    async def main() -> None:
        task = asyncio.create_task(stubborn(5))
        await asyncio.sleep(0)
        assert await end({task}, patience_s=0) == set()
        assert task.cancelled()

    asyncio.run(main())


def test_one_that_ends_in_order_is_cancelled_once() -> None:
    cancelled = 0

    async def orderly() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            await asyncio.sleep(0.05)
            raise

    async def main() -> None:
        task = asyncio.create_task(orderly())
        await asyncio.sleep(0)
        assert await end({task}) == set()

    asyncio.run(main())
    assert cancelled == 1


def test_what_raises_at_its_end_has_ended_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the other side is gone")

    async def main() -> None:
        task = asyncio.create_task(failing())
        await asyncio.sleep(0)
        assert await end({task}) == set()

    asyncio.run(main())
    assert caplog.messages == []


def test_what_is_waited_for_has_a_result_an_error_or_too_little_time() -> None:
    async def gives() -> int:
        return 7

    async def raises() -> int:
        raise KeyError("x")

    async def main() -> None:
        assert await within(10, gives()) == 7
        with pytest.raises(KeyError):
            await within(10, raises())
        with pytest.raises(TimeoutError):
            await within(0.01, stubborn(1))

    asyncio.run(main())


def test_who_waits_is_cancelled_although_what_it_waits_for_swallows_that() -> None:
    async def main() -> None:
        task = asyncio.create_task(within(60, stubborn(3)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled()

    asyncio.run(main())


def test_one_that_never_ends_is_given_back_and_a_run_ends_all_the_same_and_names_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> str:
        task = asyncio.create_task(stubborn(FOREVER), name="the one")
        await asyncio.sleep(0)
        assert await end({task}, within_s=0.1, patience_s=0) == {task}
        return "done"

    with caplog.at_level(logging.WARNING):
        assert run(main()) == "done"
    assert any("left behind" in message and "the one" in message for message in caplog.messages)


def test_a_run_does_not_wait_for_threads() -> None:
    waited_for = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, waited_for.wait)

    run(main())
    waited_for.set()


def test_a_run_raises_what_its_main_raises() -> None:
    async def main() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(main())


def test_what_goes_on_may_take_as_long_as_it_likes_and_what_stands_still_is_ended() -> None:
    looks = 0

    async def main() -> None:
        asked = asyncio.Event()

        def grows() -> int:
            nonlocal looks
            looks += 1
            asked.set() if looks == 20 else None
            return looks

        async def until_asked() -> str:
            await asked.wait()
            return "done"

        assert await while_it_goes_on(grows, 0.001, until_asked()) == "done"
        with pytest.raises(TimeoutError):
            await while_it_goes_on(lambda: 7, 0.001, stubborn(1))

    asyncio.run(main())
    assert looks >= 20
