"""The host: replies wait for what they reveal, failures reset what they must and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random

import pytest

from tests.support.host_world import WORLDS, Call, World
from tests.support.objects import CONTROL, FORMS, LOG, Counter, Thing, control, until
from tidegate.runtime.errors import (
    MethodRaised,
    ObjectReset,
)
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


# Unique numbers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("auto", [True, False])
async def test_every_natural_counter_gives_unique_gap_free_numbers(form: str, auto: bool) -> None:
    world = World(Counter, auto=auto)
    calls = [world.call(Counter, "a", form) for _ in range(50)]
    for _ in range(1_000):
        await world.settle(2)
        if not auto and world.host.output_gate.can_cut:
            world.commit()
        if all(call.answered for call in calls):
            break
        await asyncio.sleep(0.001)
    assert sorted(await world.ask_all(calls)) == list(range(50))
    assert world.durable(Counter, "a") == {"counter": 50}


async def test_all_counter_forms_together_give_unique_numbers_over_evictions_failures_and_crashes() -> None:
    rng = random.Random(7)
    world = World(Counter, auto=False)
    pending: list[Call] = []
    confirmed: list[int] = []
    for _ in range(600):
        event = rng.random()
        if event < 0.6:
            # `in_memory` beside the others is another object's business: it trusts its memory.
            pending.append(world.call(Counter, "a", rng.choice(["plain", "in_transaction", "after_a_while", "in_section"])))
        await world.settle(rng.randrange(4))
        if event > 0.95 and world.host.output_gate.in_flight is None and world.host.output_gate.can_cut:
            world.fail_commit()
        elif event > 0.93:
            confirmed += [call.result for call in pending if call.answered and not call.reply.exception()]
            pending.clear()
            world.crash()
        elif event > 0.5 and world.host.output_gate.can_cut:
            world.commit()
        if rng.random() < 0.1:
            world.evict_idle()
    world.auto = True
    pending.append(world.call(Counter, "a", "plain"))
    await asyncio.sleep(0.005)
    world.host.turn.end_soon()
    for call in pending:
        with contextlib.suppress(ObjectReset):
            confirmed.append(await call.reply)
    assert len(confirmed) == len(set(confirmed)) > 200
    assert max(confirmed) < world.durable(Counter, "a")["counter"]


@pytest.mark.parametrize("form", FORMS)
async def test_a_counter_goes_on_where_it_was_after_each_eviction(form: str) -> None:
    world = World(Counter)
    for expected in range(5):
        assert await world.ask(Counter, "a", form) == expected
        await world.settle()
        world.evict_idle()
        assert "a" not in world.host.classes["Counter"].activations
    assert world.host.statistics().evictions == 5


# The output gate


async def test_a_reply_is_held_until_the_commit_it_depends_on_is_durable() -> None:
    world = World(Thing, auto=False)
    calls = [world.call(Thing, "a", "put", "k", 1), world.call(Thing, "a", "list")]  # A scalar goes another way than the rest.
    await world.settle()
    assert not any(call.answered for call in calls)
    world.cut()
    await world.settle()
    assert not any(call.answered for call in calls)
    world.committed()
    assert [call.result for call in calls] == [None, {"k": 1}]
    assert world.durable(Thing, "a") == {"k": 1}


async def test_a_reply_does_not_wait_for_writes_made_after_it() -> None:
    world = World(Thing, auto=False)
    first = world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    second = world.call(Thing, "a", "put", "k", 2)
    await world.settle()
    world.committed()
    assert first.answered
    assert not second.answered
    world.commit()
    assert second.answered


async def test_a_call_that_writes_and_reveals_nothing_is_answered_at_once() -> None:
    world = World(Thing, auto=False)
    held = world.call(Thing, "a", "put", "k", 1)
    free = world.call(Thing, "b", "put_nothing")
    await world.settle()
    assert free.answered
    assert not held.answered
    world.commit()


async def test_a_reply_that_reveals_an_undurable_write_of_another_call_is_held_too() -> None:
    world = World(Thing, auto=False)
    writer = world.call(Thing, "a", "put_then_wait", "k", 1)
    control("wait")
    await world.settle()
    reader = world.call(Thing, "a", "get", "k")
    await world.settle()
    assert not reader.answered
    world.commit()
    assert reader.result == 1
    CONTROL["wait"].set_result(None)
    assert await writer.reply == "waited"


async def test_an_exception_is_held_like_a_result() -> None:
    world = World(Thing, auto=False)
    call = world.call(Thing, "a", "put_and_raise", "k", 1)
    await world.settle()
    assert not call.answered
    world.commit()
    assert isinstance(call.error, MethodRaised)
    assert (call.error.type, str(call.error), call.error.outcome) == ("ValueError", "after the write", "executed")


async def test_an_unconfirmed_write_holds_nothing_and_its_failure_resets_the_object_all_the_same() -> None:
    world = World(Thing, auto=False)
    assert await world.ask(Thing, "a", "put_unconfirmed", "k", 1) == "put"
    assert await world.ask(Thing, "a", "get", "k") == 1
    before = world.activation(Thing, "a")
    world.fail_commit()
    assert before.broken is not None
    assert await world.ask(Thing, "a", "get", "k") is None


async def test_replies_of_one_object_leave_in_the_order_in_which_they_were_produced() -> None:
    world = World(Thing, auto=False)
    order: list[int] = []
    calls = []
    for number in range(20):
        method = ("put_unawaited", "k", number) if number % 3 == 0 else ("put_nothing",)
        call = world.call(Thing, "a", *method)
        call.reply.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]  # its default
        calls.append(call)
        await world.settle(2)
        if number % 4 == 3:
            world.commit()
    while world.host.output_gate.can_cut:
        world.commit()
    await world.ask_all(calls)
    await world.settle()
    assert order == list(range(20))


async def test_many_awaited_writes_cost_few_commits_and_no_intermediate_value_is_committed() -> None:
    world = World(Thing, auto=False)
    call = world.call(Thing, "a", "put_many_turns", 500)
    await world.settle(5)
    world.commit()
    assert call.answered
    assert world.commits == 1
    assert world.durable(Thing, "a") == {"n": 499}


async def test_writes_of_many_objects_share_one_commit() -> None:
    world = World(Thing, auto=False)
    calls = [world.call(Thing, str(number), "put", "k", number) for number in range(100)]
    await world.settle()
    world.commit()
    assert all(call.answered for call in calls)
    assert world.commits == 1


async def test_sync_completes_when_the_writes_before_it_are_durable_and_keeps_nobody_out() -> None:
    world = World(Thing, auto=False)
    syncing = world.call(Thing, "a", "put_and_sync", "k", 1)
    await world.settle()
    world.cut()
    other = world.call(Thing, "a", "log", "another event")
    await world.settle()
    assert LOG == ["another event"]
    world.committed()
    assert await syncing.reply == "synced"
    await other.reply


async def test_sync_of_an_object_that_wrote_nothing_completes_at_once() -> None:
    class Idle(DurableObject):
        async def sync(self) -> str:
            await self.storage.sync()
            return "synced"

    assert await World(Idle, auto=False).ask(Idle, "a", "sync") == "synced"


# Commits that fail


async def test_a_commit_that_fails_replaces_its_messages_and_the_next_call_sees_what_is_durable() -> None:
    world = World(Thing, auto=False)
    await_first = world.call(Thing, "a", "put", "k", "old")
    await world.settle()
    world.commit()
    await await_first.reply
    calls = [world.call(Thing, "a", "put", "k", "lost"), world.call(Thing, "a", "get", "k"), world.call(Thing, "a", "memory")]
    await world.settle()
    world.fail_commit("disk on fire")
    for call in calls:
        assert isinstance(call.error, ObjectReset)
        assert call.error.outcome == "unknown"
        assert "disk on fire" in str(call.error)
    assert await world.ask(Thing, "a", "get", "k") == "old"
    assert await world.ask(Thing, "a", "memory") == 1


async def test_when_the_method_raised_and_its_write_failed_the_caller_sees_the_failed_write() -> None:
    world = World(Thing, auto=False)
    call = world.call(Thing, "a", "put_and_raise", "k", 1)
    await world.settle()
    world.fail_commit()
    assert isinstance(call.error, ObjectReset)


async def test_a_failed_commit_leaves_objects_that_are_not_in_it_undisturbed() -> None:
    world = World(Thing, auto=False)
    lost = world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    kept = world.call(Thing, "b", "put", "k", 2)
    await world.settle()
    before = world.activation(Thing, "b")
    world.fail_commit()
    world.commit()
    assert isinstance(lost.error, ObjectReset)
    assert kept.answered
    assert world.activation(Thing, "b") is before
    assert world.durable(Thing, "b") == {"k": 2}


async def test_writes_made_while_the_lost_commit_was_in_flight_are_lost_with_it() -> None:
    world = World(Thing, auto=False)
    first = world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    second = world.call(Thing, "a", "put", "j", 2)
    await world.settle()
    world.fail_commit()
    assert isinstance(first.error, ObjectReset)
    assert isinstance(second.error, ObjectReset)
    assert world.durable(Thing, "a") == {}
    assert not world.host.output_gate.dirty


async def test_a_sync_whose_write_fails_raises_in_the_object_that_is_reset() -> None:
    world = World(Thing, auto=False)
    call = world.call(Thing, "a", "put_and_sync", "k", 1)
    await world.settle()
    world.fail_commit()
    assert isinstance(call.error, ObjectReset)
    await world.settle()
    assert LOG == []


# Reset


async def test_abort_drops_what_was_written_answers_and_starts_anew_with_the_next_call() -> None:
    world = World(Thing, auto=False)
    put = world.call(Thing, "a", "put", "k", "kept")
    await world.settle()
    world.commit()
    await put.reply
    abort = world.call(Thing, "a", "abort_after_put", "k")
    await world.settle()
    assert isinstance(abort.error, ObjectReset)
    assert "enough" in str(abort.error)
    assert not world.host.output_gate.can_cut
    assert await world.ask(Thing, "a", "get", "k") == "kept"


async def test_a_running_call_of_an_object_that_is_reset_is_answered_at_once() -> None:
    world = World(Thing)
    control("wait")
    waiting = world.call(Thing, "a", "wait")
    await world.settle()
    with pytest.raises(ObjectReset):
        await world.ask(Thing, "a", "abort_after_put", "k")
    assert isinstance(waiting.error, ObjectReset)


async def test_a_call_after_a_reset_waits_for_the_last_commit_of_the_old_instance_and_sees_it() -> None:
    world = World(Thing, auto=False)
    put = world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    abort = world.call(Thing, "a", "abort_after_put", "j")
    await world.settle()
    assert isinstance(abort.error, ObjectReset)
    reads = [world.call(Thing, "a", "get", "k") for _ in range(3)]
    await world.settle()
    assert not any(read.answered for read in reads)
    world.committed()
    assert await world.ask_all(reads) == [1, 1, 1]
    assert put.result is None


async def test_a_call_after_a_reset_whose_last_commit_fails_sees_what_is_durable() -> None:
    world = World(Thing, auto=False)
    put = world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    abort = world.call(Thing, "a", "abort_after_put", "j")
    read = world.call(Thing, "a", "get", "k")
    await world.settle()
    world.fail_commit()
    assert await read.reply is None
    assert isinstance(put.error, ObjectReset)
    assert abort.answered


@pytest.mark.parametrize("in_flight", [False, True])
async def test_calls_that_waited_for_a_reset_object_are_not_overtaken(in_flight: bool) -> None:
    class Ordered(DurableObject):
        async def hold(self) -> None:
            self.storage.put("k", 1)
            async with self.block_concurrency():
                await until("wait")
                raise ValueError("breaks")

        async def log(self, number: int) -> None:
            LOG.append(number)

    world = World(Ordered, auto=False)
    wait = control("wait")
    holding = world.call(Ordered, "a", "hold")
    await world.settle()
    calls = [world.call(Ordered, "a", "log", number) for number in range(3)]
    await world.settle()
    if in_flight:
        world.cut()
    wait.set_result(None)
    for number in range(3, 20):
        calls.append(world.call(Ordered, "a", "log", number))
        await world.settle(1)
        if number == 12 and in_flight:
            world.committed()
    await world.ask_all(calls)
    assert list(range(20)) == LOG
    assert isinstance(holding.error, ObjectReset)


# Small worlds of calls and commits

STEPS = ["call a", "call b", "cut", "committed", "failed", "abort a"]


@pytest.mark.parametrize("first", STEPS[:2])
async def test_in_every_small_world_of_calls_and_commits_confirmed_numbers_are_durable_and_unique(first: str) -> None:
    worlds = 0
    for rest in itertools.product(STEPS, repeat=4):
        world = World(Counter, auto=False)
        answered: dict[str, list[Call]] = {"a": [], "b": []}
        for step in (first, *rest):
            kind, _, name = step.partition(" ")
            commits = world.host.output_gate
            activation = world.host.classes["Counter"].activations.get(name)
            if kind == "call":
                answered[name].append(world.call(Counter, name, "plain"))
            elif kind == "abort" and activation is not None:
                with contextlib.suppress(BaseException):
                    activation.abort("now")
            elif kind == "cut" and commits.can_cut:
                world.cut()
            elif kind == "committed" and commits.in_flight is not None:
                world.committed()
            elif kind == "failed" and commits.in_flight is not None:
                world.fail_commit()
            else:
                break  # It could not happen.
            await world.settle(3)
        else:
            worlds += 1
            await end_well(world, answered, (first, *rest))
        WORLDS.remove(world)
    assert worlds > 100


async def end_well(world: World, answered: dict[str, list[Call]], story: tuple[str, ...]) -> None:
    """Everything is committed, and what was confirmed is there."""
    world.auto = True
    if world.host.output_gate.in_flight is not None:
        world.committed()
    world.host.turn.end_soon()
    await world.settle(6)
    for name, calls in answered.items():
        numbers = [call.result for call in calls if not call.reply.exception()]
        assert len(numbers) == len(set(numbers)), story
        counter = world.durable(Counter, name).get("counter", 0)
        assert all(number < counter for number in numbers), story
    world.check()
    world.expect_nothing_forgotten()
