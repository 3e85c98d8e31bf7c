"""Whatever code of an object runs, it is written down while it runs; and an object in quarantine is kept out."""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.support.alarm_world import AlarmWorld, Bell, in_virtual_time
from tests.support.host_world import World
from tidegate import AlarmInfo
from tidegate.runtime.child.witness import Witness, take_testimony
from tidegate.runtime.errors import Unavailable
from tidegate.runtime.wire.supervisor_messages import QuarantinedObject, Running
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.worker.watch import start_watch

SEEN: list[str] = []
PATH: list[Path] = []


def look() -> None:
    """As the supervisor would, if the worker died here."""
    copy = PATH[0].with_suffix(".copy")
    copy.write_bytes(PATH[0].read_bytes())
    found = take_testimony(copy)
    SEEN.append("nobody" if found is None else f"{found.class_name}/{found.name} {found.code}")


class Busy(DurableObject):
    def __init__(self) -> None:
        look()

    async def on_start(self) -> None:
        look()

    async def at_once(self) -> None:
        look()

    async def later(self) -> None:
        await asyncio.sleep(0.001)
        look()

    async def calls_other(self) -> None:
        await self.stub(Busy, "b").at_once()
        look()

    async def spawns(self) -> None:
        await self.spawn(self.tick())

    async def tick(self) -> None:
        look()

    async def sets_timer(self) -> None:
        asyncio.get_running_loop().call_later(0.001, look)
        await asyncio.sleep(0.01)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    SEEN.clear()
    PATH[:] = [tmp_path / "witness"]
    return Witness(PATH[0])


async def test_whose_code_runs_is_known_wherever_it_is_entered(witness: Witness) -> None:
    stop = start_watch(witness)
    try:
        world = World(Busy)
        for method in ("at_once", "later", "calls_other", "spawns", "sets_timer"):
            await world.ask(Busy, "a", method)
        look()
    finally:
        stop()
    a, b = "Busy/a", "Busy/b"
    assert [
        f"{a} __init__", f"{a} on_start", f"{a} at_once", f"{a} later", f"{b} __init__", f"{b} on_start", f"{b} at_once",
        f"{a} calls_other", f"{a} tick", f"{a} look", "nobody",
    ] == SEEN  # fmt: skip


def decorated(method: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(method)
    async def wrapper(*args: Any) -> None:
        await method(*args)

    wrapper.__name__ = "wrapper"
    return wrapper


class Rings(DurableObject):
    async def soon(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(0))

    async def alarm(self, info: AlarmInfo) -> None:
        look()
        await asyncio.sleep(0.001)
        look()

    @decorated
    async def told(self) -> None:
        await asyncio.sleep(0.001)
        look()


async def test_alarm_handlers_and_decorated_methods_have_the_names_that_users_know(witness: Witness) -> None:
    world = World(Rings)
    world.host.alarms.start()
    stop = start_watch(witness)
    try:
        await world.ask(Rings, "a", "told")
        await world.ask(Rings, "a", "soon")
        await asyncio.sleep(0.05)
    finally:
        stop()
    assert SEEN == ["Rings/a told", "Rings/a alarm", "Rings/a alarm"]


async def test_after_the_watch_nothing_is_written_and_nothing_is_replaced(witness: Witness) -> None:
    from tidegate.shard.host.host import Host

    before = Host._run
    stop = start_watch(witness)
    assert Host._run is not before
    stop()
    assert Host._run is before
    world = World(Busy)
    await world.ask(Busy, "a", "at_once")
    assert set(SEEN) == {"nobody"}


@in_virtual_time
async def test_an_object_in_quarantine_is_told_why_and_for_how_long_and_comes_back() -> None:
    world = AlarmWorld(Bell, quarantined=(QuarantinedObject("Bell", "bad", 3, "boom", 8.0),))
    await world.until(2)
    with pytest.raises(Unavailable, match=r"Bell/bad is in quarantine for 6\.0 s: its code .* 3 times.* boom") as raised:
        await world.ring_up("get", "k", name="bad")
    assert raised.value.outcome == "not_executed"
    assert raised.value.retryable
    assert raised.value.details["retry_after_ms"] == 6_000
    assert await world.ring_up("get", "k", name="good") is None
    await world.until(8.1)
    assert await world.ring_up("get", "k", name="bad") is None


@in_virtual_time
async def test_an_alarm_of_an_object_in_quarantine_waits_and_nothing_is_counted() -> None:
    world = AlarmWorld()
    await world.ring_up("set", 1)
    world.host.alarms.stop()
    world.settings = type(world.settings)(
        world.settings.shards_total, quarantined=(QuarantinedObject("Bell", "a", 2, "boom", 8.0),)
    )
    world.crash()
    await world.until(7)
    assert world.rehearsal.runs == []
    await world.until(60)
    assert [(run.scheduled_s, run.retry_count) for run in world.rehearsal.runs] == [(1, 0)]


def test_what_is_told_can_be_read(witness: Witness) -> None:
    witness.enter("A", "b", "c")
    found: Any = take_testimony(PATH[0])
    assert found == Running("A", "b", "c")
