"""shard/host/deadlines.py: a call with a deadline is answered at it, once, whatever its object does."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.alarm_world import in_virtual_time
from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, LOG, Thing, control, until
from tidegate.runtime.errors import DeadlineExceeded
from tidegate.runtime.limits import OBJECT_CALLS_MAX
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


class Slow(DurableObject):
    async def wait(self) -> str:
        await until("wait")
        LOG.append("ran to its end")
        return "late"

    async def hold(self) -> None:
        async with self.block_concurrency():
            await until("wait")

    async def put(self, value: int) -> int:
        await self.storage.put("k", value)
        return value

    async def log(self, text: str) -> None:
        LOG.append(text)


async def passed(call: Call, within_s: float = 0.5) -> DeadlineExceeded:
    async with asyncio.timeout(within_s):
        with pytest.raises(DeadlineExceeded) as caught:
            await call.reply
    return caught.value


async def test_a_call_that_runs_past_its_deadline_is_answered_at_it_and_its_outcome_is_unknown() -> None:
    world = World(Slow)
    wait = control("wait")
    call = world.call(Slow, "a", "wait", deadline_ms=20)
    error = await passed(call)
    assert (error.outcome, error.retryable) == ("unknown", False)
    wait.set_result(None)
    await world.settle()
    assert LOG == ["ran to its end"], "it is not cancelled: what it does is none of the caller's business"
    assert world.host.deadlines.unanswered == 0


async def test_a_call_that_waits_at_the_gate_is_answered_at_its_deadline_and_never_runs() -> None:
    world = World(Slow)
    wait = control("wait")
    holding = world.call(Slow, "a", "hold")
    await world.settle()
    error = await passed(world.call(Slow, "a", "log", "late", deadline_ms=20))
    assert error.outcome == "not_executed"
    assert not holding.answered
    wait.set_result(None)
    await world.ask_all([holding])
    await world.settle()
    assert LOG == []


async def test_a_call_whose_result_waits_for_the_disk_is_answered_at_its_deadline_and_not_again() -> None:
    world = World(Slow, auto=False)
    error = await passed(world.call(Slow, "a", "put", 1, deadline_ms=20))
    assert error.outcome == "unknown"
    world.commit()
    await world.settle()
    assert await world.ask(Slow, "a", "log", "on it goes") is None


async def test_a_call_whose_commit_fails_after_its_deadline_is_answered_once() -> None:
    world = World(Slow, auto=False)
    await passed(world.call(Slow, "a", "put", 1, deadline_ms=20))
    world.fail_commit()
    await world.settle()


async def test_a_call_that_waits_for_backpressure_is_answered_at_its_deadline() -> None:
    world = World(Thing, auto=False)
    large = world.call(Thing, "a", "put_large", 17)
    await world.settle()
    error = await passed(world.call(Thing, "b", "log", "late", deadline_ms=20))
    assert error.outcome == "not_executed"
    while world.host.output_gate.can_cut:
        world.commit()
    await large.reply
    assert LOG == []


async def test_a_call_that_waits_for_the_last_commit_of_a_reset_object_is_answered_at_its_deadline() -> None:
    world = World(Thing, auto=False)
    world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    world.call(Thing, "a", "abort_after_put", "j")
    error = await passed(world.call(Thing, "a", "log", "late", deadline_ms=20))
    assert error.outcome == "not_executed"
    world.committed()
    await world.settle()
    assert LOG == []


async def test_a_call_whose_deadline_passes_leaves_its_room_to_others_wherever_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.call_book.WAITING_CALLS_MAX", 1)

    class Held(Thing):
        async def hold(self) -> None:
            async with self.block_concurrency():
                await until("wait")

    world = World(Held, Thing, auto=False)
    waits: list[Call] = []

    async def one_after_another(cls: type[Thing], name: str) -> None:
        """One waits until its deadline, and the next one in its place."""
        await passed(world.call(cls, name, "log", "late", deadline_ms=20))
        waits.append(world.call(cls, name, "log", name))
        await world.settle()
        assert not waits[-1].answered

    written = [world.call(Thing, "reset", "put", "k", 1)]
    await world.settle()
    world.cut()
    world.call(Thing, "reset", "abort_after_put", "j")
    await one_after_another(Thing, "reset")
    world.committed()
    await world.settle()
    written.append(world.call(Thing, "large", "put_large", 17))
    await world.settle()
    await one_after_another(Thing, "stalled")
    while world.host.output_gate.can_cut:
        world.commit()
    await world.ask_all([*written, *waits])
    world.auto = True
    hold = control("wait")
    held = world.call(Held, "gate", "hold")
    await world.settle()
    await one_after_another(Held, "gate")
    hold.set_result(None)
    await world.ask_all([held, *waits])
    assert LOG == ["reset", "stalled", "gate"]


async def test_a_call_that_resets_its_object_is_answered_once() -> None:
    world = World(Thing)
    call = world.call(Thing, "a", "abort_after_put", "j", deadline_ms=20)
    await asyncio.wait([call.reply], timeout=0.5)
    assert call.answered
    await asyncio.sleep(0.03)


async def test_a_call_that_is_answered_in_time_keeps_its_answer() -> None:
    world = World(Slow)
    assert await world.ask(Slow, "a", "put", 7, deadline_ms=20) == 7
    await asyncio.sleep(0.03)
    assert world.host.deadlines.unanswered == 0


@pytest.mark.parametrize("deadline_ms", [2**62, 10**15])
async def test_a_deadline_that_nobody_will_see_is_no_trouble(deadline_ms: int) -> None:
    world = World(Slow)
    wait = control("wait")
    call = world.call(Slow, "a", "wait", deadline_ms=deadline_ms)
    await world.settle()
    wait.set_result(None)
    assert await call.reply == "late"


async def test_deadlines_are_met_in_their_order_whatever_the_order_of_the_calls() -> None:
    world = World(Slow)
    control("wait")
    calls = {ms: world.call(Slow, f"o{ms}", "wait", deadline_ms=ms) for ms in (90, 30, 60)}
    answered: list[int] = []
    for ms, call in calls.items():
        call.reply.add_done_callback(lambda _, ms=ms: answered.append(ms))  # type: ignore[misc]  # its default
    await asyncio.wait([call.reply for call in calls.values()], timeout=1)
    assert answered == [30, 60, 90]
    CONTROL["wait"].set_result(None)


async def test_a_hundred_thousand_deadlines_are_one_timer_and_leave_nothing_behind() -> None:
    """Those that were answered long before their deadline are no burden."""
    world = World(Slow)
    for _ in range(100):
        await world.ask_all([world.call(Slow, f"o{n}", "log", "", deadline_ms=3_600_000) for n in range(1_000)])
        LOG.clear()
    deadlines = world.host.deadlines
    assert deadlines.unanswered == 0
    assert len(deadlines._due) <= 2 * 1_000 + 100


@in_virtual_time
async def test_calls_whose_deadline_has_passed_at_the_gate_leave_it_to_others() -> None:
    class Held(DurableObject):
        async def hold(self) -> None:
            async with self.block_concurrency():
                await asyncio.sleep(0.2)

        async def nothing(self) -> str:
            return "nothing"

    world = World(Held)
    holding = world.call(Held, "a", "hold")
    await world.settle()
    expired = [world.call(Held, "a", "nothing", deadline_ms=20) for _ in range(OBJECT_CALLS_MAX)]
    await asyncio.sleep(0.05)
    assert {call.error.outcome for call in expired} == {"not_executed"}
    assert (len(world.host.book.waiting), world.host.book.waiting_bytes) == (0, 0)
    world.check()
    assert await world.ask(Held, "a", "nothing") == "nothing", "not overloaded"
    await holding.reply


@in_virtual_time
async def test_a_call_that_was_read_too_late_is_refused_and_does_not_run() -> None:
    world = World(Slow)
    now_s = world.loop.time()
    over = world.call(Slow, "a", "log", "over", deadline_ms=200, due_s=now_s - 0.001)
    late = world.call(Slow, "a", "log", "late", deadline_ms=200, due_s=now_s + 0.05)
    soon = world.call(Slow, "a", "log", "soon", deadline_ms=200, due_s=now_s + 0.15)
    await world.settle()
    assert (over.error.code, over.error.outcome) == ("deadline_exceeded", "not_executed")
    assert (late.error.code, late.error.outcome) == ("overloaded", "not_executed")
    assert late.error.details["retry_after_ms"] > 0
    assert soon.answered
    assert LOG == ["soon"]
