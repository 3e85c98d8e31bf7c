"""What keeps a gate closed ends after its bound, and who waits behind one is named."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from typing import Any

import pytest

from tests.shard.host.test_chained_calls import Act, Actor, act, in_
from tests.support.alarm_world import AlarmWorld, Bell, in_virtual_time
from tests.support.cold_world import ColdWorld
from tests.support.host_world import World
from tests.support.objects import CONTROL, LOG, MIB, control, until
from tests.support.waiting import wait_until_in_loop
from tidegate.runtime.errors import Deadlock, MethodRaised, ObjectReset, StartFailed
from tidegate.runtime.limits import SECTION_TIMEOUT_S, TRANSACTION_UNWIND_S
from tidegate.runtime.logs.line import Speaker
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.host.gate_watch import LOGGED_MAX, NAMED_MAX


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()
    Actor.acts = {}
    Actor.starts = {}


def new_world(**options: Any) -> World:
    control("never")
    return World(Actor, **options)


async def wait_for_future(actor: Actor) -> None:
    await until("never")


async def wait_for_a_call(actor: Actor) -> None:
    await actor.stub(Actor, "never").act("never")


async def wait_for_a_sub_task(actor: Actor) -> None:
    await asyncio.create_task(wait_for_future(actor))


async def wait_for_gather(actor: Actor) -> None:
    await asyncio.gather(wait_for_future(actor), wait_for_a_call(actor))


async def wait_in_a_group(actor: Actor) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_future(actor))
        group.create_task(wait_for_a_call(actor))


async def wait_in_a_nested_transaction(actor: Actor) -> None:
    async with actor.storage.transaction():
        actor.storage.put("nested", 1)
        await until("never")


async def wait_for_a_thread(actor: Actor) -> None:
    await asyncio.shield(asyncio.wrap_future(concurrent.futures.Future[None]()))


async def sleep_again_and_again(actor: Actor) -> None:
    while True:
        await asyncio.sleep(0.5)


async def swallow_once_and_end(actor: Actor) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await until("never")
    actor.storage.put("swallowed", 1)


WAITS: list[Act] = [
    wait_for_future, wait_for_a_call, wait_for_a_sub_task, wait_for_gather, wait_in_a_group, wait_in_a_nested_transaction,
    wait_for_a_thread, sleep_again_and_again, swallow_once_and_end,
]  # fmt: skip


@pytest.mark.parametrize("wait", WAITS)
@in_virtual_time
async def test_a_transaction_that_is_not_over_after_30_s_is_rolled_back_and_its_code_is_told(wait: Act) -> None:
    world = new_world()
    Actor.acts["never"] = wait_for_future

    async def play(actor: Actor) -> str:
        actor.before = "kept in memory"  # type: ignore[attr-defined]  # the test's own
        actor.storage.put("before", 1)
        try:
            async with actor.storage.transaction():
                actor.storage.put("in", 1)
                await wait(actor)
        except TimeoutError as exc:
            return f"{exc} {actor.before} {asyncio.current_task().cancelling()}"  # type: ignore[attr-defined,union-attr]  # in a task
        return "committed"

    call = act(world, "a", play)
    await asyncio.sleep(SECTION_TIMEOUT_S - 1)
    behind = [world.call(Actor, "a", "log", text) for text in "12"]
    await world.settle()
    assert not behind[0].answered
    await asyncio.sleep(1.001)
    await world.settle()
    said = await asyncio.wait_for(call.reply, 0.1)
    assert said == "Actor/a: a transaction was not over after 30 s and has been rolled back kept in memory 0"
    await world.ask_all(behind)
    assert LOG == ["1", "2"]
    assert world.durable(Actor, "a") == {"before": 1}
    assert world.host.statistics().resets == 0
    CONTROL["never"].set_result(None)
    await world.settle()


@in_virtual_time
async def test_a_method_that_does_not_catch_it_raises_it() -> None:
    world = new_world()

    async def play(actor: Actor) -> None:
        async with actor.storage.transaction():
            await until("never")

    call = act(world, "a", play)
    await asyncio.sleep(SECTION_TIMEOUT_S + 0.1)
    assert isinstance(call.error, MethodRaised)
    assert call.error.type == "TransactionTimeout"
    assert await world.ask(Actor, "a", "ping") == "pong"


@in_virtual_time
async def test_what_the_body_raises_itself_when_it_is_cancelled_stays_what_it_was() -> None:
    world = new_world()

    async def play(actor: Actor) -> None:
        async with actor.storage.transaction():
            actor.storage.put("in", 1)
            try:
                await until("never")
            finally:
                raise KeyError("mine")

    call = act(world, "a", play)
    await asyncio.sleep(SECTION_TIMEOUT_S + 0.1)
    assert isinstance(call.error, MethodRaised)
    assert call.error.type == "KeyError"
    assert world.durable(Actor, "a") == {}


@in_virtual_time
async def test_a_transaction_whose_code_does_not_end_resets_its_object_and_writes_nothing() -> None:
    world = new_world()

    async def play(actor: Actor) -> None:
        async with actor.storage.transaction():
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.1)
                actor.storage.put("zombie", 1)

    call = act(world, "a", play)
    await asyncio.sleep(SECTION_TIMEOUT_S - 1)
    behind = world.call(Actor, "a", "ping")
    await asyncio.sleep(1 + TRANSACTION_UNWIND_S + 0.2)
    assert isinstance(call.error, ObjectReset)
    assert "did not end when it was cancelled" in str(call.error)
    assert await behind.reply == "pong"
    await asyncio.sleep(100)
    assert world.durable(Actor, "a") == {}


@in_virtual_time
async def test_a_transaction_that_is_entered_and_never_left_ends_too() -> None:
    world = new_world()

    async def play(actor: Actor) -> str:
        actor.kept = actor.storage.transaction()  # type: ignore[attr-defined]  # the test's own
        await actor.kept.__aenter__()  # type: ignore[attr-defined]  # the test's own
        actor.storage.put("in", 1)
        return "entered"

    async def use_kept(actor: Actor) -> str:
        try:
            actor.kept.put("in", 2)  # type: ignore[attr-defined]  # the test's own
        except RuntimeError as exc:
            return str(exc)
        return "put"

    assert await act(world, "a", play).reply == "entered"
    behind = world.call(Actor, "a", "ping")
    await asyncio.sleep(SECTION_TIMEOUT_S - 1)
    assert not behind.answered
    await asyncio.sleep(1.1)
    assert await behind.reply == "pong"
    assert "over" in await act(world, "a", use_kept).reply
    assert world.durable(Actor, "a") == {}
    assert world.host.statistics().resets == 0


@in_virtual_time
async def test_the_time_of_a_transaction_counts_from_when_its_body_begins() -> None:
    world = new_world()

    def hold(seconds: float) -> Act:
        async def play(actor: Actor) -> str:
            async with actor.storage.transaction():
                await asyncio.sleep(seconds)
            return "done"

        return play

    calls = [act(world, "a", hold(SECTION_TIMEOUT_S - 2)) for _ in range(3)]
    assert await world.ask_all(calls) == ["done"] * 3


@in_virtual_time
async def test_a_transaction_of_a_background_task_ends_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = new_world()

    async def play(actor: Actor) -> None:
        async def work() -> None:
            async with actor.storage.transaction():
                await until("never")

        actor.spawn(work())

    await act(world, "a", play).reply
    behind = world.call(Actor, "a", "ping")
    await asyncio.sleep(SECTION_TIMEOUT_S + 0.1)
    assert await behind.reply == "pong"
    (failed,) = [record for record in caplog.records if record.message.startswith("a background task failed")]
    assert failed.tidegate.object == "Actor/a"  # type: ignore[attr-defined]  # that of every record
    assert "TransactionTimeout" in caplog.text


@in_virtual_time
async def test_a_transaction_of_an_alarm_handler_ends_and_counts_as_a_failed_run() -> None:
    world = AlarmWorld()
    control("never")

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if info.retry_count == 0:
            async with bell.storage.transaction():
                await until("never")

    world.rehearsal.play = play
    await world.ring_up("set_in", 1)
    await world.until(2)
    behind = world.bell("get", "k")
    await world.until(1 + SECTION_TIMEOUT_S + 0.1)
    assert behind.answered
    await world.until(1 + SECTION_TIMEOUT_S + 4)
    assert [run.retry_count for run in world.rehearsal.runs] == [0, 1]


@pytest.mark.parametrize("wait", [wait_for_future, wait_for_a_call, wait_for_gather, sleep_again_and_again])
@in_virtual_time
async def test_a_start_that_is_not_over_after_30_s_has_failed_and_the_next_call_tries_again(wait: Act) -> None:
    world = new_world()
    Actor.acts["never"] = wait_for_future
    Actor.starts["a"] = wait
    calls = [world.call(Actor, "a", "ping") for _ in range(3)]
    await asyncio.sleep(SECTION_TIMEOUT_S - 0.1)
    assert not any(call.answered for call in calls)
    await asyncio.sleep(0.2)
    assert all(isinstance(call.error, StartFailed) for call in calls)
    assert "on_start took longer than 30 s" in str(calls[0].error)
    del Actor.starts["a"]
    assert await world.ask(Actor, "a", "ping") == "pong"
    CONTROL["never"].set_result(None)
    await world.settle()


@pytest.mark.parametrize("kind", ["section", "transaction"])
@in_virtual_time
async def test_crossed_waits_that_nobody_can_see_end_by_the_bound(kind: str) -> None:
    """An event does not show who will set it."""
    world = new_world()
    entered = asyncio.Barrier(2)

    def play(other: str) -> Act:
        async def run(actor: Actor) -> Any:
            async with in_(kind, actor):
                await entered.wait()
                answered = asyncio.Event()
                task = asyncio.create_task(call_other(actor, other, answered))
                await answered.wait()
                await task

        return run

    async def call_other(actor: Actor, other: str, answered: asyncio.Event) -> None:
        await actor.stub(Actor, other).ping()
        answered.set()

    calls = [act(world, "a", play("b")), act(world, "b", play("a"))]
    await asyncio.sleep(SECTION_TIMEOUT_S + 2)
    assert all(call.answered for call in calls)
    assert await world.ask(Actor, "a", "ping") == await world.ask(Actor, "b", "ping") == "pong"


@in_virtual_time
async def test_a_ring_that_is_closed_by_waiting_for_an_earlier_call_is_seen_within_two_seconds() -> None:
    world = new_world()
    entered = asyncio.Barrier(2)

    def play(other: str) -> Act:
        async def run(actor: Actor) -> str:
            async with actor.block_concurrency():
                await entered.wait()
                call = actor.stub(Actor, other).ping()
                await asyncio.sleep(0.5)  # It is queued by now, and nobody waits for it yet.
                try:
                    await call
                except Deadlock as exc:
                    return str(exc)
            return "done"

        return run

    calls = [act(world, "a", play("b")), act(world, "b", play("a"))]
    results = sorted(await world.ask_all(calls))
    assert world.loop.time() < 3
    assert results[1] == "done"
    assert " -> " in results[0]


@pytest.mark.parametrize("kind", ["section", "transaction"])
@in_virtual_time
async def test_sections_one_after_the_other_do_not_keep_others_out_for_ever(kind: str) -> None:
    world = new_world()

    async def play(actor: Actor) -> None:
        async def work() -> None:
            for _ in range(2_000):
                async with in_(kind, actor):
                    await asyncio.sleep(0.1)

        actor.spawn(work())

    await act(world, "a", play).reply
    for _ in range(3):
        behind = [world.call(Actor, "a", "log", text) for text in "123"]
        started_s = world.loop.time()
        await world.ask_all(behind)
        assert world.loop.time() - started_s < 3
    assert [*"123"] * 3 == LOG


# Naming


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "waited behind its gate" in record.message]


@in_virtual_time
async def test_who_waits_for_longer_than_a_second_is_named_with_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    world = new_world()
    Actor.acts["never"] = wait_for_future

    async def play(actor: Actor) -> None:
        async with actor.block_concurrency():
            await wait_for_a_call(actor)

    holding = act(world, "a", play)
    await asyncio.sleep(5)
    assert world.host.statistics().waiting_objects == [], "nobody waits for it"
    behind = [world.call(Actor, "a", "ping") for _ in range(3)]
    await asyncio.sleep(0.9)
    assert world.host.statistics().waiting_objects == []
    await asyncio.sleep(1.2)
    (row,) = world.host.statistics().waiting_objects
    assert (row.object, row.waiting, row.closed_by) == ("Actor/a", 3, "a critical section")
    assert row.waits_for == "the answer of Actor/never.act"
    assert lines(caplog)[0].startswith("3 events have waited behind its gate for 1.")
    assert {getattr(record, "tidegate", None) for record in caplog.records if "waited behind" in record.message} == {
        Speaker("Actor/a")
    }
    assert lines(caplog)[0].endswith("s: it is closed by a critical section, which waits for the answer of Actor/never.act")
    await asyncio.sleep(20)
    assert 4 <= len(lines(caplog)) <= 5, "in pauses that double"
    await asyncio.sleep(5)
    assert isinstance(holding.error, ObjectReset)
    await world.ask_all(behind)
    await asyncio.sleep(2)
    assert world.host.statistics().waiting_objects == []
    CONTROL["never"].set_result(None)
    await world.settle()


@pytest.mark.parametrize("kind", ["transaction", "on_start"])
@in_virtual_time
async def test_where_code_waits_for_something_else_its_line_is_named(kind: str) -> None:
    world = new_world()

    async def wait_here(actor: Actor) -> None:
        await asyncio.sleep(10)

    async def play(actor: Actor) -> None:
        async with actor.storage.transaction():
            await wait_here(actor)

    if kind == "on_start":
        Actor.starts["a"] = wait_here
        call = world.call(Actor, "a", "ping")
    else:
        call = act(world, "a", play)
        await world.settle(2)
    behind = world.call(Actor, "a", "ping")
    await asyncio.sleep(3)
    (row,) = world.host.statistics().waiting_objects
    assert row.closed_by == ("on_start" if kind == "on_start" else "an open transaction")
    number = wait_here.__code__.co_firstlineno + 1
    assert row.waits_for == f"test_gate_watch.py:{number} in wait_here"
    await world.ask_all([call, behind])


async def until_named(world: World) -> Any:
    """In real time: those that read and write much have no virtual time."""
    rows = await wait_until_in_loop(lambda: world.host.statistics().waiting_objects, "an object that is named")
    return rows[0]


async def test_an_object_that_waits_for_the_disk_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.gate_watch.LOOK_S", 0.01)
    world = ColdWorld()
    await world.fill("one", {"k": 1})
    world.cool()
    await world.loaded("one")

    async def read(actor: Any) -> Any:
        return await actor.storage.get("k")

    async def ping(actor: Any) -> str:
        return "pong"

    reading = world.act("one", read)
    await world.settle()
    behind = world.act("one", ping)
    row = await until_named(world)
    assert (row.object, row.waiting, row.closed_by) == ("Actor/one", 1, "a read from disk")
    world.reader.release()
    assert await reading.reply == 1
    assert await behind.reply == "pong"


async def test_an_object_that_waits_for_what_is_not_durable_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.gate_watch.LOOK_S", 0.01)
    world = new_world(auto=False)

    async def write(actor: Actor) -> None:
        async def log() -> None:
            await asyncio.sleep(0.001)

        actor.spawn(log())
        for number in range(20):
            await actor.storage.put(f"{number}", b"x" * (MIB - 100))

    writing = act(world, "a", write)
    row = await until_named(world)
    assert (row.object, row.closed_by) == ("Actor/a", "writes that are not durable yet")
    world.auto = True
    world.commit()
    await writing.reply


@in_virtual_time
async def test_the_log_and_the_status_name_a_bounded_number_of_objects(caplog: pytest.LogCaptureFixture) -> None:
    world = new_world()
    names = [f"o{number}" for number in range(3 * NAMED_MAX)]

    async def hold(actor: Actor) -> None:
        async with actor.block_concurrency():
            await asyncio.sleep(2.5)

    calls = [act(world, name, hold) for name in names]
    await world.settle(2)
    calls += [world.call(Actor, name, "ping") for name in names]
    await asyncio.sleep(2.2)
    assert len(world.host.statistics().waiting_objects) == NAMED_MAX
    assert len(lines(caplog)) == 2 * LOGGED_MAX, "in two looks"
    assert f"{3 * NAMED_MAX - LOGGED_MAX} more objects wait behind their gates" in caplog.text
    await world.ask_all(calls)


@in_virtual_time
async def test_while_no_gate_is_closed_nothing_looks() -> None:
    world = new_world()
    for _ in range(10):
        await world.ask(Actor, "a", "ping")
    await asyncio.sleep(2)  # It has been started.
    assert world.host.gates._timer is None
    control("hold")

    async def hold(actor: Actor) -> None:
        async with actor.storage.transaction():
            await until("hold")

    call = act(world, "a", hold)
    await asyncio.sleep(3)
    CONTROL["hold"].set_result(None)
    await call.reply
    await asyncio.sleep(2)
    assert world.host.gates._timer is None


class Odd(asyncio.Future[None]):
    """Of an app: it answers no question that is not asked of every future."""

    @property
    def _children(self) -> Any:
        raise RuntimeError("no")


@in_virtual_time
async def test_an_odd_future_for_which_a_section_waits_does_not_keep_it_from_its_end() -> None:
    world = new_world()

    async def wait_for_an_odd_one(actor: Actor) -> None:
        async with actor.block_concurrency():
            await Odd()

    call = act(world, "a", wait_for_an_odd_one)
    queued = world.call(Actor, "a", "ping")
    await asyncio.sleep(SECTION_TIMEOUT_S + 1)
    assert isinstance(call.error, ObjectReset)
    assert await queued.reply == "pong"
