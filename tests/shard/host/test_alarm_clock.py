"""Alarms ring: when, how often, after what, and however many there are."""

from __future__ import annotations

import asyncio
import itertools
import logging
from random import Random

import pytest

from tests.support.alarm_world import EPOCH_S, AlarmWorld, Bell, in_virtual_time
from tidegate.shard.core import alarms
from tidegate.shard.core.alarms import RETRIES_MAX, AlarmInfo
from tidegate.shard.host import alarm_clock

Log = pytest.LogCaptureFixture


# Ringing


@in_virtual_time
async def test_it_rings_at_its_time_with_what_was_asked_and_is_gone_then() -> None:
    world = AlarmWorld()
    seen = []

    async def play(bell: Bell, info: AlarmInfo) -> None:
        seen.append(await bell.pending())

    world.rehearsal.play = play
    await world.ring_up("set", 0.05)
    await world.until(1)
    [run] = world.rehearsal.runs
    assert run.scheduled_s == 0.05
    assert 0.05 <= run.at_s < 0.06
    assert seen == [None]
    assert await world.ring_up("pending") is None
    assert (world.durable_alarm_s(), world.index_rows()) == (None, {})


@pytest.mark.parametrize("seed", range(5))
@in_virtual_time
async def test_no_alarm_rings_before_its_time_and_none_much_later(seed: int) -> None:
    world = AlarmWorld()
    random = Random(seed)
    times = {f"n{number}": random.choice((random.random() * 100, random.randrange(100))) for number in range(300)}
    await world.ask_all([world.bell("set", at_s, name=name) for name, at_s in times.items()])
    await world.until(200)
    assert len(world.rehearsal.runs) == len(times)
    for run in world.rehearsal.runs:
        assert abs(run.scheduled_s - times[run.name]) < 1e-5
        assert run.scheduled_s - 1e-5 <= run.at_s < run.scheduled_s + 0.1


@in_virtual_time
async def test_while_the_handler_runs_everybody_sees_the_alarm_that_was_set_new_or_none() -> None:
    world = AlarmWorld()
    seen = []

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if len(world.rehearsal.runs) == 1:
            await asyncio.sleep(10)
            seen.append(await bell.pending())
            await bell.set(500)
            seen.append(await bell.pending())
            await asyncio.sleep(10)

    world.rehearsal.play = play
    await world.ring_up("set", 100)
    await world.until(105)
    assert await world.ring_up("pending") is None
    await world.until(115)
    assert await world.ring_up("pending") == 500
    await world.until(400)
    assert seen == [None, 500]
    assert await world.ring_up("pending") == 500
    await world.until(1_000)
    assert world.rehearsal.times() == [100, 500]


@in_virtual_time
async def test_what_the_handler_does_in_a_transaction_with_its_alarm_ends_as_the_transaction_does() -> None:
    world = AlarmWorld()
    seen = []

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if len(world.rehearsal.runs) > 1:
            return
        async with bell.storage.transaction() as txn:
            txn.set_alarm(EPOCH_S + 50)
            txn.rollback()
        seen.append(await bell.pending())
        async with bell.storage.transaction() as txn:
            txn.set_alarm(EPOCH_S + 60)
        seen.append(await bell.pending())

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(100)
    assert seen == [None, 60]
    assert world.rehearsal.times() == [10, 60]


@in_virtual_time
async def test_an_alarm_like_the_one_that_rings_is_a_new_one() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if len(world.rehearsal.runs) < 4:
            await bell.storage.set_alarm(info.scheduled_for)

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(20)
    assert [run.scheduled_s for run in world.rehearsal.runs] == [10, 10, 10, 10]
    assert world.index_rows() == {}


@in_virtual_time
async def test_it_is_removed_only_when_that_is_durable_and_a_crash_before_runs_it_again() -> None:
    world = AlarmWorld()
    await world.ring_up("set", 10)
    world.auto = False
    await world.until(11)
    assert world.rehearsal.runs == [], "a run is counted before it starts"
    world.commit()
    await world.settle()
    assert len(world.rehearsal.runs) == 1
    world.crash()
    await world.settle()
    world.commit()
    await world.settle()
    assert [run.retry_count for run in world.rehearsal.runs] == [0, 0], "nothing durable has happened"
    world.cut()
    world.crash(in_flight_is_durable=True)
    await world.until(100)
    assert len(world.rehearsal.runs) == 2
    assert world.index_rows() == {}


@in_virtual_time
async def test_a_removal_whose_commit_fails_runs_it_again_and_does_not_count() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        world.failing = True
        world.loop.call_later(0.5, setattr, world, "failing", False)

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(600)
    failed = len(world.rehearsal.runs)
    assert failed > RETRIES_MAX + 3
    for n, (at, after) in enumerate(itertools.pairwise(world.rehearsal.times())):
        assert 2 * 2 ** min(n, 5) - 0.01 <= after - at <= 2.5 * 2 ** min(n, 5) + 0.1, (n, at, after)
    world.rehearsal.play = None
    await world.until(700)
    assert len(world.rehearsal.runs) == failed + 1
    assert {run.retry_count for run in world.rehearsal.runs} == {0}
    assert world.index_rows() == {}
    assert world.host.statistics().alarms_abandoned == 0


# One handler at a time


@in_virtual_time
async def test_handlers_of_one_object_never_overlap_however_alarms_are_set() -> None:
    """`Bell.alarm` asserts it."""
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if len(world.rehearsal.runs) == 1:
            await bell.set_in(0)
        await asyncio.sleep(5)

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(12)
    await world.ring_up("set", 11)
    await world.ring_up("set", 12)
    await world.until(16)
    await world.ring_up("set_in", 0)
    await world.until(100)
    assert [round(at_s) for at_s in world.rehearsal.times()] == [10, 15, 20]
    assert world.index_rows() == {}


@in_virtual_time
async def test_other_calls_are_served_while_a_handler_waits_and_an_alarm_waits_at_the_gate() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        await asyncio.sleep(5)

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(9)
    busy = world.bell("be_busy", 20)
    await world.until(28)
    assert world.rehearsal.runs == []
    await busy.reply
    await world.until(30)
    assert len(world.rehearsal.runs) == 1
    assert await world.ring_up("get", "k") is None
    assert world.rehearsal.running == {"a"}
    await world.until(40)


@pytest.mark.parametrize("to", [50, None])
@in_virtual_time
async def test_an_alarm_that_is_moved_or_deleted_while_it_waits_at_the_gate_does_not_ring(to: float | None) -> None:
    world = AlarmWorld()
    await world.ring_up("set", 10)
    await world.until(9)
    busy = world.bell("be_busy", 20)
    await world.until(9.5)
    moved = world.bell("set", to) if to is not None else world.bell("delete")  # Waits before the alarm.
    await world.ask_all([busy, moved])
    await world.until(45)
    assert world.rehearsal.runs == []
    await world.until(60)
    assert world.rehearsal.times() == ([] if to is None else [50])


# Memory, restarts, clocks


@in_virtual_time
async def test_an_alarm_wakes_an_object_that_is_not_in_memory_and_knows_its_name() -> None:
    world = AlarmWorld()
    await world.ring_up("put_and_set", 7, 100, name="näme/{x}")
    await world.settle()
    world.host.table.evict_idle(world.loop.time() + 1_000)
    assert len(world.host.table) == 0, "a pending alarm keeps nothing in memory"
    await world.until(101)
    assert [run.name for run in world.rehearsal.runs] == ["näme/{x}"]


@in_virtual_time
async def test_what_was_due_during_a_stop_rings_at_once_and_what_is_not_due_waits() -> None:
    world = AlarmWorld()
    await world.ask_all([world.bell("set", at_s, name=f"n{at_s}") for at_s in (10, 20, 5_000)])
    world.host.alarms.stop()
    await world.until(1_000)
    assert world.rehearsal.runs == [], "nothing rings after the stop"
    world.crash()
    assert await world.ring_up("pending", name="n5000") == 5_000
    await world.settle(60)
    assert sorted((run.name, round(run.at_s)) for run in world.rehearsal.runs) == [("n10", 1_000), ("n20", 1_000)]
    await world.until(5_001)
    assert world.rehearsal.times("n5000") == [5_000]


@in_virtual_time
async def test_after_the_wall_clock_was_set_forward_alarms_that_are_now_due_ring_within_seconds() -> None:
    world = AlarmWorld()
    await world.ring_up("set", 86_400)
    await world.until(100)
    world.set_by_s = 86_400
    await asyncio.sleep(alarm_clock.TIMER_MS_MAX / 1_000 + 0.1)
    assert len(world.rehearsal.runs) == 1


@in_virtual_time
async def test_after_the_wall_clock_was_set_back_alarms_ring_at_their_time_by_the_new_one() -> None:
    world = AlarmWorld()
    await world.ring_up("set", 100)
    await world.until(99)
    world.set_by_s = -1_000
    await asyncio.sleep(999)
    assert world.rehearsal.runs == []
    await asyncio.sleep(12)
    assert [round(at_s) for at_s in world.rehearsal.times()] == [100]


@in_virtual_time
async def test_a_clock_set_back_while_an_alarm_waits_at_the_gate_only_delays_it() -> None:
    world = AlarmWorld()
    await world.ring_up("set", 100)
    await world.until(99)
    busy = world.bell("be_busy", 10)
    await asyncio.sleep(2)
    world.set_by_s = -50
    await busy.reply
    await world.settle()
    assert world.rehearsal.runs == []
    await asyncio.sleep(60)
    assert [round(at_s) for at_s in world.rehearsal.times()] == [100]


@in_virtual_time
async def test_an_alarm_set_again_for_the_same_time_before_its_removal_was_cut_rings_again() -> None:
    """The wall clock stands still: the new row of the index is the old one."""
    world = AlarmWorld(auto=False)
    calls = [world.bell("set", 10)]
    await world.settle()
    world.commit()
    await world.ask_all(calls)
    await world.until(10)
    world.commit()
    await world.settle()
    assert len(world.rehearsal.runs) == 1
    world.set_by_s -= world.now_after_s - 10 + 0.001
    call = world.bell("set", 10)
    await world.settle()
    world.auto = True
    world.commit()
    await call.reply
    await world.until(30)
    assert len(world.rehearsal.runs) == 2


# Many


@in_virtual_time
async def test_while_nothing_is_due_nothing_runs_and_memory_is_bounded() -> None:
    world = AlarmWorld()
    for at in range(0, 20_000, 2_000):
        await world.ask_all([world.bell("set", 10**6 + n, name=f"n{n}") for n in range(at, at + 2_000)])
        world.host.table.evict_idle(world.loop.time() + 1_000)
    turns = world.loop.virtual.turns
    await asyncio.sleep(86_400)
    assert world.loop.virtual.turns - turns < 86_400 / (alarm_clock.TIMER_MS_MAX / 1_000) + 10
    assert sum(len(shard._heap) for shard in world.host.alarms._shards.values()) <= 4 * 2 * alarms.WINDOW_ROWS
    assert world.host.statistics().alarm_due_ms == (EPOCH_S + 10**6) * 1_000
    assert world.rehearsal.runs == []


@in_virtual_time
async def test_without_alarms_there_is_no_timer() -> None:
    world = AlarmWorld()
    turns = world.loop.virtual.turns
    await asyncio.sleep(86_400)
    assert world.loop.virtual.turns - turns < 5
    assert world.host.statistics().alarm_due_ms is None


@in_virtual_time
async def test_thousands_that_are_due_at_once_all_ring_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_clock, "RINGS_MAX", 50)
    monkeypatch.setattr(alarms, "WINDOW_ROWS", 20)
    world = AlarmWorld()
    most = 0

    async def play(bell: Bell, info: AlarmInfo) -> None:
        nonlocal most
        most = max(most, len(world.rehearsal.running))
        await asyncio.sleep(1)

    world.rehearsal.play = play
    await world.ask_all([world.bell("set", 10, name=f"n{number}") for number in range(1_000)])
    await world.until(9)
    assert await world.ring_up("get", "k") is None
    await world.until(60)
    assert len(world.rehearsal.runs) == len({run.name for run in world.rehearsal.runs}) == 1_000
    assert most == 50
    assert world.host.statistics().alarms_rung == 1_000


@in_virtual_time
async def test_an_object_that_never_starts_keeps_no_other_alarm_from_ringing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "WINDOW_ROWS", 5)
    world = AlarmWorld()
    await world.ask_all([world.bell("set", number, name=f"n{number}") for number in range(200)])
    world.crash()

    async def start(bell: Bell) -> None:
        if bell.id.name in ("n0", "n1", "n2", "n3", "n50"):
            raise OSError

    world.rehearsal.start = start
    await world.until(300)
    assert len(world.rehearsal.runs) == 195
    assert all(run.at_s < run.scheduled_s + 0.1 for run in world.rehearsal.runs)


@pytest.mark.parametrize("missing", ["class", "handler"])
@in_virtual_time
async def test_alarms_of_a_class_that_the_app_no_longer_has_are_kept_and_told_once(missing: str, caplog: Log) -> None:
    world = AlarmWorld()
    await world.ask_all([world.bell("set", number, name=f"n{number}") for number in range(50)])
    every = world.classes
    handler = every[0].alarm
    if missing == "class":
        world.classes = []
    else:
        every[0].alarm = None
    world.crash()
    await world.until(10_000)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "Bell" in told[0].getMessage()
    assert len(world.index_rows()) == 50
    turns = world.loop.virtual.turns
    await asyncio.sleep(86_400)
    assert world.loop.virtual.turns - turns < 10
    world.classes = every
    every[0].alarm = handler
    world.crash()
    await world.settle(200)
    assert len(world.rehearsal.runs) == 50


# Everything at once


@pytest.mark.parametrize("seed", range(30))
@in_virtual_time
async def test_whatever_happens_every_confirmed_alarm_rings(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random calls, failing handlers, failing commits, crashes, evictions and a wall clock that jumps. In the end nothing is
    pending, and each object has run its handler after the last time at which it was told, confirmed, to ring."""
    random = Random(seed)
    monkeypatch.setattr(alarms, "WINDOW_ROWS", random.choice((1, 2, 5, 1_000)))
    monkeypatch.setattr(alarm_clock, "RINGS_MAX", random.choice((1, 3, 1_000)))
    world = AlarmWorld()
    names = [f"n{number}" for number in range(random.choice((2, 10)))]
    calm = False

    async def play(bell: Bell, info: AlarmInfo) -> None:
        draw = random.random()
        await bell.put("last", len(world.rehearsal.runs))
        if draw < 0.3:
            await asyncio.sleep(random.random() * 3)
        if calm:
            return
        if draw < 0.1:
            await bell.set_in(random.random() * 5 - 1)
        elif draw < 0.2:
            raise ValueError
        elif draw < 0.25:
            bell.abort()

    world.rehearsal.play = play
    expected: dict[str, int] = {}
    confirmed = 0
    for _ in range(150):
        draw, name = random.random(), random.choice(names)
        if draw < 0.5:
            runs, at_s = len(world.rehearsal.runs), world.now_after_s + random.random() * 20 - 2
            unconfirmed = random.random() < 0.2
            call = world.bell("set", at_s, unconfirmed, name=name)
            await world.settle(random.choice((0, 5, 60)))
            if call.answered and call.reply.exception() is None and not unconfirmed:
                expected[name] = runs
                confirmed += 1
        elif draw < 0.6:
            world.bell(random.choice(("delete", "delete_all")), name=name)
            expected.pop(name, None)
        elif draw < 0.7:
            world.failing = not world.failing
        elif draw < 0.75:
            world.crash()
        elif draw < 0.8:
            world.set_by_s += random.random() * 10 - 5
        elif draw < 0.85:
            world.host.table.evict_idle(world.loop.time() + 1_000)
        await asyncio.sleep(random.choice((0, 0.5, 5)))
        world.check()
    calm, world.failing = True, False
    await asyncio.sleep(2_000)
    world.check()
    assert world.index_rows() == {}
    for name, runs in expected.items():
        assert any(run.name == name for run in world.rehearsal.runs[runs:]), f"{name} was to ring after run {runs}"
    assert confirmed > 10
    assert world.host.alarms._ringing == {}
    assert world.host.alarms._again == []
