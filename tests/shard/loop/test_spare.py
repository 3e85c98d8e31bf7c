"""The spare task runs call after call, and whoever keeps it sees one of them; without it all is the same."""

from __future__ import annotations

import asyncio
import types
import weakref
from typing import Any

import pytest

from tests.shard.loop.test_task import Runner, outcome_of
from tests.support.host_world import World
from tests.support.task_scenarios import SCENARIOS
from tidegate.runtime.errors import MethodRaised
from tidegate.shard.loop.spare import PlainDriver, SpareTask
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.objects.object import DurableObject

WAYS = pytest.mark.parametrize("spare_task", [True, False], ids=["spare task", "task per call"])
KEPT: list[Any] = []


def strongly(task: asyncio.Task[Any]) -> None:
    KEPT.append(task)


def weakly(task: asyncio.Task[Any]) -> None:
    KEPT.append(weakref.ref(task))


def by_name(task: asyncio.Task[Any]) -> None:
    task.set_name("mine")


def by_listening(task: asyncio.Task[Any]) -> None:
    task.add_done_callback(KEPT.append)


HANDS = [strongly, weakly, by_name, by_listening]


class Keeper(DurableObject):
    async def plain(self, value: Any) -> Any:
        return value

    async def keep(self, how: int) -> str:
        task = asyncio.current_task()
        assert task is not None
        HANDS[how](task)
        return "kept"

    async def keep_and_fail(self) -> None:
        KEPT.append(asyncio.current_task())
        raise ValueError("on purpose")

    async def cancel(self) -> str:
        task = asyncio.current_task()
        assert task is not None
        KEPT.append(task)
        task.cancel()
        return "not seen"

    async def wait(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def wait_and_fail(self) -> None:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        finally:
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    KEPT.clear()


async def test_calls_that_end_in_their_first_step_share_a_task_and_others_do_not() -> None:
    world = World(Keeper)
    await world.ask(Keeper, "a", "plain", 1)
    driver = world.host._spare.task._driver  # The task itself, kept here, would not be used again.
    assert [await world.ask(Keeper, "a", "plain", n) for n in range(3)] == [0, 1, 2]
    assert world.host._spare.task._driver is driver
    assert await world.ask(Keeper, "a", "wait", 7) == 7
    assert world.host._spare.task._driver is not driver


@WAYS
@pytest.mark.parametrize("how", range(len(HANDS)), ids=[each.__name__ for each in HANDS])
async def test_whoever_keeps_the_task_of_a_call_sees_that_call_and_no_other(how: int, spare_task: bool) -> None:
    world = World(Keeper, spare_task=spare_task)
    await world.ask(Keeper, "a", "plain", 1)
    driver = world.host._spare.task._driver
    assert await world.ask(Keeper, "a", "keep", how) == "kept"
    assert world.host._spare.task._driver is not driver
    assert await world.ask(Keeper, "a", "plain", 2) == 2
    await world.settle()
    for task in KEPT:
        assert task.__class__ is weakref.ref or task.result() == "kept"


@WAYS
async def test_whoever_keeps_the_task_of_a_call_that_raises_or_is_cancelled_sees_that(spare_task: bool) -> None:
    world = World(Keeper, spare_task=spare_task)
    with pytest.raises(MethodRaised, match="on purpose"):
        await world.ask(Keeper, "a", "keep_and_fail")
    call = world.call(Keeper, "a", "cancel")
    await world.settle()
    assert isinstance(call.error, MethodRaised)
    failed, cancelled = KEPT
    assert isinstance(failed.exception(), ValueError)
    assert cancelled.cancelled()
    assert await world.ask(Keeper, "a", "plain", 2) == 2


@pytest.mark.parametrize("where", ["run", "run_in_background", "run_in_section", "run_in_transaction"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_asyncio_code_sees_the_same_where_each_call_has_a_task_of_its_own(name: str, where: str) -> None:
    expected = await asyncio.create_task(outcome_of(SCENARIOS[name]))
    assert await World(Runner, spare_task=False).ask(Runner, "a", where, name) == expected


@WAYS
async def test_a_call_that_suspends_is_gone_through_to_its_result_or_its_error(spare_task: bool) -> None:
    world = World(Keeper, spare_task=spare_task)
    assert await world.ask_all([world.call(Keeper, "a", "wait", n) for n in range(5)]) == list(range(5))
    with pytest.raises(MethodRaised):
        await world.ask(Keeper, "a", "wait_and_fail")
    assert not world.host.book.running


async def test_after_an_error_where_none_should_be_no_task_is_the_current_one() -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()
    loop.call_soon(_recover, loop, done)
    assert await done


def _recover(loop: asyncio.AbstractEventLoop, done: asyncio.Future[bool]) -> None:
    spare = SpareTask(loop)
    asyncio.tasks._enter_task(loop, spare.task)  # type: ignore[arg-type]  # as Host does
    before = spare.task
    spare.recover()
    done.set_result(asyncio.current_task(loop) is None and spare.task is not before and isinstance(spare.task, ObjectTask))


def test_a_plain_driver_says_what_a_generator_would_say_of_the_coroutine_that_it_runs() -> None:
    @types.coroutine
    def bare() -> Any:
        return (yield "waits")

    async def code() -> Any:
        return await bare()

    driver = PlainDriver()
    driver.send(None)
    coro = code()
    assert (driver.send(coro), driver.gi_yieldfrom) == ("waits", coro)
    assert (driver.send(None), driver.gi_yieldfrom) == (None, None)
