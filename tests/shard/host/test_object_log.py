"""What the operator reads of object code that fails: little, and all that is needed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.host_world import World
from tidegate import DurableObject
from tidegate.runtime.errors import CallError


class SoldOut(Exception):
    pass


class Shop(DurableObject):
    async def buy(self, what: str) -> None:
        raise SoldOut(f"no {what} left")

    async def sell(self) -> None:
        raise ValueError("closed")

    async def burn(self) -> None:
        self.abort("on fire")


async def fail(world: World, name: str, method: str, *args: Any) -> None:
    with pytest.raises(CallError):
        await world.ask(Shop, name, method, *args)


async def test_a_raising_method_logs_a_line_with_object_and_method_and_its_traceback_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_S", 1_000.0)
    world = World(Shop)
    for n in range(350):
        await fail(world, f"s{n}", "buy", "tea")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Shop/s0: buy raised: SoldOut: no tea left\nTraceback (most recent call last):\n")
    world.host.log._close_windows()
    assert caplog.messages[1:] == ["Shop/s349: buy raised: SoldOut: no tea left (349 of this kind since the last line)"]
    world.host.log._close_windows()
    await fail(world, "late", "buy", "milk")
    assert caplog.messages[2:] == ["Shop/late: buy raised: SoldOut: no milk left"], "the traceback is known"


async def test_kinds_of_failures_are_told_apart_by_class_method_and_exception(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Shop)
    await fail(world, "a", "buy", "tea")
    await fail(world, "a", "sell")
    assert [message.partition("\n")[0] for message in caplog.messages] == [
        "Shop/a: buy raised: SoldOut: no tea left", "Shop/a: sell raised: ValueError: closed",
    ]  # fmt: skip


async def test_nothing_runs_when_nothing_fails_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_S", 0.01)
    world = World(Shop)
    await fail(world, "a", "sell")
    await fail(world, "a", "sell")
    await asyncio.sleep(0.06)
    assert world.host.log._timer is None
    assert world.host.log._open == {}


async def test_objects_that_are_reset_again_and_again_write_a_line_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_S", 1_000.0)
    world = World(Shop)
    for n in range(100):
        await fail(world, f"s{n}", "burn")
    assert caplog.messages == ["Shop/s0 was reset: on fire"]
    world.host.log._close_windows()
    assert caplog.messages[1:] == ["Shop/s99 was reset: on fire (99 of this kind since the last line)"]
