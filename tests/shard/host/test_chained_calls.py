"""Calls that come back along a chain, and objects that wait for each other: delivered, refused or ended, never for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support.alarm_world import in_virtual_time
from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, LOG, control, until
from tidegate.runtime.errors import CallError, DeadlineExceeded, Deadlock, MethodRaised, ObjectReset, StartFailed
from tidegate.runtime.limits import CHAIN_ENTRIES_MAX, SECTION_DEPTH_MAX
from tidegate.shard.loop.context import CHAIN
from tidegate.shard.objects.object import DurableObject

Act = Callable[[Any], Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()
    Actor.acts = {}
    Actor.starts = {}


class Actor(DurableObject):
    """Does what the test writes down under its name."""

    acts: dict[str, Act] = {}  # noqa: RUF012 - of the running test, for all instances
    starts: dict[str, Act] = {}  # noqa: RUF012 - likewise

    async def on_start(self) -> None:
        if self.id.name in self.starts:
            await self.starts[self.id.name](self)

    async def act(self, key: str) -> Any:
        return await self.acts[key](self)

    async def ping(self) -> str:
        LOG.append(f"ping {self.id.name}")
        return "pong"

    async def log(self, text: str) -> None:
        LOG.append(text)

    async def pass_on(self, path: list[str], method: str = "ping") -> Any:
        """Goes from object to object."""
        if not path:
            return await getattr(self, method)()
        return await self.stub(Actor, path[0]).pass_on(path[1:], method)

    async def pass_on_in(self, kind: str, path: list[str]) -> Any:
        """The same, each object in a section or transaction of its own."""
        if not path:
            return await self.ping()
        async with self.block_concurrency() if kind == "section" else self.storage.transaction():
            return await self.stub(Actor, path[0]).pass_on_in(kind, path[1:])


def act(world: World, name: str, play: Act, **options: Any) -> Call:
    key = str(len(Actor.acts))
    Actor.acts[key] = play
    return world.call(Actor, name, "act", key, **options)


def in_(kind: str, actor: Actor) -> Any:
    return actor.block_concurrency() if kind == "section" else actor.storage.transaction()


# Into a critical section


WAYS: dict[str, Callable[[Actor, Any], Any]] = {
    "awaited": lambda actor, coro: coro,
    "gathered": lambda actor, coro: asyncio.gather(coro, asyncio.sleep(0)),
    "a sub-task": lambda actor, coro: asyncio.create_task(coro),
    "spawned": lambda actor, coro: actor.spawn(coro),
    "a sub-task of a sub-task": lambda actor, coro: asyncio.create_task(asyncio.wait_for(coro, 5)),
    "a group": lambda actor, coro: in_a_group(coro),
    "a callback": lambda actor, coro: in_a_callback(coro),
    "shielded": lambda actor, coro: asyncio.shield(coro),
}


async def in_a_group(coro: Any) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(coro)
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from exc
    return task.result()


async def in_a_callback(coro: Any) -> Any:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_later(0.001, lambda: asyncio.create_task(coro).add_done_callback(lambda task: done.set_result(task.result())))
    return await done


@pytest.mark.parametrize("path", [["a"], ["p", "a"], ["p", "q", "a"], ["a", "p", "a", "a"]], ids=" ".join)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@in_virtual_time
async def test_a_call_that_comes_back_into_the_section_that_started_it_is_delivered_there(
    path: list[str], way: Callable[[Actor, Any], Any]
) -> None:
    world = World(Actor)

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            result = await way(actor, call_back(actor))
            LOG.append("out")
        return result[0] if isinstance(result, list) else result

    async def call_back(actor: Actor) -> Any:
        return await actor.stub(Actor, path[0]).pass_on(path[1:])

    call = act(world, "a", play)
    await world.settle(3)
    outside = world.call(Actor, "a", "log", "outside")
    assert await asyncio.wait_for(call.reply, 2) == "pong"
    await outside.reply
    assert LOG == ["ping a", "out", "outside"]


@in_virtual_time
async def test_of_sections_in_each_other_the_innermost_that_the_chain_names_gets_the_call() -> None:
    world = World(Actor)

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            async with actor.block_concurrency():
                assert await actor.stub(Actor, "p").pass_on(["a"]) == "pong"
            back = asyncio.create_task(actor.stub(Actor, "p").pass_on(["a"]))
            async with actor.block_concurrency():
                await asyncio.sleep(1)
                LOG.append("inner out")
            await back
        return LOG

    assert await act(world, "a", play).reply == ["ping a", "inner out", "ping a"]


@in_virtual_time
async def test_a_call_whose_section_has_ended_meanwhile_belongs_to_the_one_around_it() -> None:
    world = World(Actor)
    control("p")

    async def slow(actor: Actor) -> Any:
        await until("p")
        return await actor.stub(Actor, "a").ping()

    Actor.acts["slow"] = slow

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            async with actor.block_concurrency():
                back = asyncio.ensure_future(actor.stub(Actor, "p").act("slow"))
                await asyncio.sleep(0)
            CONTROL["p"].set_result(None)
            return await back

    assert await asyncio.wait_for(act(world, "a", play).reply, 5) == "pong"


@in_virtual_time
async def test_a_call_whose_sections_have_all_ended_is_an_ordinary_event() -> None:
    world = World(Actor)
    control("p")

    async def slow(actor: Actor) -> Any:
        await until("p")
        return await actor.stub(Actor, "a").ping()

    Actor.acts["slow"] = slow

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            actor.kept = asyncio.ensure_future(actor.stub(Actor, "p").act("slow"))  # type: ignore[attr-defined]  # the test's own
        return "left"

    async def hold(actor: Actor) -> None:
        async with actor.storage.transaction():
            CONTROL["p"].set_result(None)
            await asyncio.sleep(1)
            LOG.append("transaction over")

    assert await act(world, "a", play).reply == "left"
    await act(world, "a", hold).reply
    await world.settle()
    assert LOG == ["transaction over", "ping a"]


@in_virtual_time
async def test_sections_64_deep_each_call_their_object_through_others() -> None:
    world = World(Actor)

    async def dig(actor: Actor, depth: int = 1) -> int:
        async with actor.block_concurrency():
            assert await actor.stub(Actor, "p").pass_on(["a"]) == "pong"
            return depth if depth == SECTION_DEPTH_MAX else await dig(actor, depth + 1)

    assert await act(world, "a", dig).reply == SECTION_DEPTH_MAX


@in_virtual_time
async def test_a_long_chain_forgets_who_is_in_no_section_and_still_comes_back() -> None:
    world = World(Actor)
    path = [f"p{number}" for number in range(3 * CHAIN_ENTRIES_MAX)]

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            return await actor.stub(Actor, path[0]).pass_on([*path[1:], "a"], "chain_length")

    async def chain_length(self: Actor) -> int:
        return len(CHAIN.get(()))

    Actor.chain_length = chain_length  # type: ignore[attr-defined]  # the test's own
    try:
        assert await act(world, "a", play).reply == CHAIN_ENTRIES_MAX
    finally:
        del Actor.chain_length  # type: ignore[attr-defined]  # the test's own


@in_virtual_time
async def test_calls_of_a_section_to_its_object_arrive_in_their_order_and_before_those_of_others() -> None:
    world = World(Actor)

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            stub = actor.stub(Actor, "a")
            await asyncio.gather(*(stub.log(f"{number}") for number in range(20)))

    call = act(world, "a", play)
    await world.settle(1)
    others = [world.call(Actor, "a", "log", f"other {number}") for number in range(5)]
    await world.ask_all([call, *others])
    assert [f"{number}" for number in range(20)] + [f"other {number}" for number in range(5)] == LOG


@in_virtual_time
async def test_a_call_that_comes_back_too_late_for_its_deadline_is_not_run() -> None:
    world = World(Actor)

    async def slow(actor: Actor) -> Any:
        await asyncio.sleep(2)
        return await actor.stub(Actor, "a").ping()

    Actor.acts["slow"] = slow

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            return await actor.stub(Actor, "p").act("slow")

    async def busy(actor: Actor) -> None:
        async with actor.block_concurrency():
            await asyncio.sleep(5)

    first = act(world, "a", busy)
    late = act(world, "a", play, deadline_ms=1_000)
    await first.reply
    await world.settle()
    assert isinstance(late.error, DeadlineExceeded)
    assert LOG == []


@in_virtual_time
async def test_a_reset_in_the_middle_of_a_chain_answers_everybody_and_the_next_instance_serves() -> None:
    world = World(Actor)

    async def slow(actor: Actor) -> Any:
        await asyncio.sleep(2)
        return await actor.stub(Actor, "a").ping()

    Actor.acts["slow"] = slow

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            return await actor.stub(Actor, "p").act("slow")

    call = act(world, "a", play)
    await asyncio.sleep(1)
    world.activation(Actor, "a").fail("so it is")
    assert isinstance(call.error, ObjectReset)
    assert await world.ask(Actor, "a", "log", "next") is None
    await asyncio.sleep(5)
    assert LOG == ["next", "ping a"], "the call came from who is still there"


# Into a transaction or a start


@pytest.mark.parametrize("path", [["a"], ["p", "a"], ["p", "q", "a"]], ids=" ".join)
@pytest.mark.parametrize("kind", ["transaction", "section in transaction", "transaction in section"])
@in_virtual_time
async def test_a_call_that_comes_back_into_an_open_transaction_is_refused_at_once_with_the_chain(
    path: list[str], kind: str
) -> None:
    world = World(Actor)
    refused: list[Deadlock | MethodRaised] = []

    async def call_back(actor: Actor) -> str:
        try:
            await actor.stub(Actor, path[0]).pass_on(path[1:])
        except (Deadlock, MethodRaised) as exc:
            refused.append(exc)
            return str(exc)
        return "delivered"

    async def play(actor: Actor) -> str:
        async with contextlib.AsyncExitStack() as stack:
            for each in kind.split(" in ")[::-1]:
                await stack.enter_async_context(in_(each, actor))
            return await call_back(actor)

    said = await asyncio.wait_for(act(world, "a", play).reply, 0.5)
    chain = " -> ".join(f"Actor/{name}" for name in ("a", *path))
    assert said.startswith(f"{chain}: ")
    assert "transaction" in said
    if len(path) == 1:
        assert isinstance(refused[0], Deadlock)
        assert refused[0].outcome == "not_executed"
        assert not refused[0].retryable
    assert await world.ask(Actor, "a", "ping") == "pong"
    assert world.host.statistics().resets == 0


@pytest.mark.parametrize("path", [["a"], ["p", "a"]], ids=" ".join)
@pytest.mark.parametrize("section", [False, True])
@in_virtual_time
async def test_a_call_that_comes_back_into_a_start_is_refused_at_once_and_the_start_may_go_on(
    path: list[str], section: bool
) -> None:
    world = World(Actor)

    async def start(actor: Actor) -> None:
        async with actor.block_concurrency() if section else contextlib.nullcontext():
            try:
                await actor.stub(Actor, path[0]).pass_on(path[1:])
            except (Deadlock, MethodRaised) as exc:
                LOG.append(str(exc))

    Actor.starts["a"] = start
    assert await asyncio.wait_for(world.ask(Actor, "a", "ping"), 0.5) == "pong"
    assert LOG[0].startswith(" -> ".join(f"Actor/{name}" for name in ("a", *path)) + ": ")
    assert "on_start" in LOG[0]


@in_virtual_time
async def test_a_start_that_does_not_catch_it_has_failed_and_the_callers_are_told_why() -> None:
    world = World(Actor)

    async def start(actor: Actor) -> None:
        await actor.stub(Actor, "a").ping()

    Actor.starts["a"] = start
    call = world.call(Actor, "a", "ping")
    await world.settle()
    assert isinstance(call.error, StartFailed)
    assert "Actor/a -> Actor/a" in str(call.error)
    del Actor.starts["a"]
    assert await world.ask(Actor, "a", "ping") == "pong"


@in_virtual_time
async def test_an_object_that_is_started_by_a_call_of_a_section_may_call_back_into_it() -> None:
    world = World(Actor)

    async def start(actor: Actor) -> None:
        LOG.append(await actor.stub(Actor, "a").ping())

    Actor.starts["p"] = start

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            return await actor.stub(Actor, "p").ping()

    assert await asyncio.wait_for(act(world, "a", play).reply, 0.5) == "pong"
    assert LOG == ["ping a", "pong", "ping p"]


@in_virtual_time
async def test_a_transaction_of_another_object_in_the_chain_is_no_hindrance() -> None:
    world = World(Actor)

    async def play(actor: Actor) -> Any:
        async with actor.block_concurrency():
            return await actor.stub(Actor, "p").pass_on_in("transaction", ["a"])

    assert await asyncio.wait_for(act(world, "a", play).reply, 0.5) == "pong"


@pytest.mark.parametrize("kind", ["section", "transaction"])
@in_virtual_time
async def test_a_chain_that_is_made_up_names_no_section_and_does_no_harm(kind: str) -> None:
    world = World(Actor)
    control("hold")

    async def hold(actor: Actor) -> None:
        async with in_(kind, actor):
            await until("hold")

    call = act(world, "a", hold)
    await world.settle()
    forged = world.call(Actor, "a", "ping", chain=[("Actor/a", [1, 2, 3])])
    wrong: list[Any] = [[("x", [])] * 1_000, [("x" * 10_000, [])], [("x", [1] * 100)], 7]
    huge = [world.call(Actor, "a", "ping", chain=chain) for chain in wrong]
    await world.settle()
    assert not forged.answered
    assert [each.error.code for each in huge] == ["bad_request"] * 4
    CONTROL["hold"].set_result(None)
    assert await forged.reply == "pong"
    await call.reply


# Crossed waits of one worker


@pytest.mark.parametrize("kinds", ["ss", "tt", "st", "sst", "ttt", "sss", "sssssss"])
@pytest.mark.parametrize("way", ["awaited", "gathered", "a sub-task", "spawned", "a group"])
@in_virtual_time
async def test_objects_whose_sections_and_transactions_call_each_other_do_not_wait_for_ever(kinds: str, way: str) -> None:
    world = World(Actor)
    names = [f"o{number}" for number in range(len(kinds))]
    entered = asyncio.Barrier(len(kinds))

    def play(kind: str, other: str) -> Act:
        async def run(actor: Actor) -> Any:
            async with in_("section" if kind == "s" else "transaction", actor):
                await entered.wait()
                try:
                    await WAYS[way](actor, call_other(actor, other))
                except Deadlock as exc:
                    LOG.append(str(exc))
                    return "refused"
            return "done"

        return run

    async def call_other(actor: Actor, other: str) -> Any:
        return await actor.stub(Actor, other).log("came")

    calls = [act(world, name, play(kinds[at], names[(at + 1) % len(names)])) for at, name in enumerate(names)]
    started_s = world.loop.time()
    results = await asyncio.wait_for(asyncio.gather(*(call.reply for call in calls), return_exceptions=True), 100)
    assert world.loop.time() - started_s < 5
    assert results.count("refused") == 1
    assert results.count("done") == len(kinds) - 1
    (said,) = [text for text in LOG if text != "came"]
    assert all(f"Actor/{name} -> " in said for name in names)
    assert world.host.statistics().resets == 0


@in_virtual_time
async def test_who_does_not_wait_for_the_other_s_answer_closes_no_ring() -> None:
    world = World(Actor)
    entered = asyncio.Barrier(2)

    def play(other: str, waits: bool) -> Act:
        async def run(actor: Actor) -> Any:
            async with actor.block_concurrency():
                await entered.wait()
                call = asyncio.ensure_future(actor.stub(Actor, other).ping())
                await (call if waits else asyncio.sleep(1))
            await call

        return run

    calls = [act(world, "a", play("b", False)), act(world, "b", play("a", True))]
    await world.ask_all(calls)
    assert sorted(LOG) == ["ping a", "ping b"]


@in_virtual_time
async def test_starts_that_call_each_other_fail_and_do_not_wait_for_ever() -> None:
    world = World(Actor)

    async def start_a(actor: Actor) -> None:
        await asyncio.sleep(1)
        await actor.stub(Actor, "b").ping()

    async def start_b(actor: Actor) -> None:
        await asyncio.sleep(1)
        await actor.stub(Actor, "a").ping()

    Actor.starts = {"a": start_a, "b": start_b}
    calls = [world.call(Actor, name, "ping") for name in "ab"]
    started_s = world.loop.time()
    results = await asyncio.gather(*(call.reply for call in calls), return_exceptions=True)
    assert world.loop.time() - started_s < 5
    assert any(isinstance(result, CallError) for result in results)
    Actor.starts = {}
    assert await world.ask(Actor, "a", "ping") == await world.ask(Actor, "b", "ping") == "pong"


async def test_of_a_caller_that_was_reset_no_call_stays_in_the_books() -> None:
    world = World(Actor, auto=False)

    async def write_late(actor: Actor) -> None:
        actor.storage.put("k", 1)
        await until("late")

    async def call_in_a_section(actor: Actor) -> None:
        async with actor.block_concurrency():
            await actor.stub(Actor, "b").act("1")

    control("late")
    caller = act(world, "a", call_in_a_section)
    Actor.acts["1"] = write_late
    await world.settle()
    assert len(world.host.chained._open) == 1
    activation = world.activation(Actor, "a")
    activation.fail("enough")
    CONTROL["late"].set_result(None)
    await world.settle()
    assert isinstance(caller.error, ObjectReset)
    assert world.host.chained._open == {}
    world.commit()
