"""A client of `connect_sync` in the code of an object: it would stop every object of the worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.host_world import World
from tidegate import DurableObject, SyncClient, connect_sync
from tidegate.runtime.errors import MethodRaised, StartFailed, Unavailable

NOBODY = "tcp://127.0.0.1:9"


class Caller(DurableObject):
    async def by_stub(self) -> Any:
        with connect_sync(NOBODY, timeout=5) as client:
            return client.stub("Other", "a").number()

    async def after_a_wait(self) -> Any:
        await asyncio.sleep(0)
        return SyncClient(NOBODY).call("Other", "a", "number")

    async def in_a_callback(self) -> Any:
        future = asyncio.get_running_loop().create_future()

        def call() -> None:
            try:
                SyncClient(NOBODY).call("Other", "a", "number")
            except RuntimeError as exc:
                future.set_exception(exc)

        asyncio.get_running_loop().call_soon(call)
        return await future

    async def in_a_thread(self) -> str:
        with connect_sync(NOBODY, connect_timeout=0.05) as client:
            try:
                await asyncio.to_thread(client.call, "Other", "a", "number")
            except Unavailable:
                return "nobody is there"
        return "answered"


class Starter(DurableObject):
    def __init__(self) -> None:
        self.number = SyncClient(NOBODY).call("Other", "a", "number")

    async def get(self) -> Any:
        return self.number


@pytest.mark.parametrize("method", ["by_stub", "after_a_wait", "in_a_callback"])
async def test_a_synchronous_call_in_an_object_is_refused_at_once_with_the_way_out(method: str) -> None:
    world = World(Caller)
    before_s = time.monotonic()
    with pytest.raises((RuntimeError, MethodRaised), match=r"would stop the event loop.*await self\.stub.*asyncio\.to_thread"):
        await world.ask(Caller, "a", method)
    assert time.monotonic() - before_s < 1


async def test_a_synchronous_call_in_the_start_of_an_object_is_refused_too() -> None:
    with pytest.raises(StartFailed, match="would stop the event loop"):
        await World(Starter).ask(Starter, "a", "get")


async def test_in_a_thread_of_the_object_the_client_works() -> None:
    assert await World(Caller).ask(Caller, "a", "in_a_thread") == "nobody is there"
