"""Calls that took long are named once, with where their time went."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.support.host_world import World
from tidegate import DurableObject
from tidegate.runtime.limits import SLOW_CALLS_NOTED_MAX

BOUND_S = 0.04


class Slow(DurableObject):
    async def quick(self) -> int:
        return 1

    async def waits(self) -> None:
        await asyncio.sleep(0.06)

    async def in_section(self) -> None:
        async with self.block_concurrency():
            await asyncio.sleep(0.06)

    async def writes(self) -> None:
        await self.storage.put("key", 1)

    async def waits_and_writes(self) -> None:
        await asyncio.sleep(0.06)
        await self.storage.put("key", 2)

    async def counts(self) -> int:
        return sum(range(5_000_000))


def told(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, float]]:
    """By method, the parts in seconds."""
    found = {}
    for record in caplog.records:
        if " took " in f" {record.getMessage()}":
            parts = re.findall(r"(took|queue|gate|run|commit) ([\d.]+) s", record.getMessage())
            found[f"{record.tidegate.object} {record.tidegate.method}"] = {name: float(part) for name, part in parts}  # type: ignore[attr-defined]  # that of every record
    return found


@pytest.fixture(autouse=True)
def says_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


async def test_what_a_call_awaited_is_the_time_of_its_run(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Slow, slow_call_s=BOUND_S)
    await world.ask(Slow, "a", "quick")
    await world.ask(Slow, "a", "waits")
    (parts,) = told(caplog).values()
    assert list(told(caplog)) == ["Slow/a waits"]
    assert parts["run"] == pytest.approx(parts["took"], abs=0.02)
    assert parts["took"] >= BOUND_S
    assert parts["gate"] == parts["commit"] == 0


async def test_the_time_at_a_gate_is_told_of_the_call_that_waited_there(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Slow, slow_call_s=BOUND_S)
    await world.ask(Slow, "a", "quick")
    first, second = world.call(Slow, "a", "in_section"), world.call(Slow, "a", "quick")
    await first.reply
    await second.reply
    parts = told(caplog)["Slow/a quick"]
    assert parts["gate"] >= BOUND_S
    assert parts["gate"] == pytest.approx(parts["took"], abs=0.02)
    assert parts["run"] < 0.02
    assert not world.host.slow._gates


@pytest.mark.parametrize("method", ["writes", "waits_and_writes"])
async def test_the_time_until_its_writes_are_durable_is_that_of_the_commit(caplog: pytest.LogCaptureFixture, method: str) -> None:
    world = World(Slow, slow_call_s=BOUND_S, auto=False)
    call = world.call(Slow, "a", method)
    await asyncio.sleep(0.1)
    world.cut()
    await asyncio.sleep(0.06)
    world.committed()
    await call.reply
    ((speaker, parts),) = told(caplog).items()
    assert speaker in ("Slow/a ", f"Slow/a {method}")  # What has run for a part of the bound only is known by its method.
    assert method == "writes" or speaker == "Slow/a waits_and_writes"
    assert parts["commit"] >= BOUND_S
    assert parts["queue"] + parts["gate"] + parts["run"] + parts["commit"] == pytest.approx(parts["took"], abs=0.005)
    assert not world.host.slow._ended


async def test_a_call_that_computes_for_long_is_told_with_its_class(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Slow, slow_call_s=0.005)
    await world.ask(Slow, "a", "quick")
    caplog.clear()
    await world.ask(Slow, "a", "counts")
    assert told(caplog)["Slow "]["run"] >= 0.005


async def test_many_slow_calls_of_a_method_are_one_line_and_a_count(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.shard.host.object_log.LOGGED_KINDS_S", 1_000.0)
    world = World(Slow, slow_call_s=BOUND_S)
    await asyncio.gather(*(world.ask(Slow, f"o{n}", "waits") for n in range(50)))
    assert len([name for name in told(caplog) if name.endswith(" waits")]) == 1
    windows = {code: window.silent for (_, _, code, *_), window in world.host.log._open.items()}
    assert windows["waits"] == 49


async def test_what_is_known_of_calls_that_never_end_is_bounded() -> None:
    world = World(Slow, slow_call_s=BOUND_S)
    activation = world.host.slow
    for n in range(SLOW_CALLS_NOTED_MAX + 10):
        activation.let_in(("Slow", "a"), n, 1.0)  # type: ignore[arg-type]  # an ObjectId is such a tuple
    assert len(activation._gates) == SLOW_CALLS_NOTED_MAX
