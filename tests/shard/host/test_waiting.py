"""shard/host/waiting.py: calls to objects whose headers are on disk only wait for them, in order, and hold up nobody else. (What
waits for the disk to catch up, and for a reset object: `test_host_bounds`, `test_resets`.)"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.cold_world import Act, Actor, ColdWorld
from tests.support.objects import CONTROL, LOG
from tidegate.runtime.errors import DeadlineExceeded, Internal, MethodRaised, Overloaded
from tidegate.runtime.limits import OBJECT_CALLS_MAX

ROWS = {"a": 1, "b": "two", "c": [3], "d": None, "e": 5.5}


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


async def test_calls_wait_for_the_header_of_their_object_and_are_then_served_in_order() -> None:
    world = ColdWorld()
    await world.fill("x", ROWS)
    await world.fill("y", ROWS)
    world.cool()

    def note(number: int) -> Act:
        async def act(actor: Actor) -> None:
            LOG.append((actor.id.name, number))

        return act

    calls = [world.act(name, note(number)) for number in range(5) for name in ("x", "y")]
    await world.settle()
    assert LOG == []
    assert world.host.unanswered == 10
    assert world.reader.asked == 2, "one header, one read"
    world.reader.release(1)
    await world.ask_all(calls[::2])
    assert [("x", number) for number in range(5)] == LOG
    world.reader.release()
    await world.ask_all(calls)
    assert LOG[5:] == [("y", number) for number in range(5)]


async def test_calls_that_wait_for_a_header_are_not_overtaken_by_later_ones_that_wait_for_what_is_not_durable() -> None:
    world = ColdWorld(auto=False)
    world.cool()

    def note(number: int) -> Act:
        async def act(actor: Actor) -> None:
            LOG.append(number)

        return act

    async def write_much(actor: Actor) -> None:
        for number in range(9):
            actor.storage.put(f"k{number}", b"x" * (2_000_000))

    await world.loaded("y")
    first = world.act("x", note(1))
    writing = world.act("y", write_much)
    await world.settle()
    stalled = world.call(Actor, "y", "ping")
    await world.settle()
    assert world.host.waiting.stalled
    second = world.act("x", note(2))
    await world.settle()
    world.reader.release()
    await world.settle()
    third = world.act("x", note(3))
    world.auto = True
    world.host.turn.end_soon()
    await world.thaw()
    await world.ask_all([first, second, third, writing, stalled])
    assert LOG == [1, 2, 3]


async def test_an_object_that_has_never_written_is_found_to_be_new() -> None:
    world = ColdWorld()
    world.cool()

    async def first(actor: Actor) -> Any:
        return await actor.storage.get("a", "nothing"), await actor.storage.list()

    call = world.act("new", first)
    await world.settle()
    world.reader.release()
    assert await call.reply == ["nothing", {}], "the header says that there is nothing to be read"
    assert world.reader.asked == 1


async def test_a_header_that_cannot_be_read_is_told_to_everybody_who_waits_and_the_next_call_tries_again() -> None:
    world = ColdWorld()
    await world.fill("x", ROWS)
    world.cool()
    world.reader.failure = OSError("the disk said no")
    calls = [world.call(Actor, "x", "ping") for _ in range(3)]
    await world.thaw()
    for call in calls:
        assert isinstance(call.error, Internal)
        assert call.error.outcome == "not_executed"
        assert "the disk said no" in str(call.error)
    again = world.call(Actor, "x", "ping")
    await world.thaw()
    assert await again.reply == "pong"


async def test_the_thousand_and_first_call_that_waits_for_a_header_is_refused() -> None:
    world = ColdWorld()
    world.cool()
    calls = [world.call(Actor, "x", "ping") for _ in range(OBJECT_CALLS_MAX + 1)]
    await world.settle()
    assert isinstance(calls[-1].error, Overloaded)
    world.reader.release()
    assert await world.ask_all(calls[:-1]) == ["pong"] * OBJECT_CALLS_MAX


async def test_what_waits_for_headers_is_bounded_in_bytes() -> None:
    world = ColdWorld(call_bytes_max=100)
    world.cool()
    calls = [world.call(Actor, name, "act", "x" * 60) for name in ("x", "y")]
    await world.settle()
    assert isinstance(calls[1].error, Overloaded)
    await world.thaw()
    assert isinstance(calls[0].error, MethodRaised)
    assert world.host.book.waiting_bytes == 0


async def test_what_finds_no_room_to_wait_for_its_header_asks_for_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.call_book.WAITING_CALLS_MAX", 1)
    world = ColdWorld()
    world.cool()
    waits, refused = world.call(Actor, "x", "ping"), world.call(Actor, "y", "ping")
    await world.settle()
    assert isinstance(refused.error, Overloaded)
    assert world.reader.asked == 1
    await world.thaw()
    assert await waits.reply == "pong"


async def test_a_read_that_cannot_even_begin_is_the_error_of_its_call_and_the_next_call_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ColdWorld()
    world.cool()

    def read(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(world.reader, "read", read)
        call = world.call(Actor, "x", "ping")
        await world.settle()
    assert isinstance(call.error, Internal)
    again = world.call(Actor, "x", "ping")
    await world.thaw()
    assert await again.reply == "pong"


async def test_a_call_whose_deadline_passes_while_the_header_is_read_does_not_run() -> None:
    world = ColdWorld()
    world.cool()
    late = world.call(Actor, "x", "ping", deadline_ms=1)
    await asyncio.sleep(0.005)
    world.reader.release()
    with pytest.raises(DeadlineExceeded):
        await late.reply


async def test_what_is_still_in_a_memtable_starts_without_the_disk() -> None:
    world = ColdWorld()
    await world.fill("x", ROWS)
    world.evict_idle()
    for store in world.stores.values():
        store.reader = world.reader
    assert await world.ask(Actor, "x", "ping") == "pong"
    assert world.reader.asked == 0


async def test_a_loop_of_calls_between_cold_objects_comes_to_its_end() -> None:
    world = ColdWorld()
    for name in ("x", "y", "z"):
        await world.fill(name, {"n": 1})
    world.cool()

    def passing(others: list[str]) -> Act:
        async def act(actor: Actor) -> int:
            value: int = await actor.storage.get("n")
            return value + (await actor.stub(Actor, others[0]).act(others[0]) if others else 0)

        return act

    Actor.acts = {"x": passing(["y"]), "y": passing(["z"]), "z": passing([])}
    call = world.call(Actor, "x", "act", "x")
    await world.thaw()
    assert await call.reply == 3
