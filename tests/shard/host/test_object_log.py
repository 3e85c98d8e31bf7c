"""What the operator reads of object code that fails: little, and all that is needed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.support.host_world import World
from tidegate import DurableObject
from tidegate.runtime.errors import CallError
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.logs.line import Speaker
from tidegate.shard.host.object_log import KEPT_LINES, KEPT_OBJECTS


class SoldOut(Exception):
    pass


class Shop(DurableObject):
    async def buy(self, what: str) -> None:
        raise SoldOut(f"no {what} left")

    async def sell(self, early: bool = False) -> None:
        if early:
            raise ValueError("not open yet")
        raise ValueError("closed")

    async def burn(self) -> None:
        self.abort("on fire")


async def fail(world: World, name: str, method: str, *args: Any) -> None:
    with pytest.raises(CallError):
        await world.ask(Shop, name, method, *args)


def told(record: logging.LogRecord) -> str:
    speaker: Speaker = record.tidegate  # type: ignore[attr-defined]  # that of every record
    return f"{speaker.object} {speaker.method}: {record.getMessage()}"


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two lines of one kind there is more time than a test takes."""
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_S", 1_000.0)


@pytest.mark.usefixtures("lasting")
async def test_a_raising_method_logs_a_line_with_object_and_method_and_its_traceback_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(Shop)
    for n in range(350):
        await fail(world, f"s{n}", "buy", "tea")
    (record,) = caplog.records
    assert told(record) == "Shop/s0 buy: raised: SoldOut: no tea left"
    assert record.exc_text is not None
    assert record.exc_text.startswith("Traceback (most recent call last):\n")
    assert "/shard/host/" not in record.exc_text.replace(__file__, "")
    assert world.host.log.failures == 350
    close_windows(world)
    assert told(caplog.records[1]) == "Shop/s349 buy: raised: SoldOut: no tea left (349 of this kind since the last line)"
    close_windows(world, 3_000)
    await fail(world, "late", "buy", "milk")
    assert [told(record) for record in caplog.records[2:]] == ["Shop/late buy: raised: SoldOut: no milk left"]
    assert caplog.records[2].exc_text is None, "the traceback is known"


def close_windows(world: World, later_s: float = 1_000.0) -> None:
    log = world.host.log
    for window in log._open.values():
        window.until_s -= later_s
    log._close_windows()


async def test_kinds_of_failures_are_told_apart_by_class_method_exception_and_line(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Shop)
    await fail(world, "a", "buy", "tea")
    await fail(world, "a", "sell")
    await fail(world, "a", "sell", True)
    await fail(world, "b", "sell", True)
    assert [told(record) for record in caplog.records] == [
        "Shop/a buy: raised: SoldOut: no tea left", "Shop/a sell: raised: ValueError: closed",
        "Shop/a sell: raised: ValueError: not open yet",
    ]  # fmt: skip
    assert all(record.exc_text for record in caplog.records)


@pytest.mark.usefixtures("lasting")
async def test_a_kind_that_does_not_stop_is_told_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_S_MAX", 4_000.0)
    world = World(Shop)
    widths = []
    for _ in range(4):
        await fail(world, "a", "sell")
        await fail(world, "a", "sell")
        widths += [window.width_s for window in world.host.log._open.values()]
        close_windows(world, 4_000)
    assert widths == [1_000, 2_000, 4_000, 4_000]


@pytest.mark.usefixtures("lasting")
async def test_very_many_kinds_write_no_more_lines_than_the_bound(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_MAX", 10)
    world = World(Shop)
    for n in range(50):
        world.host.log.failed(ObjectId("Shop", "a"), "raised", type(f"E{n}", (Exception,), {})("x"))
    assert len(caplog.records) == 11


async def test_nothing_runs_when_nothing_fails_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_S", 0.01)
    world = World(Shop)
    await fail(world, "a", "sell")
    await fail(world, "a", "sell")
    await asyncio.sleep(0.06)
    assert world.host.log._timer is None
    assert world.host.log._open == {}


@pytest.mark.usefixtures("lasting")
async def test_objects_that_are_reset_again_and_again_write_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Shop)
    for n in range(100):
        await fail(world, f"s{n}", "burn")
    assert caplog.messages == ["Shop/s0 was reset: on fire"]
    close_windows(world)
    assert caplog.messages[1:] == ["Shop/s99 was reset: on fire (99 of this kind since the last line)"]


async def test_slow_calls_push_out_no_errors_neither_of_an_object_nor_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    world, now_ms = World(Shop), 1_000
    monkeypatch.setattr("tidegate.shard.host.object_log.time.time_ns", lambda: now_ms * 1_000_000)
    shop = ObjectId("Shop", "a")
    await fail(world, "a", "sell")
    for _ in range(2 * KEPT_LINES):
        now_ms += 1
        world.host.log.was_slow(shop, "sell", None, f"slow at {now_ms}")
    now_ms += 1
    await fail(world, "a", "buy", "tea")
    newest = world.host.log.newest(shop)
    assert [each["kind"] for each in newest] == ["error", *["slow"] * KEPT_LINES, "error"]
    assert [each["time_ms"] for each in newest] == sorted((each["time_ms"] for each in newest), reverse=True)
    for number in range(KEPT_OBJECTS + 1):
        world.host.log.was_slow(ObjectId("Shop", f"slow-{number}"), "sell", None, "slow")
    assert [(each["name"], each["code"]) for each in world.host.log.newest_errors(10)] == [("a", "buy"), ("a", "sell")]
    assert world.host.log.newest(ObjectId("Shop", "slow-0")) == []
