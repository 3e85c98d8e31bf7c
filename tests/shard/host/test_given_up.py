"""What an operator does with abandoned alarms: they are dropped, or run again, and nothing of the object runs before."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from tests.support.alarm_world import AlarmWorld, Bell, Run, in_virtual_time
from tidegate.runtime.errors import BadRequest, CallError, ObjectReset, from_wire
from tidegate.runtime.wire.protocol import ALARM_CALLS, DROP_ALARM, RUN_ALARM, Origin, Request
from tidegate.runtime.wire.wishes import TurnAlarm
from tidegate.shard.core.alarms import ABANDONED_KEY, AlarmInfo, abandoned_alarms


class OperatorsWorld(AlarmWorld):
    """The worker of the bells, and an operator who asks it."""

    def _system(self, request: Request, origin: Origin) -> None:
        given_up = self.host.alarms.given_up
        {DROP_ALARM: given_up.drop, RUN_ALARM: given_up.run}[request.method](request, origin)

    async def give_up(self, *names: str) -> None:
        """Their alarms of second 10."""
        for name in names:
            await self.ring_up("set", 10, name=name)
        self.rehearsal.play = fail
        await self.until(1_000)
        self.rehearsal.play = None
        self.rehearsal.runs.clear()

    def recorded(self) -> list[str]:
        return sorted(each.name for store in self.stores.values() for each in abandoned_alarms(store, 100))

    def told(self) -> tuple[int, list[str]]:
        statistics = self.host.statistics()
        return statistics.alarms_abandoned, sorted(each.name for each in statistics.newest_abandoned)


async def fail(bell: Bell, info: AlarmInfo) -> None:
    raise ValueError("no")


@in_virtual_time
async def test_a_dropped_alarm_is_forgotten_and_never_rings() -> None:
    world = OperatorsWorld()
    await world.give_up("a", "b")
    assert (world.recorded(), world.told()) == (["a", "b"], (2, ["a", "b"]))
    assert await world.ask("", "Bell/a", DROP_ALARM) is None
    for _ in range(2):
        assert (world.recorded(), world.told()) == (["b"], (1, ["b"]))
        world.crash()
    await world.until(2_000)
    assert world.rehearsal.runs == []


@pytest.mark.parametrize("in_memory", ["no", "asleep", "yes"])
@in_virtual_time
async def test_an_alarm_that_is_run_again_rings_now_with_its_time_and_nothing_counted(in_memory: str) -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    if in_memory != "yes":
        world.evict_idle()
    if in_memory == "no":
        world.crash()
    assert await world.ask("", "Bell/a", RUN_ALARM) is None
    assert (world.recorded(), world.told()) == ([], (0, []))
    await world.until(1_100)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, 0)]
    assert world.index_rows() == {}
    world.check()


@in_virtual_time
async def test_one_that_fails_again_is_recorded_again_once() -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    world.rehearsal.play = fail
    await world.ask("", "Bell/a", RUN_ALARM)
    await world.until(3_000)
    assert len(world.rehearsal.runs) == 7
    assert (world.recorded(), world.told()) == (["a"], (1, ["a"]))
    await world.ring_up("set", 3_000)
    await world.until(5_000)
    assert (world.recorded(), world.told()) == (["a"], (1, ["a"])), "the newest of each object"


@pytest.mark.parametrize("do", ["run", "drop"])
@in_virtual_time
async def test_who_names_the_one_that_he_has_seen_changes_no_later_one(do: Literal["run", "drop"]) -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    (seen,) = (each.told_at for store in world.stores.values() for each in abandoned_alarms(store, 100))
    answers: list[tuple[Any, Any]] = []

    def wish(abandoned_at: str) -> None:
        world.host.wishes.begin(
            TurnAlarm(do, abandoned_at=abandoned_at), "Bell", "a", 5.0, lambda *answer: answers.append(answer)
        )

    wish("2026-01-01T00:00:00+00:00")
    await world.settle()
    ((error, _),) = answers
    assert from_wire(error).details == {"conflict": True}
    assert world.recorded() == ["a"]
    wish(seen)
    await world.settle()
    assert answers[1:] == [(None, {"alarm": do})]
    assert (world.recorded(), world.told()) == ([], (0, []))


@pytest.mark.parametrize("method", ALARM_CALLS)
@pytest.mark.parametrize("name", ["Bell/b", "Bell", "", "/", "None/a", "Bell/"])
@in_virtual_time
async def test_an_object_without_one_is_told_so(method: str, name: str) -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    with pytest.raises(BadRequest, match="has no abandoned alarm; `tidegate alarms` lists"):
        await world.ask("", name, method)
    assert world.told() == (1, ["a"])


@in_virtual_time
async def test_an_alarm_is_not_run_again_over_one_that_the_object_has_set_since() -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    await world.ring_up("set", 5_000)
    with pytest.raises(BadRequest, match="another alarm"):
        await world.ask("", "Bell/a", RUN_ALARM)
    assert await world.ring_up("pending") == 5_000
    await world.ask("", "Bell/a", DROP_ALARM)
    assert await world.ring_up("pending") == 5_000
    assert world.recorded() == []


@pytest.mark.parametrize("method", ALARM_CALLS)
@in_virtual_time
async def test_the_answer_waits_until_it_is_durable_and_a_failure_changes_nothing(method: str) -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    world.auto = False
    asked = world.call("", "Bell/a", method)
    await world.settle()
    assert not asked.answered
    world.fail_commit()
    await world.settle()
    assert isinstance(asked.error, ObjectReset)
    assert world.told() == (1, ["a"])
    world.crash()
    assert world.recorded() == ["a"]
    world.auto = True
    await world.ask("", "Bell/a", method)
    assert world.recorded() == []


@in_virtual_time
async def test_calls_that_come_while_it_is_set_again_find_it_set_and_start_one_instance() -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    world.crash()
    world.auto = False
    asked = world.call("", "Bell/a", RUN_ALARM)
    calls = [world.bell("get", "k") for _ in range(3)]
    await world.settle()
    assert not asked.answered
    assert not any(call.answered for call in calls)
    world.auto = True
    world.commit()
    await world.ask_all([asked, *calls])
    await world.until(1_100)
    assert world.rehearsal.runs == [Run("a", world.rehearsal.runs[0].at_s, 10, 0)]


@in_virtual_time
async def test_alarms_of_a_class_that_the_app_has_no_more_can_be_dropped_only() -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    world.classes.clear()
    world.crash()
    with pytest.raises(BadRequest, match="no class Bell"):
        await world.ask("", "Bell/a", RUN_ALARM)
    await world.ask("", "Bell/a", DROP_ALARM)
    assert not any(store.scan(ABANDONED_KEY) for store in world.stores.values())


@in_virtual_time
async def test_asked_twice_at_once_one_is_told_that_there_is_none_or_both_succeed() -> None:
    world = OperatorsWorld()
    await world.give_up("a")
    calls = [world.call("", "Bell/a", method) for method in (RUN_ALARM, RUN_ALARM, DROP_ALARM)]
    answers: list[Any] = await asyncio.gather(*(call.reply for call in calls), return_exceptions=True)
    assert answers[0] is None
    assert all(answer is None or isinstance(answer, CallError) for answer in answers)
    await world.until(1_100)
    assert world.told() == (0, [])
    assert len(world.rehearsal.runs) == 1
