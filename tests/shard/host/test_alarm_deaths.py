"""Alarm handlers that end or hang their process: counted before they run, apart from those which only died with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.alarm_world import EPOCH_S, AlarmWorld, Bell, in_virtual_time
from tidegate.runtime.cli.pages import render_alarms
from tidegate.runtime.client.answers import ProcessStatus, ServiceStatus
from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.limits import ALARM_DEATHS_ALONE, ALARM_DEATHS_MAX
from tidegate.shard.core import alarms
from tidegate.shard.core.alarms import BEGUN_KEY, AlarmInfo

Log = pytest.LogCaptureFixture


class DyingWorld(AlarmWorld):
    """`killers` end their process when their alarm rings, `hold_s` after it; the next one is there a second later."""

    def __init__(self, *killers: str) -> None:
        super().__init__()
        self.killers = set(killers)
        self.deaths_at_s: list[float] = []
        self.hold_s = 0.0
        self.rehearsal.play = self._play

    async def _play(self, bell: Bell, info: AlarmInfo) -> None:
        await bell.put("begun", 1)
        if bell.id.name in self.killers:
            self.loop.call_later(self.hold_s, self._die)
            await asyncio.sleep(1e9)
        await asyncio.sleep(0.1)

    def _die(self) -> None:
        self.deaths_at_s.append(round(self.now_after_s, 3))
        self.crash()

    def begun(self) -> dict[str, int]:
        """By object name: the marks that are durable."""
        found = {}
        for store in self.stores.values():
            for key, raw in store.scan(BEGUN_KEY):
                found[alarms.object_name(store, bytes.fromhex(key)).partition("/")[2]] = raw[0]
        return found

    def abandoned(self) -> list[str]:
        return [each.name for store in self.stores.values() for each in alarms.abandoned_alarms(store, 100)]


class RefusingWorld(AlarmWorld):
    """While it is `failing`, each shard has a log of its own, and those that are concerned are full."""

    def fail_commit(self, problem: str = "full") -> None:
        commit = self.cut()
        self.host.committed_but_for(commit, {each.shard: ObjectReset(problem) for each in commit.shards})


@in_virtual_time
async def test_a_handler_that_ends_its_process_is_abandoned_after_a_few_deaths_and_named(caplog: Log) -> None:
    world = DyingWorld("bad")
    await world.ring_up("set", 10, name="bad")
    await world.until(10_000)
    assert len(world.deaths_at_s) == ALARM_DEATHS_MAX
    assert world.abandoned() == ["bad"]
    assert await world.ring_up("pending", name="bad") is None
    assert (world.index_rows(), world.begun()) == ({}, {})
    [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "Bell/bad" in said
    assert f"died {ALARM_DEATHS_MAX} times" in said
    told = world.host.statistics()
    assert told.alarms_abandoned == 1
    assert told.newest_abandoned[0].deaths == ALARM_DEATHS_MAX
    world.crash()
    await world.until(20_000)
    assert len(world.deaths_at_s) == ALARM_DEATHS_MAX
    assert world.host.statistics().alarms_abandoned == 1


@in_virtual_time
async def test_after_its_second_death_it_pauses_longer_each_time_and_everything_else_goes_on() -> None:
    world = DyingWorld("bad")
    await world.ring_up("set", 10, name="bad")
    await world.until(1_000)
    first, second, third, fourth = world.deaths_at_s
    assert second - first < 0.2
    assert 2 <= third - second <= 2.6
    assert 4 <= fourth - third <= 5.1
    assert len(world.rehearsal.times("bad")) == ALARM_DEATHS_MAX


@in_virtual_time
async def test_the_mark_is_durable_before_the_handler_runs_and_is_gone_with_the_alarm() -> None:
    world = AlarmWorld(auto=False)
    call = world.bell("set", 10)
    await world.settle()
    world.commit()
    await call.reply
    await world.until(11)
    assert world.rehearsal.runs == []
    world.cut()
    await world.settle()
    assert world.rehearsal.runs == [], "not while it is only on its way"
    world.committed()
    await world.settle()
    assert len(world.rehearsal.runs) == 1
    assert [len(store.scan(BEGUN_KEY)) for store in world.stores.values() if store.scan(BEGUN_KEY)] == [1]
    world.commit()
    assert not any(store.scan(BEGUN_KEY) for store in world.stores.values())
    assert world.index_rows() == {}


@pytest.mark.parametrize("hold_s", [0.0, 0.05])
@in_virtual_time
async def test_those_that_only_die_with_it_succeed_and_only_it_is_abandoned(hold_s: float) -> None:
    world = DyingWorld("n137")
    world.hold_s = hold_s
    names = [f"n{number}" for number in range(300)]
    await world.ask_all([world.bell("set", 10, name=name) for name in names])
    await world.until(1_000)
    assert world.abandoned() == ["n137"]
    assert len(world.deaths_at_s) == ALARM_DEATHS_MAX
    assert (world.index_rows(), world.begun()) == ({}, {})
    for name in names:
        if name != "n137":
            assert 1 <= len(world.rehearsal.times(name)) <= ALARM_DEATHS_ALONE + 1
    world.killers.clear()
    await world.ring_up("set", 2_000, name="n137")
    await world.until(2_100)
    assert len(world.rehearsal.times("n137")) == ALARM_DEATHS_MAX + 1, "a new alarm is a new one"
    assert world.begun() == {}


@in_virtual_time
async def test_two_that_kill_are_both_found() -> None:
    world = DyingWorld("n1", "n2")
    await world.ask_all([world.bell("set", 10, name=f"n{number}") for number in range(30)])
    await world.until(1_000)
    assert sorted(world.abandoned()) == ["n1", "n2"]
    assert len(world.deaths_at_s) <= 2 * ALARM_DEATHS_MAX
    assert (world.index_rows(), world.begun()) == ({}, {})


@in_virtual_time
async def test_a_success_ends_the_count() -> None:
    world = DyingWorld("a")
    await world.ring_up("set", 10)
    await world.until(15.5)
    assert len(world.deaths_at_s) == 3
    world.killers.clear()
    await world.until(100)
    assert world.begun() == {}
    world.killers.add("a")
    await world.ring_up("set", 200)
    await world.until(1_000)
    assert len(world.deaths_at_s) == 3 + ALARM_DEATHS_MAX


@in_virtual_time
async def test_a_handler_that_raises_does_not_kill() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        raise ValueError

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(20)
    assert not any(store.scan(BEGUN_KEY) for store in world.stores.values())


@in_virtual_time
async def test_kills_from_outside_abandon_nothing_that_does_not_run_each_time() -> None:
    world = DyingWorld()
    await world.ask_all([world.bell("set", 10 + number, name=f"n{number}") for number in range(100)])
    for _ in range(60):
        await world.until(world.now_after_s + 2.05)
        world.crash()
    await world.until(1_000)
    assert world.abandoned() == []
    assert (world.index_rows(), world.begun()) == ({}, {})


@in_virtual_time
async def test_handlers_that_do_not_end_before_a_planned_stop_are_not_blamed() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        await asyncio.sleep(1e9)

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    for _ in range(3 * ALARM_DEATHS_MAX):
        await world.until(world.now_after_s + 20)
        world.host.alarms.stop()
        await world.settle()
        assert not any(store.scan(BEGUN_KEY) for store in world.stores.values())
        world.crash()
    await world.settle()
    assert len(world.rehearsal.runs) == 3 * ALARM_DEATHS_MAX + 1
    world.rehearsal.play = None
    world.crash()
    await world.until(1_000)
    assert world.index_rows() == {}


@in_virtual_time
async def test_a_stop_while_it_pauses_keeps_the_count() -> None:
    world = DyingWorld("bad")
    await world.ring_up("set", 10, name="bad")
    await world.until(11)
    assert len(world.deaths_at_s) == 2
    world.host.alarms.stop()
    await world.settle()
    world.crash()
    assert world.begun() == {"bad": 2}
    await world.until(1_000)
    assert len(world.deaths_at_s) == ALARM_DEATHS_MAX


@in_virtual_time
async def test_an_object_whose_start_ends_the_process_is_no_different() -> None:
    world = DyingWorld()
    await world.ring_up("set", 10)
    world.crash()
    world.rehearsal.start = lambda bell: world._play(bell, None)  # type: ignore[arg-type]  # which it does not look at
    world.killers.add("a")
    await world.until(1_000)
    assert len(world.deaths_at_s) == ALARM_DEATHS_MAX
    assert world.abandoned() == ["a"]
    world.rehearsal.start = None
    assert await world.ring_up("pending") is None


@pytest.mark.parametrize(
    "new_world", [AlarmWorld, lambda: RefusingWorld(proves=True)], ids=["a commit fails", "a shard's part of one"]
)
@in_virtual_time
async def test_a_mark_that_cannot_be_written_delays_the_run_and_does_not_count(new_world: Callable[[], AlarmWorld]) -> None:
    world = new_world()
    await world.ring_up("set", 10)
    world.failing = True
    await world.until(600)
    assert world.rehearsal.runs == []
    world.failing = False
    await world.until(700)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, 0)]
    assert not any(store.scan(BEGUN_KEY) for store in world.stores.values())


@in_virtual_time
async def test_an_abandonment_that_cannot_be_written_runs_nothing() -> None:
    world = DyingWorld("a")
    await world.ring_up("set", 10)
    await world.until(15.5)
    assert len(world.deaths_at_s) == 3
    world.rehearsal.play = None
    for store in world.stores.values():
        for key, _ in store.scan(BEGUN_KEY):
            world.host.output_gate.write_own(store.shard, BEGUN_KEY, key, bytes([ALARM_DEATHS_MAX]), wanted=True)
    world.commit()
    world.crash()
    runs = len(world.rehearsal.runs)
    world.failing = True
    await world.until(100)
    assert (world.abandoned(), len(world.rehearsal.runs)) == ([], runs)
    world.failing = False
    await world.until(300)
    assert (world.abandoned(), len(world.rehearsal.runs)) == (["a"], runs)
    assert (world.index_rows(), world.begun()) == ({}, {})


@pytest.mark.parametrize("asleep", [False, True])
@in_virtual_time
async def test_an_object_in_memory_whose_alarm_is_abandoned_stays_one(asleep: bool) -> None:
    world = DyingWorld("a")
    await world.ring_up("set", 10)
    await world.until(15.5)
    for store in world.stores.values():
        for key, _ in store.scan(BEGUN_KEY):
            world.host.output_gate.write_own(store.shard, BEGUN_KEY, key, bytes([ALARM_DEATHS_MAX]), wanted=True)
    world.commit()
    Bell.rehearsal.play = None
    await world.ring_up("put", "k", 1)
    world.host.alarms.stop()
    world.boot()
    put = world.bell("put", "k", 2)
    await world.settle(1)
    if asleep:
        world.evict_idle()
    await world.until(100)
    await put.reply
    assert world.abandoned() == ["a"]
    assert await world.ring_up("get", "k") == 2
    assert await world.ring_up("pending") is None


@in_virtual_time
async def test_calls_that_come_while_it_is_abandoned_find_it_abandoned() -> None:
    world = DyingWorld("a")
    await world.ring_up("set", 10)
    await world.until(1_000)
    assert world.abandoned() == ["a"]
    world = DyingWorld("a")
    await world.ring_up("set", 10)
    for _ in range(40):
        await world.until(world.now_after_s + 0.5)
        if len(world.deaths_at_s) == ALARM_DEATHS_MAX:
            break
        world.auto = len(world.deaths_at_s) < ALARM_DEATHS_MAX - 1
        if not world.auto:
            while world.host.output_gate.can_cut and len(world.deaths_at_s) < ALARM_DEATHS_MAX:
                world.commit()
                await world.settle()
    asked = world.bell("pending")
    await world.settle()
    assert not asked.answered, "it waits for the commit"
    world.commit()
    assert await asked.reply is None
    world.auto = True


def shown(**statistics: Any) -> str:
    return render_alarms(ServiceStatus(processes=(ProcessStatus(name="worker 0", statistics=statistics),)))


def test_the_list_of_alarms_says_of_whom_a_process_died() -> None:
    entry = {"class_name": "Bell", "name": "bad", "scheduled_for": "2026-11-28T10:00:00Z", "abandoned_at": "2026-11-28T10:01:00Z"}
    assert "died 4 times" in shown(newest_abandoned=[{**entry, "error": "its process died 4 times while the handler ran"}])


@in_virtual_time
async def test_get_alarm_names_the_time_while_it_pauses() -> None:
    world = DyingWorld("bad")
    await world.ring_up("set", 10, name="bad")
    await world.until(11)
    assert await world.ring_up("pending", name="bad") == 10
    assert world.durable_alarm_s("bad") == 10
    assert EPOCH_S
