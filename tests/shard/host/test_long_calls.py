"""Calls that run for very long without an answer are named, with what they wait for."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.host_world import World
from tests.support.objects import CONTROL, control, until
from tidegate import DurableObject
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import LONG_CALL_FACTOR, LONG_CALL_S
from tidegate.shard.host.named import NAMED_MAX
from tidegate.shard.host.settings import LongCall


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()


class Forgetful(DurableObject):
    async def hang(self) -> None:
        await self.forget()

    async def forget(self) -> None:
        await asyncio.shield(CONTROL["never"])

    async def wait(self) -> None:
        await until("open")

    async def ask(self, name: str) -> None:
        await self.stub(Forgetful, name).wait()

    async def work(self) -> None:
        self.spawn(until("open"))


class LongWorld(World):
    """In which time passes when the test says so."""

    def __init__(self, *, slow_call_s: float = 1.0) -> None:
        super().__init__(Forgetful, slow_call_s=slow_call_s, idle_evict_s=1.0)
        self.now_s = self.loop.time()

    def later(self, seconds: float) -> list[LongCall]:
        """After a look at everybody, what is named."""
        assert self.now_s is not None
        self.now_s += seconds
        for _ in range(2):
            self.host.table.evict_idle(self.now_s)
        return self.host.statistics().long_calls


async def at_last(world: World) -> None:
    """What never comes has come."""
    CONTROL["never"].set_result(None)
    await world.settle()


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (f"{record.tidegate.object} {record.tidegate.method}", record.getMessage())  # type: ignore[attr-defined]  # that of every record
        for record in caplog.records
        if "without an answer" in record.getMessage()
    ]


async def test_a_call_that_awaits_what_never_comes_is_named_with_where_once_and_again_when_it_has_doubled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    control("never")
    world = LongWorld()
    world.call(Forgetful, "a", "hang")
    await world.settle()
    assert world.later(LONG_CALL_S - 1) == []
    (row,) = world.later(2)
    assert (row.object, row.method, row.calls) == ("Forgetful/a", "hang", 1)
    assert row.waits_for.startswith("test_long_calls.py:")
    assert row.waits_for.endswith(" in forget")
    assert lines(caplog) == [("Forgetful/a hang", f"has run for 61 s without an answer: it waits for {row.waits_for}")]
    for _ in range(5):
        assert len(world.later(10)) == 1
    assert len(lines(caplog)) == 1
    world.later(100)
    told = [each["what"].split(" without")[0] for each in world.host.log.newest(ObjectId("Forgetful", "a"))]
    assert told == ["has run for 211 s", "has run for 61 s"]
    await at_last(world)


async def test_who_waits_for_another_object_is_named_too_and_when_they_are_answered_nobody_is() -> None:
    open_, world = control("open"), LongWorld()
    world.call(Forgetful, "a", "ask", "b")
    world.call(Forgetful, "a", "ask", "b")
    await world.settle()
    rows = {row.object: row for row in world.later(LONG_CALL_S + 1)}
    assert rows.keys() == {"Forgetful/a", "Forgetful/b"}
    assert rows["Forgetful/a"].calls == 2
    assert rows["Forgetful/a"].waits_for.endswith(" in ask")
    open_.set_result(None)
    await world.settle()
    assert world.later(0) == []


async def test_what_an_object_does_beside_its_calls_is_none() -> None:
    control("open")
    world = LongWorld()
    await world.ask(Forgetful, "a", "work")
    assert world.later(1_000) == []


async def test_where_slow_means_long_it_takes_longer() -> None:
    control("never")
    world = LongWorld(slow_call_s=100.0)
    world.call(Forgetful, "a", "hang")
    await world.settle()
    assert world.later(LONG_CALL_FACTOR * 100.0 - 1) == []
    assert len(world.later(2)) == 1
    await at_last(world)


async def test_of_very_many_objects_some_are_named_and_others_when_those_are_done(caplog: pytest.LogCaptureFixture) -> None:
    open_, world, _ = control("open"), LongWorld(), control("never")
    for index in range(NAMED_MAX):
        world.call(Forgetful, f"first {index}", "wait")
    await world.settle()
    world.later(1)
    world.call(Forgetful, "last", "hang")
    await world.settle()
    assert "Forgetful/last" not in {row.object for row in world.later(LONG_CALL_S + 1)}
    assert len(lines(caplog)) == 1, "one line of each kind a second"
    open_.set_result(None)
    await world.settle()
    world.host.statistics()
    assert {row.object for row in world.later(1)} == {"Forgetful/last"}
    await at_last(world)
