"""What is left of an instance that was reset: its callers are answered at once, its code ends at its next resumption."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.alarm_world import AlarmWorld, Bell, in_virtual_time
from tests.support.cold_world import Act
from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, LOG, control, until
from tidegate.runtime.errors import ObjectReset, StartFailed
from tidegate.runtime.limits import RESET_CANCELS_MAX, RESET_CLEANUP_S
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()
    Actor.acts = {}


class Actor(DurableObject):
    acts: dict[str, Act] = {}  # noqa: RUF012 - of the running test, for all instances

    async def act(self, key: str) -> Any:
        return await self.acts[key](self)

    async def ping(self) -> str:
        LOG.append("ping")
        return "pong"


def act(world: World, play: Act, name: str = "one") -> Call:
    key = str(len(Actor.acts))
    Actor.acts[key] = play
    return world.call(Actor, name, "act", key)


async def fail_in_section(actor: Actor) -> None:
    with contextlib.suppress(ValueError):
        async with actor.block_concurrency():
            raise ValueError("in a section")


async def fail_in_nested_section(actor: Actor) -> None:
    async with actor.block_concurrency():
        await fail_in_section(actor)


async def abort(actor: Actor) -> None:
    with contextlib.suppress(BaseException):
        actor.abort("enough")


async def abort_in_transaction(actor: Actor) -> None:
    async with actor.storage.transaction():
        await abort(actor)


BREAKS = [fail_in_section, fail_in_nested_section, abort, abort_in_transaction]


async def wait_for_timer() -> None:
    await asyncio.sleep(1)


async def wait_for_nothing() -> None:
    await asyncio.sleep(0)


async def wait_for_future() -> None:
    await until("never")


async def wait_in_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_timer())


async def wait_for_gather() -> None:
    await asyncio.gather(asyncio.sleep(1), wait_for_future())


async def wait_for_thread() -> None:
    await asyncio.to_thread(int)


async def wait_with_timeout() -> None:
    async with asyncio.timeout(2):
        await asyncio.sleep(1)


WAITS = [
    wait_for_timer, wait_for_nothing, wait_for_future, wait_in_group, wait_for_gather, wait_for_thread, wait_with_timeout
]  # fmt: skip


@pytest.mark.parametrize("broken_by", BREAKS)
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("suspended_before", [False, True])
@in_virtual_time
async def test_code_that_breaks_its_object_and_goes_on_is_cancelled_at_its_next_wait_and_its_caller_answered_at_once(
    broken_by: Callable[[Actor], Any], wait: Callable[[], Any], suspended_before: bool
) -> None:
    world = World(Actor)
    control("never")

    async def go_on(actor: Actor) -> None:
        if suspended_before:
            await asyncio.sleep(0)
        await broken_by(actor)
        try:
            await wait()
            LOG.append("went on")
        except asyncio.CancelledError:
            LOG.append("cancelled")
            raise

    call = act(world, go_on)
    await world.settle(4)
    assert isinstance(call.error, ObjectReset)
    assert world.host.unanswered == 0
    assert await world.ask(Actor, "one", "ping") == "pong"
    await asyncio.sleep(3)
    assert sorted(LOG) == ["cancelled", "ping"]
    assert not [task for task in asyncio.all_tasks() if isinstance(task, ObjectTask)]


SWALLOWERS: dict[str, Callable[[], Any]] = {}


def swallower(function: Callable[[], Any]) -> Callable[[], Any]:
    SWALLOWERS[function.__name__] = function
    return function


@swallower
async def again_and_again() -> None:
    while "stop" not in LOG:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
            LOG.append("went on")


@swallower
async def with_bare_yields() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
            LOG.append("went on")


@swallower
async def after_uncancel() -> None:
    while True:
        try:
            await asyncio.sleep(0.01)
            LOG.append("went on")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            task.uncancel()


@swallower
async def everything() -> None:
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(0.01)
            LOG.append("went on")


@swallower
async def in_a_sub_task() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.create_task(again_and_again())
            LOG.append("went on")


@swallower
async def once_and_lives_on() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(100)
    await asyncio.sleep(0.1)
    LOG.append("went on")


@pytest.mark.parametrize("swallow", SWALLOWERS.values(), ids=SWALLOWERS)
@pytest.mark.parametrize("first_step", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@in_virtual_time
async def test_code_that_swallows_its_cancellation_is_cancelled_again_and_closed_in_the_end(
    swallow: Callable[[], Any], first_step: bool
) -> None:
    world = World(Actor)

    async def go_on(actor: Actor) -> None:
        if first_step:
            await abort(actor)
        await swallow()

    call = act(world, go_on)
    if not first_step:
        await world.settle()
        world.activation(Actor, "one").fail("so it is")
    LOG.clear()
    await world.settle(4)
    assert isinstance(call.error, ObjectReset)
    assert await world.ask(Actor, "one", "ping") == "pong"
    await asyncio.sleep(RESET_CLEANUP_S + 3)
    assert LOG == ["ping"]
    assert not [task for task in asyncio.all_tasks() if isinstance(task, ObjectTask)]


@in_virtual_time
async def test_what_cleans_up_after_a_reset_has_some_seconds_for_it(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Actor)

    async def clean_up(actor: Actor) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(RESET_CLEANUP_S - 1)
            LOG.append("clean")
            await asyncio.sleep(1_000)
            LOG.append("went on")

    call = act(world, clean_up)
    await world.settle()
    world.activation(Actor, "one").fail("so it is")
    assert isinstance(call.error, ObjectReset)
    await asyncio.sleep(RESET_CLEANUP_S - 0.5)
    assert LOG == ["clean"]
    await asyncio.sleep(2_000)
    assert LOG == ["clean"]


@in_virtual_time
async def test_code_that_cannot_be_cancelled_is_named_when_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Actor)

    async def go_on(actor: Actor) -> None:
        await abort(actor)
        await again_and_again()

    call = act(world, go_on)
    await world.settle(RESET_CANCELS_MAX + 10)
    assert isinstance(call.error, ObjectReset)
    assert f"Actor/one was reset and Actor.act has swallowed {RESET_CANCELS_MAX} cancellations since" in caplog.text


# Work that a reset instance starts


STARTS: dict[str, Callable[[Actor, Any], Any]] = {
    "create_task": lambda actor, coro: asyncio.create_task(coro),
    "spawn": lambda actor, coro: actor.spawn(coro),
    "ensure_future": lambda actor, coro: asyncio.ensure_future(coro),
    "gather": lambda actor, coro: asyncio.gather(coro),
    "a plain task": lambda actor, coro: asyncio.Task(coro, loop=asyncio.get_running_loop()),
    "a thread": lambda actor, coro: asyncio.ensure_future(
        asyncio.to_thread(asyncio.run_coroutine_threadsafe, coro, asyncio.get_running_loop())
    ),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_whatever_a_reset_instance_has_started_or_starts_ends_with_it(
    start: Callable[[Actor, Any], Any], when: str
) -> None:
    world = World(Actor)

    async def work() -> None:
        while True:
            await asyncio.sleep(0.001)
            LOG.append("went on")

    async def go_on(actor: Actor) -> None:
        if when == "before":
            kept.append(start(actor, work()))
        await abort(actor)
        if when == "after":
            kept.append(start(actor, work()))

    kept: list[Any] = []
    call = act(world, go_on)
    await world.settle(4)
    assert isinstance(call.error, ObjectReset)
    await asyncio.sleep(0.03)
    assert LOG == []
    for future in kept:
        assert future.cancelled() or future.done()


async def test_a_plain_task_that_object_code_has_made_is_cancelled_at_each_resumption() -> None:
    world = World(Actor)

    async def go_on(actor: Actor) -> None:
        actor.task = asyncio.Task(again_and_again(), loop=asyncio.get_running_loop())  # type: ignore[attr-defined]  # the test's own
        kept.append(actor.task)  # type: ignore[attr-defined]  # the test's own
        await asyncio.sleep(0.03)

    kept: list[asyncio.Task[None]] = []
    call = act(world, go_on)
    await call.reply
    assert "went on" in LOG
    world.activation(Actor, "one").fail("so it is")
    LOG.clear()
    await asyncio.sleep(0.05)
    assert LOG == []
    LOG.append("stop")
    await asyncio.sleep(0.02)
    assert kept[0].done()


async def test_a_library_s_task_of_a_reset_instance_goes_on_for_others() -> None:
    """As a pool does that takes a connection back."""
    world = World(Actor)

    async def go_on(actor: Actor) -> None:
        try:
            await until("never")
        finally:
            kept.append(asyncio.create_task(asyncio.wait_for(CONTROL["library"], 5)))

    kept: list[asyncio.Task[Any]] = []
    control("never")
    control("library")
    call = act(world, go_on)
    await world.settle()
    world.activation(Actor, "one").fail("so it is")
    assert isinstance(call.error, ObjectReset)
    await world.settle()
    CONTROL["library"].set_result("back")
    await world.settle()
    assert kept[0].result() == "back"


async def test_an_async_generator_of_a_reset_instance_is_closed_and_does_not_go_on() -> None:
    world = World(Actor)

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0.001)
        finally:
            LOG.append("closed")
            await asyncio.sleep(0.001)
            await asyncio.sleep(0.001)

    async def go_on(actor: Actor) -> None:
        async for _ in numbers():
            await abort(actor)

    call = act(world, go_on)
    await world.settle(4)
    assert isinstance(call.error, ObjectReset)
    await asyncio.sleep(0.02)
    assert LOG == ["closed"]


@in_virtual_time
async def test_a_callback_that_a_reset_instance_schedules_for_later_does_not_run() -> None:
    world = World(Actor)

    def tick() -> None:
        LOG.append("tick")
        asyncio.get_running_loop().call_later(0.01, tick)

    async def go_on(actor: Actor) -> None:
        await abort(actor)
        asyncio.get_running_loop().call_later(0.01, tick)

    call = act(world, go_on)
    await world.settle(4)
    assert isinstance(call.error, ObjectReset)
    await asyncio.sleep(60)
    assert LOG == []


@pytest.mark.parametrize("kind", ["section", "transaction"])
async def test_a_reset_instance_enters_no_section_and_no_transaction(kind: str) -> None:
    world = World(Actor)

    async def go_on(actor: Actor) -> None:
        await abort(actor)
        try:
            async with actor.block_concurrency() if kind == "section" else actor.storage.transaction():
                LOG.append("went on")
        except ObjectReset as exc:
            LOG.append(str(exc))

    call = act(world, go_on)
    await world.settle()
    assert isinstance(call.error, ObjectReset)
    assert LOG == ["Actor/one was reset: enough"]


async def test_a_reset_instance_is_not_told_that_what_it_has_written_is_durable() -> None:
    world = World(Actor)

    async def go_on(actor: Actor) -> None:
        actor.storage.put("k", 1)
        await abort(actor)
        try:
            await actor.storage.sync()
            LOG.append("durable")
        except ObjectReset as exc:
            LOG.append(str(exc))

    call = act(world, go_on)
    await world.settle()
    assert isinstance(call.error, ObjectReset)
    assert LOG == ["Actor/one was reset: enough"]


@pytest.mark.parametrize("way", ["a stream", "a socket"])
async def test_what_a_reset_instance_has_lost_it_cannot_send_either(way: str) -> None:
    world = World(Actor, auto=False)
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    there.setblocking(False)
    here.setblocking(False)
    if way == "a stream":
        _, writer = await asyncio.open_connection(sock=here)

    async def go_on(actor: Actor) -> None:
        actor.storage.put("k", 1)
        await abort(actor)
        if way == "a stream":
            writer.write(b"1")
        else:
            await loop.sock_sendall(here, b"1")

    async def write(actor: Actor) -> None:
        actor.storage.put("k", 2)

    call = act(world, go_on)
    other = act(world, write, "two")  # Its write is in the commit in which the lost one would have been.
    await world.settle(4)
    assert isinstance(call.error, ObjectReset)
    world.commit()
    await other.reply
    await asyncio.sleep(0.01)
    with contextlib.suppress(BlockingIOError):
        assert there.recv(1) == b"", "the connection was aborted"
    here.close()
    there.close()


# Starts and alarms


class Starting(DurableObject):
    starts = 0

    def __init__(self) -> None:
        if self.id.name == "in __init__":
            Starting.starts += 1
            if Starting.starts == 1:
                with contextlib.suppress(BaseException):
                    self.abort("enough")

    async def on_start(self) -> None:
        if self.id.name != "in on_start":
            return
        Starting.starts += 1
        if Starting.starts == 1:
            with contextlib.suppress(BaseException):
                self.abort("enough")
            try:
                await asyncio.sleep(0.01)
            finally:
                LOG.append("left")
            LOG.append("went on")

    async def ping(self) -> str:
        return "pong"


@pytest.mark.parametrize("where", ["in __init__", "in on_start"])
async def test_a_start_that_resets_its_object_and_goes_on_has_failed_and_the_next_call_starts_anew(where: str) -> None:
    Starting.starts = 0
    world = World(Starting)
    first = world.call(Starting, where, "ping")
    await world.settle(4)
    assert isinstance(first.error, StartFailed)
    assert await world.ask(Starting, where, "ping") == "pong"
    await asyncio.sleep(0.03)
    assert "went on" not in LOG


@in_virtual_time
async def test_an_alarm_handler_that_breaks_its_object_in_its_first_step_and_goes_on_is_retried_in_time() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        world.rehearsal.running.clear()
        if info.retry_count == 0:
            with contextlib.suppress(BaseException):
                bell.abort("enough")
            await asyncio.sleep(1_000)
            LOG.append("went on")

    world.rehearsal.play = play
    await world.ring_up("set_in", 1)
    await world.until(10)
    assert [run.retry_count for run in world.rehearsal.runs] == [0, 1]
    assert 3 <= world.rehearsal.runs[1].at_s < 4
    await world.until(3_000)
    assert LOG == []
