"""Who is let in, and in which order (scenarios 4 to 25 and 27 to 30, what tests/shard does not have)."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.host_world import World
from tests.support.stage import Actor, act, held
from tidegate.runtime.errors import ObjectReset
from tidegate.shard.core.input_gate import InputGate


async def test_a_task_cancelled_while_it_waits_at_the_gate_lets_the_next_one_in() -> None:
    """Scenario 4."""
    world = World(Actor)
    inside, timer = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def blocks(actor: Actor) -> None:
        async with actor.block_concurrency():
            inside.set()
            await asyncio.sleep(0.02)
            order.append("section")

    async def waits(actor: Actor) -> str:
        async def wait(name: str) -> None:
            await timer.wait()
            order.append(name)

        first, second = asyncio.ensure_future(wait("first")), asyncio.ensure_future(wait("second"))
        await asyncio.sleep(0)
        actor.waiting = first  # type: ignore[attr-defined]  # the test's own
        results = await asyncio.gather(first, second, return_exceptions=True)
        return type(results[0]).__name__

    waiting = act(world, waits)
    await world.settle()
    blocking = act(world, blocks)
    await inside.wait()
    timer.set()
    await world.settle()
    world.activation(Actor, "one").instance.waiting.cancel()  # type: ignore[attr-defined]  # the test's own
    assert await waiting.reply == "CancelledError"
    await blocking.reply
    assert order == ["section", "second"]


def test_two_events_of_a_section_wait_for_its_lock_and_are_then_let_in_one_at_a_time() -> None:
    """Scenario 5."""
    gate = InputGate()
    section, running = gate.enter(gate.root, None)
    assert running
    gate.lock(section)
    gate.wait(section, "first")
    gate.wait(section, "second")
    assert gate.grant() is None
    gate.unlock(section)
    assert gate.grant() == "first"
    gate.lock(section)
    assert gate.grant() is None
    gate.unlock(section)
    assert gate.grant() == "second"


async def test_two_tasks_queued_back_to_back_of_which_the_first_aborts_never_run_the_second() -> None:
    """Scenario 25."""
    world = World(Actor)
    ran: list[str] = []

    async def spawn_two(actor: Actor) -> None:
        async def abort() -> None:
            ran.append("first")
            actor.abort("enough")

        async def follow() -> None:
            ran.append("second")

        actor.spawn(abort())
        actor.spawn(follow())
        await asyncio.sleep(1)

    with pytest.raises(ObjectReset, match="enough"):
        await act(world, spawn_two).reply
    await world.settle()
    assert ran == ["first"]


async def test_messages_wait_for_all_writes_before_them_and_leave_together_when_the_last_is_durable() -> None:
    """Scenario 27."""
    world = World(Actor, auto=False)
    first = world.call(Actor, "one", "put", "a", 1)
    await world.settle()
    world.cut()
    second = world.call(Actor, "one", "put", "b", 1)
    await world.settle()
    assert (first.answered, second.answered) == (False, False)
    world.committed()
    assert (first.answered, second.answered) == (True, False)
    world.commit()
    assert second.answered


async def test_after_a_failed_write_everything_the_object_still_tries_to_send_is_refused() -> None:
    """Scenario 29."""
    world = World(Actor, auto=False)
    tried: list[type[BaseException]] = []

    async def cleans_up(actor: Actor) -> None:
        actor.storage.put("a", 1)
        try:
            await asyncio.sleep(10)
        finally:
            for _ in range(2):
                try:
                    await actor.stub(Actor, "other").get("a")
                except ObjectReset as exc:
                    tried.append(type(exc))

    call = act(world, cleans_up)
    await world.settle()
    world.fail_commit()
    with pytest.raises(ObjectReset):
        await call.reply
    await world.settle()
    assert tried == [ObjectReset, ObjectReset]
    assert "other" not in world.host.classes["Actor"].activations


async def test_a_sync_that_is_cancelled_leaves_the_messages_behind_it_held() -> None:
    """Scenario 30, as far as user code can bring it about."""
    world = World(Actor, auto=False)

    async def gives_up(actor: Actor) -> str:
        actor.storage.put("a", 1)
        try:
            async with asyncio.timeout(0.001):
                await actor.storage.sync()
        except TimeoutError:
            return "gave up"
        return "durable"

    call = act(world, gives_up)
    await asyncio.sleep(0.02)
    assert held(world)
    assert not call.answered
    world.commit()
    assert await call.reply == "gave up"


@pytest.mark.parametrize("allow_concurrency", [False, True])
@pytest.mark.parametrize("many", [False, True], ids=["put", "put_many"])
async def test_a_put_that_waits_lets_other_events_in_only_if_it_allows_concurrency(allow_concurrency: bool, many: bool) -> None:
    """Contract, section 2, rule 3: under backpressure a put is an operation that waits."""
    world = World(Actor, auto=False)
    order: list[str] = []
    timer = asyncio.Event()

    async def fill(actor: Actor) -> None:
        async def other_event() -> None:
            await timer.wait()
            order.append("other event")

        other = asyncio.ensure_future(other_event())
        await asyncio.sleep(0)
        storage = actor.storage
        for number in range(9):  # What stays below the limit is answered at once.
            pair = {f"k{number}": b"x" * (2_000_000)}
            await (
                storage.put_many(pair, allow_concurrency=allow_concurrency)
                if many
                else storage.put(*pair.popitem(), allow_concurrency=allow_concurrency)
            )
        order.append("put")
        await other

    call = act(world, fill)
    await world.settle()
    timer.set()
    await world.settle()
    world.commit()
    await call.reply
    assert order == (["other event", "put"] if allow_concurrency else ["put", "other event"])
