"""Tests that are coroutines run on the worker's own event loop, and nothing may go wrong behind their back."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.support import host_world as world
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.objects.threads import keep_to_this_thread

TEST_TIMEOUT_S = 60.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    run_to_end(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def run_to_end(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on a loop of its own. An exception that reaches the loop's handler fails it, as does a world in which an
    invariant does not hold at the end."""
    problems: list[dict[str, Any]] = []
    world.WORLDS.clear()
    loop = new_worker_loop()
    keep_to_this_thread()
    loop.set_exception_handler(lambda _, context: problems.append(context))

    async def bounded() -> None:
        async with asyncio.timeout(TEST_TIMEOUT_S):
            await test

    try:
        loop.run_until_complete(bounded())
        for each in world.WORLDS:
            each.check()
            each.expect_nothing_forgotten()
        gc.collect(1)  # What was never looked at is reported when it is freed.
        loop.run_until_complete(asyncio.sleep(0))
        assert not problems, problems
    finally:
        world.WORLDS.clear()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
