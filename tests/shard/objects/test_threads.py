"""What other threads do to an object is refused, and what they are for works."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.host_world import World
from tidegate import AlarmInfo, DurableObject

POOL = ThreadPoolExecutor(1)

USES: dict[str, Callable[[Any], Any]] = {
    "get": lambda self: self.storage.get("k"),
    "get of what is not in memory": lambda self: self.storage.get("nowhere"),
    "get_many": lambda self: self.storage.get_many(["k"]),
    "list": lambda self: self.storage.list(),
    "put": lambda self: self.storage.put("k", 2),
    "put_many": lambda self: self.storage.put_many({"k": 2}),
    "delete": lambda self: self.storage.delete("k"),
    "delete_many": lambda self: self.storage.delete_many(["k"]),
    "delete_all": lambda self: self.storage.delete_all(),
    "get_alarm": lambda self: self.storage.get_alarm(),
    "set_alarm": lambda self: self.storage.set_alarm(2e9),
    "delete_alarm": lambda self: self.storage.delete_alarm(),
    "sync": lambda self: self.storage.sync(),
    "transaction": lambda self: self.storage.transaction(),
    "spawn": lambda self: refused_to_spawn(self),
    "block_concurrency": lambda self: self.block_concurrency(),
    "abort": lambda self: self.abort(),
}


def refused_to_spawn(self: Any) -> Any:
    with contextlib.closing(asyncio.sleep(0)) as work:
        return self.spawn(work)


async def in_a_thread(use: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(use)


async def in_a_pool_of_the_module(use: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(POOL, use)


async def in_a_plain_thread(use: Callable[[], Any]) -> Any:
    found: list[BaseException] = []

    def run() -> None:
        try:
            use()
        except BaseException as exc:
            found.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)
    raise found[0]


async def in_a_loop_of_a_thread(use: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return await use()

    return await asyncio.to_thread(asyncio.run, run())


class Thing(DurableObject):
    async def alarm(self, info: AlarmInfo) -> None: ...

    async def use(self, how: str, where: int) -> str:
        await self.storage.put("k", 1)
        try:
            await WAYS[where](lambda: USES[how](self))
        except RuntimeError as exc:
            return str(exc)
        return "it was taken"

    async def way_out(self) -> Any:
        loop = asyncio.get_running_loop()
        value = await self.storage.get("k", 1)
        doubled = await asyncio.to_thread(lambda: value * 2)
        await self.storage.put("k", doubled)
        await asyncio.to_thread(lambda: loop.call_soon_threadsafe(self.storage.put, "other", 5))
        await asyncio.sleep(0)
        return [await self.storage.get("k"), await self.storage.get("other")]


WAYS = [in_a_thread, in_a_pool_of_the_module, in_a_plain_thread, in_a_loop_of_a_thread]


@pytest.mark.parametrize("where", range(len(WAYS)), ids=[way.__name__ for way in WAYS])
@pytest.mark.parametrize("how", USES)
async def test_an_object_used_in_another_thread_refuses_and_says_the_way_out(how: str, where: int) -> None:
    world = World(Thing)
    told = await world.ask(Thing, "a", "use", how, where)
    assert "an object belongs to the thread of its event loop" in told
    assert "await asyncio.to_thread(work, value)" in told
    assert world.durable(Thing, "a") == {"k": 1}


async def test_values_go_into_threads_and_results_come_back() -> None:
    world = World(Thing)
    assert await world.ask(Thing, "a", "way_out") == [2, 5]


def test_threads_that_an_app_starts_when_it_is_loaded_count() -> None:
    program = """
import threading
from tidegate.shard.objects.storage import Storage
before, over = Storage.get.__code__, threading.Event()
threading.Thread(target=over.wait, name="scheduler").start()
from tidegate.shard.objects.threads import keep_to_this_thread
keep_to_this_thread()
over.set()
assert Storage.get.__code__ is not before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_nothing_looks_at_its_thread_before_the_first_thread_of_an_app_starts() -> None:
    program = """
import threading
from concurrent.futures import ThreadPoolExecutor
from tidegate.shard.objects.threads import keep_to_this_thread
from tidegate.shard.objects.storage import Storage
keep_to_this_thread()
before, bound = Storage.get.__code__, Storage.get
own = threading.Thread(target=lambda: None, name="tidegate-commit")
own.start(), own.join()
ThreadPoolExecutor(1, "tidegate-segments").submit(int).result()
assert Storage.get.__code__ is before
assert "belongs to the thread" in str(ThreadPoolExecutor(1).submit(bound, None, "k").exception())
assert Storage.get.__code__ is not before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("order", ["prepare_uncopied(), keep_to_this_thread()", "keep_to_this_thread(), prepare_uncopied()"])
def test_the_thread_with_which_large_replies_are_sent_makes_nothing_look(order: str) -> None:
    program = f"""
import threading
from tidegate.runtime.sockets.endpoint import prepare_uncopied
from tidegate.shard.objects.threads import keep_to_this_thread
from tidegate.shard.objects.storage import Storage
before = Storage.get.__code__
{order}
assert threading.active_count() == 2
assert Storage.get.__code__ is before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
