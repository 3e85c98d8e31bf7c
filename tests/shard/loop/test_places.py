"""Whose code it is that writes a line: object, method and call, wherever in the call it does that."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.host_world import World
from tidegate import DurableObject
from tidegate.runtime.logs.line import Speaker
from tidegate.shard.loop.places import speaker

said: dict[str, Speaker | None] = {}


def say(where: str) -> None:
    said[where] = speaker()


class Talk(DurableObject):
    def __init__(self) -> None:
        say("init")

    async def on_start(self) -> None:
        say("start")

    async def plain(self) -> None:
        say("plain")
        say("plain again")

    async def suspended(self) -> None:
        await asyncio.sleep(0)
        say("suspended")

    async def parts(self) -> None:
        await asyncio.gather(self._part("first step"), self._part("another"))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._part("in a group"))

    async def _part(self, where: str) -> None:
        await asyncio.sleep(0)
        say(where)

    async def threads(self) -> None:
        await asyncio.to_thread(say, "thread")
        await asyncio.get_running_loop().run_in_executor(None, say, "executor")

    async def timers(self) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_later(0.001, say, "timer")
        loop.call_later(0.002, done.set_result, None)
        await done

    async def background(self) -> None:
        await self.spawn(self._part("background"))


def of(method: str, call: Any = 1) -> Speaker:
    return Speaker("Talk/a", method, call)


async def ask(method: str) -> World:
    said.clear()
    world = World(Talk)
    await world.ask(Talk, "a", method)
    return world


async def test_the_start_of_an_object_speaks_for_itself() -> None:
    await ask("plain")
    assert said["init"] == Speaker("Talk/a", "__init__")
    assert said["start"] == Speaker("Talk/a", "on_start")


async def test_a_call_speaks_with_its_method_and_its_id_before_and_after_it_has_waited() -> None:
    await ask("plain")
    assert said["plain"] == said["plain again"]
    assert said["plain"] is not None
    assert said["plain"][:2] == ("Talk/a", "plain")
    assert said["plain"].call is not None
    await ask("suspended")
    assert said["suspended"] is not None
    assert said["suspended"][:2] == ("Talk/a", "suspended")
    assert said["suspended"].call is not None


async def test_what_a_call_starts_speaks_for_the_call() -> None:
    for method, places in (
        ("parts", ["first step", "another", "in a group"]),
        ("threads", ["thread", "executor"]),
        ("timers", ["timer"]),
    ):
        await ask(method)
        for place in places:
            found = said[place]
            assert found is not None, place
            assert (found.object, found.method) == ("Talk/a", method), place
            assert found.call is not None, place


async def test_what_runs_in_a_thread_finds_the_context_of_that_thread() -> None:
    kept = contextvars.ContextVar("kept", default=0)

    class Threads(DurableObject):
        async def count(self) -> list[int]:
            with ThreadPoolExecutor(1, initializer=kept.set, initargs=(7,)) as pool:
                loop = asyncio.get_running_loop()
                return [await loop.run_in_executor(pool, kept.get) for _ in range(2)]

    assert await World(Threads).ask(Threads, "a", "count") == [7, 7]


async def test_a_background_task_speaks_with_its_own_name() -> None:
    await ask("background")
    assert said["background"] == Speaker("Talk/a", "_part")


async def test_the_runtime_speaks_for_nobody() -> None:
    assert speaker() is None


async def test_to_ask_whose_code_runs_leaves_the_spare_task_to_the_next_call() -> None:
    world = await ask("plain")
    spare = id(world.host._spare.task)
    await world.ask(Talk, "a", "plain")
    assert id(world.host._spare.task) == spare
