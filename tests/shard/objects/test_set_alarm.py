"""`set_alarm`: what it takes, and that the alarm is part of what is committed, rolled back and deleted."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.alarm_world import EPOCH_S, AlarmWorld, Bell, in_virtual_time
from tidegate.runtime.errors import MethodRaised, ObjectReset
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.objects.object import DurableObject


class Silent(DurableObject):
    """No handler."""

    async def set(self) -> None:
        await self.storage.put("written", 1)
        await self.storage.set_alarm(1)


class Puppet(DurableObject):
    """Does what it is told, with its storage."""

    async def alarm(self, info: AlarmInfo) -> None: ...

    async def do(self, number: int) -> Any:
        return await ACTIONS[number](self)


ACTIONS: list[Callable[[Any], Any]] = []


async def do(world: AlarmWorld, action: Callable[[Any], Any], name: str = "a") -> Any:
    ACTIONS.append(action)
    return await world.ask(Puppet, name, "do", len(ACTIONS) - 1)


# Setting


@in_virtual_time
async def test_what_was_set_is_what_get_alarm_tells() -> None:
    world = AlarmWorld(Puppet)
    when = datetime.datetime.fromtimestamp(EPOCH_S, datetime.UTC) + datetime.timedelta(days=3, microseconds=7)

    async def by_each(o: Any) -> list[Any]:
        found = [await o.storage.get_alarm()]
        for given in (when, when.astimezone(datetime.timezone(datetime.timedelta(hours=5))), when.timestamp()):
            await o.storage.set_alarm(given)
            found.append(await o.storage.get_alarm())
        await o.storage.set_alarm(datetime.timedelta(seconds=9))
        return [*found, await o.storage.get_alarm()]

    none, *found, after = await do(world, lambda o: as_text(by_each(o)))
    assert none == "None"
    assert found[0] == found[1] == str(when)
    assert found[2][:26] == str(when)[:26]
    assert abs(datetime.datetime.fromisoformat(after).timestamp() - EPOCH_S - 9) < 0.1


async def sleep_a_little(_: Bell) -> None:
    await asyncio.sleep(0.1)


async def as_text(values: Any) -> list[str]:
    return [str(value) for value in await values]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), True, "soon", datetime.datetime(2030, 1, 1), None, 10**400])
@in_virtual_time
async def test_what_is_no_time_is_refused_at_the_call_and_changes_nothing(bad: Any) -> None:
    world = AlarmWorld(Puppet)

    async def attempt(o: Any) -> str:
        await o.storage.set_alarm(EPOCH_S + 100)
        await o.storage.put("k", 1)
        with pytest.raises((TypeError, ValueError)):
            o.storage.set_alarm(bad)
        async with o.storage.transaction() as txn:
            with pytest.raises((TypeError, ValueError)):
                txn.set_alarm(bad)
        return str((await o.storage.get_alarm()).timestamp() - EPOCH_S)

    assert await do(world, attempt) == "100.0"
    assert world.durable_alarm_s("a", "Puppet") == 100
    assert world.durable(Puppet, "a") == {"k": 1}


@in_virtual_time
async def test_a_class_without_a_handler_cannot_set_alarms_and_its_other_writes_stay() -> None:
    world = AlarmWorld(Silent)
    with pytest.raises(MethodRaised, match="async def alarm") as raised:
        await world.ask(Silent, "a", "set")
    assert raised.value.type == "TypeError"
    assert world.durable(Silent, "a") == {"written": 1}


@pytest.mark.parametrize("at_s", [-1, -6 * 10**8, 0])
@in_virtual_time
async def test_a_past_time_means_now(at_s: float) -> None:
    world = AlarmWorld()
    await world.until(5)
    world.rehearsal.start = sleep_a_little
    call = world.bell("set", at_s, name="slow")
    then = world.bell("pending", name="slow")
    assert 5 <= await then.reply < 5.2
    await call.reply
    world.rehearsal.start = None
    await world.ring_up("set", at_s)
    await world.until(5.1)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(at_s, 0)] * 2
    assert await world.ring_up("pending") is None


@in_virtual_time
async def test_a_later_alarm_replaces_an_earlier_one_and_the_other_way_round() -> None:
    world = AlarmWorld()
    for at_s in (100, 50, 200, 30, 60):
        await world.ring_up("set", at_s)
        assert await world.ring_up("pending") == at_s
    assert world.index_rows() == {"a": [60]}
    await world.until(1_000)
    assert [run.scheduled_s for run in world.rehearsal.runs] == [60]


@pytest.mark.parametrize("method", ["delete", "delete_all"])
@in_virtual_time
async def test_a_deleted_alarm_does_not_ring(method: str) -> None:
    world = AlarmWorld()
    await world.ring_up("put_and_set", 1, 10)
    await world.ring_up(method)
    assert await world.ring_up("pending") is None
    assert world.index_rows() == {}
    world.crash()
    await world.until(100)
    assert world.rehearsal.runs == []
    assert await world.ring_up("get", "value") == (1 if method == "delete" else None)


@in_virtual_time
async def test_an_alarm_set_after_delete_all_in_the_same_turn_stands() -> None:
    world = AlarmWorld(Puppet)

    async def both(o: Any) -> None:
        o.storage.delete_all()
        o.storage.set_alarm(EPOCH_S + 20)

    await do(world, lambda o: o.storage.set_alarm(EPOCH_S + 10))
    await do(world, both)
    assert world.durable_alarm_s("a", "Puppet") == 20
    assert world.index_rows() == {"a": [20]}


@in_virtual_time
async def test_an_alarm_that_comes_and_goes_between_two_commits_leaves_nothing() -> None:
    world = AlarmWorld(auto=False)
    calls = [world.bell("set", 10), world.bell("delete")]
    await world.settle()
    world.commit()
    await world.ask_all(calls)
    assert world.index_rows() == {}
    calls = [world.bell("set", 10), world.bell("delete_all")]
    await world.settle()
    world.commit()
    await world.ask_all(calls)
    assert world.index_rows() == {}
    world.auto = True
    await world.until(20)
    assert world.rehearsal.runs == []


# Commits


@in_virtual_time
async def test_an_alarm_and_the_writes_around_it_are_one_commit() -> None:
    world = AlarmWorld()
    await world.ring_up("put_and_set", 1, 10)
    assert world.commits == 1
    assert (world.durable(Bell, "a"), world.durable_alarm_s()) == ({"value": 1}, 10)
    world.auto = False
    world.bell("put_and_set", 2, 20)
    await world.settle()
    world.cut()
    world.crash(in_flight_is_durable=False)
    assert (world.durable(Bell, "a"), world.durable_alarm_s(), world.index_rows()) == ({"value": 1}, 10, {"a": [10]})
    world.bell("put_and_set", 3, 30)
    await world.settle()
    world.cut()
    world.crash(in_flight_is_durable=True)
    assert (world.durable(Bell, "a"), world.durable_alarm_s(), world.index_rows()) == ({"value": 3}, 30, {"a": [30]})


@pytest.mark.parametrize("change", ["set", "delete", "delete_all"])
@pytest.mark.parametrize("unconfirmed", [False, True])
@in_virtual_time
async def test_where_the_commit_of_a_change_fails_the_old_alarm_stands_and_rings(change: str, unconfirmed: bool) -> None:
    world = AlarmWorld()
    await world.ring_up("set", 10)
    world.failing = True
    call = world.bell(change, *([20, unconfirmed] if change == "set" else []))
    await world.settle()
    world.failing = False
    assert call.answered
    if not (unconfirmed and change == "set"):
        assert isinstance(call.error, ObjectReset)
    assert await world.ring_up("pending") == 10
    await world.until(30)
    assert world.rehearsal.times() == [10]


@in_virtual_time
async def test_where_an_unconfirmed_change_is_lost_after_the_old_alarm_was_due_the_old_one_rings() -> None:
    """Its ring found the alarm moved. That must not have been the end of it."""
    world = AlarmWorld(auto=False)
    call = world.bell("set", 10)
    await world.settle()
    world.commit()
    await call.reply
    call = world.bell("set", 1_000, True)
    await world.settle()
    world.cut()
    assert call.result is None
    await world.until(11)
    world.fail_commit()
    world.auto = True
    await world.until(20)
    assert len(world.rehearsal.runs) == 1
    assert world.index_rows() == {}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("how", ["commit", "rollback", "raise"])
@in_virtual_time
async def test_an_alarm_set_in_a_transaction_ends_as_the_transaction_does(nested: bool, how: str) -> None:
    world = AlarmWorld(Puppet)

    async def change(o: Any) -> None:
        async with o.storage.transaction() as txn:
            txn.set_alarm(EPOCH_S + 20)
            txn.put("k", 2)
            assert (await txn.get_alarm()).timestamp() == EPOCH_S + 20
            if how == "rollback":
                txn.rollback()
            elif how == "raise":
                raise KeyError

    async def program(o: Any) -> None:
        await o.storage.set_alarm(EPOCH_S + 10)
        await o.storage.put("k", 1)
        try:
            if nested:
                async with o.storage.transaction():
                    o.storage.set_alarm(EPOCH_S + 15)
                    try:
                        await change(o)
                    finally:
                        assert (await o.storage.get_alarm()).timestamp() == EPOCH_S + (20 if how == "commit" else 15)
            else:
                await change(o)
        except KeyError:
            pass

    await do(world, program)
    kept = 10 if not nested or how == "raise" else 15
    assert world.durable_alarm_s("a", "Puppet") == (20 if how == "commit" else kept)
    assert world.durable(Puppet, "a") == {"k": 2 if how == "commit" else 1}


@pytest.mark.parametrize("deleted", ["delete_alarm", "delete_all"])
@in_virtual_time
async def test_deleting_in_a_transaction_that_is_rolled_back_keeps_the_alarm(deleted: str) -> None:
    world = AlarmWorld(Puppet)

    async def program(o: Any) -> None:
        await o.storage.set_alarm(EPOCH_S + 10)
        async with o.storage.transaction() as txn:
            getattr(txn, deleted)()
            assert await txn.get_alarm() is None
            txn.rollback()

    await do(world, program)
    assert world.durable_alarm_s("a", "Puppet") == 10


@in_virtual_time
async def test_a_confirmed_set_alarm_holds_the_reply_and_an_unconfirmed_one_does_not() -> None:
    world = AlarmWorld(auto=False)
    unconfirmed = world.bell("set", 10, True)
    await world.settle()
    assert unconfirmed.answered
    calls = [world.bell("set", 10), world.bell("set", 20, name="b"), world.bell("delete", name="b")]
    await world.settle()
    assert [call.answered for call in calls] == [False] * 3, "the first confirms what was set before"
    world.commit()
    await world.settle()
    assert [call.answered for call in calls] == [True] * 3
    assert world.durable_alarm_s("a") == 10


@in_virtual_time
async def test_setting_the_same_alarm_again_commits_nothing() -> None:
    world = AlarmWorld()
    await world.ring_up("set", 10)
    commits = world.commits
    await world.ring_up("set", 10)
    await world.ring_up("delete", name="never")
    assert world.commits == commits


@in_virtual_time
async def test_alarms_of_many_objects_with_long_names_fit_in_the_commits_they_are_counted_for() -> None:
    world = AlarmWorld(auto=False)
    calls = [world.bell("set", 10, name=f"{number:04d}" + "n" * 1_000) for number in range(500)]
    await world.settle()
    counted = world.host.output_gate.open_bytes
    world.commit()
    await world.ask_all(calls)
    assert world.largest_commit_bytes <= counted
