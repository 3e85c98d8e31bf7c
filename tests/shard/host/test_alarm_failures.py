"""Alarm handlers that fail: what counts, what is retried and when, and what becomes of an alarm that is given up."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.alarm_world import EPOCH_S, AlarmWorld, Bell, Run, in_virtual_time
from tidegate.runtime.child.control import decode_from_child, encode_line
from tidegate.runtime.cli.pages import render_alarms
from tidegate.runtime.client.answers import ProcessStatus, ServiceStatus
from tidegate.runtime.wire.supervisor_messages import Pong
from tidegate.shard.core import alarms
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.objects.object import DurableObject

Log = pytest.LogCaptureFixture


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
    assert await world.ring_up("pending") == 10, "what was asked for, not the retry"
    assert 12 <= (world.durable_alarm_s() or 0) <= 12.6
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
        assert world.host.statistics().newest_abandoned == [record]
        told = decode_from_child(encode_line(Pong(1, dataclasses.asdict(world.host.statistics()))))
        assert isinstance(told, Pong)
        assert f"Bell/a  {record.scheduled_for:%Y-%m-%dT%H:%M:%SZ}" in render_alarms(
            ServiceStatus(processes=(ProcessStatus(name="worker 0", statistics=told.statistics),))
        )
        world.crash()
    warnings = [record.getMessage() for record in caplog.records if "1 objects have an alarm" in record.getMessage()]
    assert len(warnings) == 2
    assert reason in warnings[0]


@in_virtual_time
async def test_an_abandoned_alarm_is_counted_when_that_is_durable_and_an_object_can_go_on() -> None:
    world = AlarmWorld()
    world.rehearsal.play = failing(ValueError())
    await world.ring_up("set", 10)
    await world.until(100)
    assert len(world.rehearsal.runs) == 6
    world.auto = False
    await world.until(200)
    world.commit()
    await world.settle()
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
    told = [line for line in caplog.text.splitlines() if "the alarm handler failed" in line]
    assert told
    assert all("the alarm handler failed: Bell/a was reset" in line for line in told)
    assert "Traceback" not in caplog.text, "it has raised nothing"


@in_virtual_time
async def test_a_failure_that_cannot_be_recorded_at_once_is_recorded_later() -> None:
    world = AlarmWorld()

    async def play(bell: Bell, info: AlarmInfo) -> None:
        world.failing = True
        await abort(bell, info)

    world.rehearsal.play = play
    await world.ring_up("set", 10)
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
async def test_an_object_that_cannot_be_started_after_its_handler_has_failed_is_not_tried_in_a_circle() -> None:
    world = AlarmWorld()
    starts = []

    async def start(bell: Bell) -> None:
        starts.append(world.now_after_s)
        if 1 < len(starts) < 5:
            raise OSError

    world.rehearsal.start = start
    world.rehearsal.play = abort
    await world.ring_up("set", 10)
    await world.until(10.5)
    assert len(starts) == 2
    world.rehearsal.play = None
    await world.until(1_000)
    assert [run.retry_count for run in world.rehearsal.runs] == [0, 1], "and the failure is counted in the end"
    assert len(starts) == 5


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
