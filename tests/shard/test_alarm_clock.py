"""Alarms of objects, from `set_alarm` to the durable end of the handler, in virtual time."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import logging
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from runtime.errors import MethodRaised, ObjectReset
from shard import alarm_clock, alarms
from shard.alarms import RETRIES_MAX, AlarmInfo
from shard.object import DurableObject
from tests.shard.alarm_world import EPOCH_S, AlarmWorld, Bell, Run, in_virtual_time

Log = pytest.LogCaptureFixture


class Silent(DurableObject):
    """No handler."""

    async def set(self) -> None:
        await self.storage.put("written", 1)
        await self.storage.set_alarm(1)


class Any_(DurableObject):  # noqa: N801  # only its method matters
    """Does what it is told, with its storage."""

    async def alarm(self, info: AlarmInfo) -> None: ...

    async def do(self, number: int) -> Any:
        return await ACTIONS[number](self)


ACTIONS: list[Callable[[Any], Any]] = []


async def do(world: AlarmWorld, action: Callable[[Any], Any], name: str = "a") -> Any:
    ACTIONS.append(action)
    return await world.ask(Any_, name, "do", len(ACTIONS) - 1)


def failing(error: BaseException) -> Callable[[Bell, AlarmInfo], Any]:
    async def play(bell: Bell, info: AlarmInfo) -> None:
        raise error

    return play


def retry_bounds(first_at: float, runs: int) -> list[tuple[float, float]]:
    """Between which times the runs of a handler that always raises at once must be."""
    bounds = [(first_at, first_at)]
    for n in range(runs - 1):
        low, high = bounds[-1]
        bounds.append((low + 2 * 2**n, high + 2 * 2**n * 1.25))
    return bounds


def assert_within(times: list[float], bounds: list[tuple[float, float]]) -> None:
    assert len(times) == len(bounds), times
    for at, (low, high) in zip(times, bounds, strict=True):
        assert low - 0.01 <= at <= high + 0.01 * len(times), (times, bounds)


# Setting


@in_virtual_time
async def test_what_was_set_is_what_get_alarm_tells() -> None:
    world = AlarmWorld(Any_)
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


async def as_text(values: Any) -> list[str]:
    return [str(value) for value in await values]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), True, "soon", datetime.datetime(2030, 1, 1), None, 10**400])
@in_virtual_time
async def test_what_is_no_time_is_refused_at_the_call_and_changes_nothing(bad: Any) -> None:
    world = AlarmWorld(Any_)

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
    assert world.durable_alarm_s("a", "Any_") == 100
    assert world.durable(Any_, "a") == {"k": 1}


@in_virtual_time
async def test_a_class_without_a_handler_cannot_set_alarms_and_its_other_writes_stay() -> None:
    world = AlarmWorld(Silent)
    with pytest.raises(MethodRaised, match="async def alarm") as raised:
        await world.ask(Silent, "a", "set")
    assert raised.value.type == "TypeError"
    assert world.durable(Silent, "a") == {"written": 1}


@pytest.mark.parametrize("at_s", [-1, -10**9, 0])
@in_virtual_time
async def test_a_past_time_means_now(at_s: float) -> None:
    world = AlarmWorld()
    await world.until(5)
    await world.ring_up("set", at_s)
    await world.until(5.1)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(at_s, 0)]
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
    world = AlarmWorld(Any_)

    async def both(o: Any) -> None:
        o.storage.delete_all()
        o.storage.set_alarm(EPOCH_S + 20)

    await do(world, lambda o: o.storage.set_alarm(EPOCH_S + 10))
    await do(world, both)
    assert world.durable_alarm_s("a", "Any_") == 20
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
    world = AlarmWorld(Any_)

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
    assert world.durable_alarm_s("a", "Any_") == (20 if how == "commit" else kept)
    assert world.durable(Any_, "a") == {"k": 2 if how == "commit" else 1}


@pytest.mark.parametrize("deleted", ["delete_alarm", "delete_all"])
@in_virtual_time
async def test_deleting_in_a_transaction_that_is_rolled_back_keeps_the_alarm(deleted: str) -> None:
    world = AlarmWorld(Any_)

    async def program(o: Any) -> None:
        await o.storage.set_alarm(EPOCH_S + 10)
        async with o.storage.transaction() as txn:
            getattr(txn, deleted)()
            assert await txn.get_alarm() is None
            txn.rollback()

    await do(world, program)
    assert world.durable_alarm_s("a", "Any_") == 10


@in_virtual_time
async def test_a_confirmed_set_alarm_holds_the_reply_and_an_unconfirmed_one_does_not() -> None:
    world = AlarmWorld(auto=False)
    unconfirmed = world.bell("set", 10, True)
    await world.settle()
    assert unconfirmed.answered
    same_again = world.bell("set", 10)
    await world.settle()
    assert not same_again.answered, "it confirms what was set before"
    other = world.bell("set", 20, name="b")
    deleted = world.bell("delete", name="b")
    await world.settle()
    assert not other.answered
    assert not deleted.answered
    world.commit()
    await world.settle()
    assert same_again.answered
    assert other.answered
    assert deleted.answered
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
    counted = world.host.commits.open_bytes
    world.commit()
    await world.ask_all(calls)
    assert world.largest_commit_bytes <= counted


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
    assert len(world.rehearsal.runs) == 1
    world.crash()
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
    await world.ring_up("set", 10)
    world.failing = True
    await world.until(600)
    failed = len(world.rehearsal.runs)
    assert failed > RETRIES_MAX + 3
    for n, (at, after) in enumerate(itertools.pairwise(world.rehearsal.times())):
        assert 2 * 2 ** min(n, 5) - 0.01 <= after - at <= 2.5 * 2 ** min(n, 5) + 0.1, (n, at, after)
    world.failing = False
    await world.until(700)
    assert len(world.rehearsal.runs) == failed + 1
    assert {run.retry_count for run in world.rehearsal.runs} == {0}
    assert world.index_rows() == {}
    assert world.host.statistics().alarms_abandoned == 0


# Handlers that raise


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError("no"), SystemExit(3)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("suspends", [False, True])
@in_virtual_time
async def test_a_handler_that_raises_is_retried_six_times_and_then_its_alarm_is_abandoned(
    error: BaseException, suspends: bool, caplog: Log
) -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        await bell.put("runs", len(world.rehearsal.runs))
        if suspends:
            await asyncio.sleep(0)
        raise error

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(11)
    assert 12 <= await world.ring_up("pending") <= 12.6, "the retry"
    await world.until(1_000)
    assert_within(world.rehearsal.times(), retry_bounds(10, 7))
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, n) for n in range(7)]
    assert await world.ring_up("get", "runs") == 7, "what it wrote before it raised stays"
    assert await world.ring_up("pending") is None
    assert world.index_rows() == {}
    assert_abandoned(world, caplog, type(error).__name__)


def assert_abandoned(world: AlarmWorld, caplog: Log, reason: str) -> None:
    """Durably recorded, counted, logged."""
    shown = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(shown) == 1, shown
    assert "Bell/a" in shown[0]
    assert reason in shown[0]
    for _ in range(2):
        assert world.host.statistics().alarms_abandoned == 1
        [record] = [each for store in world.stores.values() for each in alarms.abandoned_alarms(store, 10)]
        assert (record.class_name, record.name) == ("Bell", "a")
        assert reason in record.error
        world.crash()
    told = [record.getMessage() for record in caplog.records if "1 objects have an alarm" in record.getMessage()]
    assert len(told) == 2
    assert reason in told[0]


@in_virtual_time
async def test_an_abandoned_alarm_is_counted_when_that_is_durable_and_an_object_can_go_on() -> None:
    world = AlarmWorld()
    world.rehearsal.play = failing(ValueError())
    await world.ring_up("set", 10)
    await world.until(100)
    assert len(world.rehearsal.runs) == 6
    world.auto = False
    await world.until(200)
    assert len(world.rehearsal.runs) == 7
    assert world.host.statistics().alarms_abandoned == 0
    world.fail_commit()
    world.auto = True
    await world.until(300)
    assert [run.retry_count for run in world.rehearsal.runs] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert world.host.statistics().alarms_abandoned == 1
    world.rehearsal.play = None
    await world.ring_up("set", 400)
    await world.until(500)
    assert world.rehearsal.runs[-1] == Run("a", world.rehearsal.runs[-1].at_s, 400, 0)
    assert world.index_rows() == {}


@pytest.mark.parametrize("text", ["\ud800", "x" * 10**6, None])
@in_virtual_time
async def test_whatever_an_exception_says_it_is_recorded(text: str | None) -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            if text is None:
                raise KeyError
            return text

    world = AlarmWorld()
    world.rehearsal.play = failing(OddError())
    await world.ring_up("set", 10)
    await world.until(1_000)
    [record] = [each for store in world.stores.values() for each in alarms.abandoned_alarms(store, 10)]
    assert "OddError" in record.error
    assert len(record.error) <= alarms.ERROR_CHARACTERS_MAX


@in_virtual_time
async def test_success_after_failures_ends_the_retries() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if info.retry_count < 3:
            raise ValueError

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(1_000)
    assert [run.retry_count for run in world.rehearsal.runs] == [0, 1, 2, 3]
    assert world.index_rows() == {}


@pytest.mark.parametrize("in_transaction", [False, True])
@in_virtual_time
async def test_an_alarm_that_the_failing_handler_sets_replaces_the_retry(in_transaction: bool) -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if len(world.rehearsal.runs) == 1:
            if in_transaction:
                async with bell.storage.transaction() as txn:
                    await txn.set_alarm(EPOCH_S + 100)
            else:
                await bell.set(100)
            raise ValueError

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(1_000)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, 0), (100, 0)]


@in_virtual_time
async def test_an_alarm_set_in_a_transaction_that_the_handler_leaves_by_raising_does_not() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        if len(world.rehearsal.runs) == 1:
            async with bell.storage.transaction() as txn:
                await txn.set_alarm(EPOCH_S + 100)
                raise ValueError

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(1_000)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, 0), (10, 1)]


@pytest.mark.parametrize("method", ["delete", "delete_all"])
@in_virtual_time
async def test_a_handler_that_deletes_its_alarm_and_then_raises_is_not_retried(method: str) -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        await getattr(bell, method)()
        raise ValueError

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(1_000)
    assert world.rehearsal.times() == [10]
    assert world.index_rows() == {}


@in_virtual_time
async def test_an_alarm_set_by_a_call_replaces_the_pending_retry() -> None:
    world = AlarmWorld()
    world.rehearsal.play = failing(ValueError())
    await world.ring_up("set", 10)
    await world.until(11)
    world.rehearsal.play = None
    await world.ring_up("set", 11.5)
    await world.until(1_000)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, 0), (11.5, 0)]


# Whose fault


async def abort(bell: Bell, info: AlarmInfo) -> None:
    await bell.put("lost", 1)
    bell.abort("because")


async def abort_later(bell: Bell, info: AlarmInfo) -> None:
    await asyncio.sleep(0.001)
    bell.abort("because")


async def break_section(bell: Bell, info: AlarmInfo) -> None:
    async with bell.block_concurrency():
        raise ValueError("because")


async def overstay_section(bell: Bell, info: AlarmInfo) -> None:
    async with bell.block_concurrency():
        await asyncio.sleep(1_000)


@pytest.mark.parametrize("play", [abort, abort_later, break_section, overstay_section])
@in_virtual_time
async def test_a_handler_whose_code_resets_the_object_has_failed_and_that_counts(play: Any, caplog: Log) -> None:
    world = AlarmWorld()
    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(1_000)
    assert [run.retry_count for run in world.rehearsal.runs] == list(range(7))
    if play is not overstay_section:
        assert_within(world.rehearsal.times(), retry_bounds(10, 7))
    assert await world.ring_up("get", "lost") is None
    assert_abandoned(world, caplog, "30 s" if play is overstay_section else "because")


@in_virtual_time
async def test_a_failure_that_cannot_be_recorded_at_once_is_recorded_later() -> None:
    world = AlarmWorld()
    world.rehearsal.play = abort
    await world.ring_up("set", 10)
    world.failing = True
    await world.until(30)
    assert len(world.rehearsal.runs) == 1
    world.rehearsal.play = None
    world.failing = False
    await world.until(100)
    assert [run.retry_count for run in world.rehearsal.runs] == [0, 1]


@in_virtual_time
async def test_an_object_that_cannot_be_started_is_tried_for_ever_because_its_handler_has_not_run(caplog: Log) -> None:
    world = AlarmWorld()
    await world.ring_up("set", 10)
    world.crash()
    attempts = []

    async def start(bell: Bell) -> None:
        attempts.append(world.now_after_s)
        raise OSError("the database is away")

    world.rehearsal.start = start
    await world.until(3_600)
    assert 40 < len(attempts) < 70, "2, 4, 8, ... 64, 64 s"
    assert world.rehearsal.runs == []
    assert any("the database is away" in record.getMessage() for record in caplog.records if "Bell/a" in record.getMessage())
    world.rehearsal.start = None
    await world.until(3_700)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, 0)]


@in_virtual_time
async def test_a_full_queue_delays_an_alarm_and_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AlarmWorld()
    await world.ring_up("set", 10)
    await world.until(9)
    busy = world.bell("be_busy", 5)
    waiting = [world.bell("get", "k") for _ in range(1_000)]
    await world.until(11)
    assert world.rehearsal.runs == []
    await world.ask_all([busy, *waiting])
    await world.until(30)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(10, 0)]


@in_virtual_time
async def test_a_reset_by_another_object_whose_writes_are_lost_does_not_count() -> None:
    """The handler has called an object whose write then fails: the handler's object is reset with it."""

    class Other(DurableObject):
        async def write(self) -> None:
            await self.storage.put("k", 1)

    world = AlarmWorld(Bell, Other)

    async def play(bell: Bell, info: AlarmInfo) -> None:
        await bell.stub(Other, "o").write()
        if len(world.rehearsal.runs) < 9:
            world.failing = True
            world.loop.call_later(0.5, setattr, world, "failing", False)

    world.rehearsal.play = play
    await world.ring_up("set", 10)
    await world.until(1_000)
    assert [run.retry_count for run in world.rehearsal.runs] == [0] * 9


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
    turns = world.loop.virtual.turns  # type: ignore[attr-defined]
    await asyncio.sleep(86_400)
    assert world.loop.virtual.turns - turns < 86_400 / (alarm_clock.TIMER_MS_MAX / 1_000) + 10  # type: ignore[attr-defined]
    assert sum(len(shard._heap) for shard in world.host.alarms._shards.values()) <= 4 * 2 * alarms.WINDOW_ROWS
    assert world.host.statistics().alarm_due_ms == (EPOCH_S + 10**6) * 1_000
    assert world.rehearsal.runs == []


@in_virtual_time
async def test_without_alarms_there_is_no_timer() -> None:
    world = AlarmWorld()
    turns = world.loop.virtual.turns  # type: ignore[attr-defined]
    await asyncio.sleep(86_400)
    assert world.loop.virtual.turns - turns < 5  # type: ignore[attr-defined]
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
    turns = world.loop.virtual.turns  # type: ignore[attr-defined]
    await asyncio.sleep(86_400)
    assert world.loop.virtual.turns - turns < 10  # type: ignore[attr-defined]
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

