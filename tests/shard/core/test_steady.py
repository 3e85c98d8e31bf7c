"""Steady time keeps distances, whatever is done to the wall clock; and so do alarms that are set relative to now, and retries."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.alarm_world import EPOCH_S, AlarmWorld, Bell, in_virtual_time
from tidegate.runtime.errors import CallError
from tidegate.shard.core.alarms import AHEAD, STEADY_KEY, AlarmInfo
from tidegate.shard.core.steady import READING_US_MAX, STEP_US, SteadyTime
from tidegate.shard.host.alarm_clock import TIMER_MS_MAX

HOUR_S = 3_600.0
POLL_S = TIMER_MS_MAX / 1_000


class Clocks:
    """Reading takes its time."""

    def __init__(self) -> None:
        self.wall, self.monotonic, self.reading = 10**15, 5_000, 0

    def wall_us(self) -> int:
        return self.wall

    def monotonic_us(self) -> int:
        self.monotonic += self.reading
        return self.monotonic

    def pass_us(self, us: int) -> None:
        self.wall += us
        self.monotonic += us


def steady(clocks: Clocks, ahead_us: int = 0) -> SteadyTime:
    time = SteadyTime(clocks.wall_us, clocks.monotonic_us)
    time.begin(3, ahead_us)
    return time


# Steady time


def test_at_first_it_is_the_wall_clock_and_it_runs_on_when_that_is_set() -> None:
    clocks = Clocks()
    time = steady(clocks)
    for step_us in (-(10**9), 10**12, -STEP_US, STEP_US):
        before_us = time.now_us(3)
        clocks.wall += step_us
        assert time.now_us(3) == before_us
        assert time.was_set() == [3]
        assert time.was_set() == []
        assert time.now_us(3) - time.ahead_us[3] == clocks.wall
        clocks.pass_us(10**6)
        assert time.now_us(3) == before_us + 10**6
        assert time.was_set() == []


def test_small_steps_are_passed_over_until_they_add_up() -> None:
    clocks = Clocks()
    time = steady(clocks)
    found = []
    for _ in range(25):
        clocks.wall += STEP_US // 10
        found.append(bool(time.was_set()))
    assert [number for number, was_set in enumerate(found) if was_set] == [9, 19]


def test_two_clocks_that_were_read_far_apart_say_nothing() -> None:
    clocks = Clocks()
    time = steady(clocks)
    clocks.wall -= 10**9
    clocks.reading = READING_US_MAX + 1
    assert time.was_set() == []
    clocks.reading = 0
    assert time.was_set() == [3]


def test_a_new_process_goes_on_where_the_last_one_was() -> None:
    clocks = Clocks()
    time = steady(clocks)
    clocks.wall -= 10**9
    time.was_set()
    now_us = time.now_us(3)
    clocks.pass_us(10**6)
    later = Clocks()
    later.wall, later.monotonic = clocks.wall, 77
    assert steady(later, time.ahead_us[3]).now_us(3) == now_us + 10**6


def test_it_is_no_earlier_than_what_is_known_to_have_been() -> None:
    clocks = Clocks()
    time = steady(clocks)
    now_us = time.now_us(3)
    assert not time.at_least(3, now_us)
    assert time.at_least(3, now_us + 10**9)
    assert time.now_us(3) == now_us + 10**9
    assert time.was_set() == [], "the wall clock has not been set since"


# Alarms


async def fail_once(bell: Bell, info: AlarmInfo) -> None:
    if info.retry_count == 0:
        raise ValueError


def passed_s(world: AlarmWorld) -> list[float]:
    """When handlers ran, in seconds that passed since the start, whatever the wall clock said."""
    return [round(run.at_s - world.set_by_s, 2) for run in world.rehearsal.runs]


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S, -86_400 * 365, 86_400 * 365, -0.5, 0.5])
@in_virtual_time
async def test_an_alarm_set_relative_to_now_keeps_its_distance_when_the_wall_clock_is_set(step_s: float) -> None:
    world = AlarmWorld()
    await world.ring_up("set_in", 100)
    await world.until(50)
    world.set_by_s = step_s
    assert world.rehearsal.runs == []
    await world.until(99.9 + step_s)
    assert world.rehearsal.runs == []
    await world.until(200 + step_s)
    assert 100 <= passed_s(world)[0] < 100.1
    [run] = world.rehearsal.runs
    assert abs(run.scheduled_s - (100 + step_s)) < 0.05, "told by the clock as it is set now"


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
@in_virtual_time
async def test_a_retry_keeps_its_distance_when_the_wall_clock_is_set(step_s: float) -> None:
    world = AlarmWorld()
    world.rehearsal.play = fail_once
    await world.ring_up("set", 10)
    await world.until(10.5)
    world.set_by_s = step_s
    await world.until(11.9 + step_s)
    assert len(world.rehearsal.runs) == 1
    await world.until(13 + step_s)
    assert [(run.retry_count, run.scheduled_s) for run in world.rehearsal.runs] == [(0, 10), (1, 10)]


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
@in_virtual_time
async def test_what_did_not_get_through_is_tried_again_after_the_time_that_was_meant(step_s: float) -> None:
    world = AlarmWorld()

    async def start(bell: Bell) -> None:
        raise OSError

    await world.ring_up("set_in", 10)
    world.crash()
    world.rehearsal.start = start
    await world.until(10.5)
    world.set_by_s = step_s
    world.rehearsal.start = None
    await world.until(13 + step_s)
    assert len(world.rehearsal.runs) == 1


@in_virtual_time
async def test_an_alarm_for_a_time_follows_the_wall_clock_and_one_of_each_kind_are_told_apart() -> None:
    world = AlarmWorld()
    await world.ring_up("set", 1_000, name="at")
    await world.ring_up("set_in", 1_000, name="in")
    await world.until(500)
    world.set_by_s = 600
    await world.until(1_100 + POLL_S + 0.1)
    assert [run.name for run in world.rehearsal.runs] == ["at"]
    await world.until(1_600.1)
    assert [run.name for run in world.rehearsal.runs] == ["at", "in"]
    assert world.index_rows() == {}


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
@in_virtual_time
async def test_a_new_process_keeps_the_distance_when_the_clock_was_set_before_it_came(step_s: float) -> None:
    world = AlarmWorld()
    await world.ring_up("set_in", 100)
    await world.until(20)
    world.set_by_s = step_s
    await world.until(20 + step_s + POLL_S + 0.1)
    world.crash()
    assert abs((await world.ring_up("pending")) - (100 + step_s)) < 0.1
    await world.until(99.9 + step_s)
    assert world.rehearsal.runs == []
    await world.until(100.2 + step_s)
    assert len(world.rehearsal.runs) == 1


@in_virtual_time
async def test_when_the_clock_was_set_back_while_no_process_was_there_an_alarm_waits_no_longer_than_from_its_start() -> None:
    world = AlarmWorld()
    await world.ring_up("set_in", 100)
    await world.until(50)
    world.set_by_s = -30 * 365 * 86_400
    world.crash()
    await world.until(50 + world.set_by_s + 100.5)
    assert len(world.rehearsal.runs) == 1


@in_virtual_time
async def test_an_alarm_set_after_the_clock_was_set_keeps_its_distance_at_once() -> None:
    world = AlarmWorld()
    await world.ring_up("set_in", 100, name="first")
    await world.until(1)
    for step_s in (HOUR_S, -HOUR_S, 7.0):
        world.set_by_s = step_s
        name = f"after {step_s}"
        await world.ring_up("set_in", 5, name=name)
        assert abs(await world.ring_up("pending", name=name) - world.now_after_s - 5) < 0.1
        at_s = world.now_after_s
        await world.until(at_s + 4.9)
        assert world.rehearsal.times(name) == []
        await world.until(at_s + 5.1)
        assert len(world.rehearsal.times(name)) == 1


@in_virtual_time
async def test_get_alarm_tells_the_same_until_the_clock_is_set() -> None:
    world = AlarmWorld()
    await world.ring_up("set_in", 100)
    told = {await world.ring_up("pending") for _ in range(5)}
    await world.until(30)
    assert {await world.ring_up("pending")} == told
    world.crash()
    assert {await world.ring_up("pending")} == told


@in_virtual_time
async def test_a_step_that_cannot_be_stored_at_once_is_stored_later() -> None:
    world = AlarmWorld()
    await world.ring_up("set_in", 1_000)
    world.failing = True
    world.set_by_s = -HOUR_S
    await world.until(30 - HOUR_S)
    assert not any(store.get(STEADY_KEY, AHEAD) for store in world.stores.values())
    world.failing = False
    await world.ring_up("put", "k", 1, name="other")
    assert all(store.get(STEADY_KEY, AHEAD) for store in world.stores.values())


@in_virtual_time
async def test_a_moved_alarm_leaves_the_index_of_the_other_kind() -> None:
    world = AlarmWorld()
    for method, at in (("set_in", 50.0), ("set", 60.0), ("set_in", 70.0), ("set", 80.0)):
        await world.ring_up(method, at)
        assert len(world.index_rows()["a"]) == 1
    await world.ring_up("delete")
    assert world.index_rows() == {}


@pytest.mark.parametrize("given", [6, 1_700_000_000_000, float("nan")])
@in_virtual_time
async def test_a_method_that_sets_an_alarm_for_such_a_number_is_told_and_keeps_its_alarm(given: Any) -> None:
    world = AlarmWorld()
    await world.ring_up("set", 100)
    with pytest.raises((ValueError, CallError), match="an alarm cannot be set for"):
        await world.ring_up("set", given - EPOCH_S)
    assert await world.ring_up("pending") == 100
