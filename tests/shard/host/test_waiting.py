"""shard/host/waiting.py: calls to objects whose headers are on disk only wait for them, in order, and hold up nobody else;
calls of a client that does not read wait until it does. (What waits for the disk to catch up, and for a reset object:
`test_host_bounds`, `test_resets`.)"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.support.cold_world import Act, Actor, ColdWorld
from tests.support.host_world import World
from tests.support.objects import CONTROL, LOG, control, until
from tidegate.runtime.errors import DeadlineExceeded, Internal, MethodRaised, Overloaded
from tidegate.runtime.limits import LARGE_BYTES, OBJECT_CALLS_MAX
from tidegate.runtime.wire.protocol import own_identity
from tidegate.shard.objects.object import DurableObject

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


class Slowly:
    """Clients take what they are told to take; who has more than `much` to take is crowded."""

    def __init__(self, much: int = LARGE_BYTES + 1_024) -> None:
        self.crowded: set[bytes] = set()
        self.much = much
        self._untaken: Counter[bytes] = Counter()

    def made(self, client: bytes, size: int) -> None:
        self._untaken[client] += size
        if self._untaken[client] > self.much:
            self.crowded.add(client)

    def take(self, world: World, client: bytes = b"test") -> None:
        """All that has been made for it."""
        self._untaken[client] = 0
        if client in self.crowded:
            self.crowded.discard(client)
            world.host.waiting.has_room(client)


class Teller(DurableObject):
    async def much(self, number: int) -> bytes:
        LOG.append((self.id.name, number))
        return bytes(LARGE_BYTES)

    async def little(self, number: int) -> int:
        LOG.append((self.id.name, number))
        return number

    async def fail(self) -> None:
        self.abort("a test")


async def crowded_world(readers: Slowly) -> World:
    """It is known that `much` answers much, and the client has not taken that."""
    world = World(Teller, readers=readers)
    for number in (-2, -1):
        await world.ask(Teller, "first", "much", number)
    assert readers.crowded == {b"test"}
    LOG.clear()
    return world


async def test_calls_that_answer_much_wait_until_their_client_reads_and_then_run_once_and_each_objects_in_order() -> None:
    readers = Slowly()
    world = await crowded_world(readers)
    calls = [world.call(Teller, name, "much", number) for number in range(10) for name in ("a", "b", "c")]
    await world.settle()
    assert LOG == []
    assert world.host.unanswered == 30, "a drain waits for them"
    assert len(world.host.book.known_to(b"test")) == 30, "and a router that asks hears of them"
    rounds = 0
    while world.host.unanswered:
        readers.take(world)
        await world.settle()
        world.check()
        rounds += 1
    await world.ask_all(calls)
    assert rounds == 15, "two results at a time"
    for name in ("a", "b", "c"):
        assert [number for each, number in LOG if each == name] == list(range(10))
    assert [name for name, _ in LOG[:6]] == ["a", "b", "c", "a", "b", "c"], "the objects take turns"
    assert len(LOG) == 30


async def test_a_call_that_answers_little_overtakes_none_of_its_client_and_waits_for_no_other() -> None:
    readers = Slowly()
    world = await crowded_world(readers)
    much = world.call(Teller, "a", "much", 1)
    behind = world.call(Teller, "a", "little", 2)
    beside = world.call(Teller, "b", "little", 3)
    await world.settle()
    assert (much.answered, behind.answered, beside.answered) == (False, False, True)
    world.client = b"polite"
    assert await world.ask(Teller, "a", "little", 4) == 4
    assert len(await world.ask(Teller, "a", "much", 5)) == LARGE_BYTES
    readers.take(world)
    await world.ask_all([much, behind])
    assert [number for _, number in LOG] == [3, 4, 5, 1, 2]


async def test_a_call_whose_deadline_passes_while_its_client_does_not_read_never_runs() -> None:
    readers = Slowly()
    world = await crowded_world(readers)
    late = [world.call(Teller, "a", "much", number, deadline_ms=30) for number in range(3)]
    waits = world.call(Teller, "a", "much", 3, deadline_ms=60_000)
    for call in late:
        with pytest.raises(DeadlineExceeded) as error:
            await call.reply
        assert error.value.outcome == "not_executed"
    world.check()
    assert not waits.answered
    readers.take(world)
    await waits.reply
    assert LOG == [("a", 3)]


async def test_a_call_that_waits_for_its_client_runs_in_the_successor_of_an_object_that_is_reset_or_evicted() -> None:
    readers = Slowly()
    world = await crowded_world(readers)
    calls = [world.call(Teller, "a", "much", number) for number in range(2)]
    await world.settle()
    world.client = b"other"
    failed = world.call(Teller, "a", "fail")
    await world.settle()
    assert failed.answered
    world.evict_idle()
    readers.take(world)
    await world.ask_all(calls)
    assert LOG == [("a", 0), ("a", 1)]


async def test_calls_that_wait_for_their_client_leave_half_of_the_room_and_who_is_refused_has_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidegate.shard.host.call_book.WAITING_CALLS_MAX", 20)
    readers = Slowly()
    world = await crowded_world(readers)
    world.client = own_identity("") + b"router-1"  # Whose share of what waits is not bounded otherwise.
    readers.crowded.add(world.client)
    calls = [world.call(Teller, f"a{number}", "much", number) for number in range(15)]
    await world.settle()
    refused = [call for call in calls if call.answered]
    assert refused == calls[10:]
    for call in refused:
        assert (call.error.code, call.error.outcome, call.error.retryable) == ("overloaded", "not_executed", True)
    while world.host.unanswered:
        readers.take(world, world.client)
        await world.settle()
    await world.ask_all(calls[:10])
    assert [number for _, number in LOG] == list(range(10))


async def test_what_a_client_waits_for_that_has_gone_runs_once_and_is_forgotten() -> None:
    """The library then takes all that is sent: it is dropped there."""
    readers = Slowly()
    world = await crowded_world(readers)
    calls = [world.call(Teller, "a", "much", number) for number in range(200)]
    await world.settle()
    readers.much = 1 << 40
    readers.take(world)
    await world.ask_all(calls)
    assert [number for _, number in LOG] == list(range(200))
    assert world.host.unanswered == 0
    assert [*world.host.waiting.queues()] == [{}]


class Busy(Teller):
    async def occupy(self) -> None:
        async with self.block_concurrency():
            await until("done")


async def test_calls_that_a_router_wants_refused_do_not_run_wherever_they_wait_and_others_do() -> None:
    control("done")
    readers = Slowly()
    world = World(Busy, readers=readers)
    for number in (-2, -1):
        await world.ask(Busy, "first", "much", number)
    LOG.clear()
    busy = world.call(Busy, "busy", "occupy")
    await world.settle()
    unread = [world.call(Busy, "a", "much", number) for number in range(4)]
    at_gate = [world.call(Busy, "busy", "little", number, deadline_ms=60_000) for number in range(4, 8)]
    await world.settle()
    assert not any(call.answered for call in (busy, *unread, *at_gate))
    unwanted = [busy, *unread[:2], *at_gate[1:]]
    ids = [number for number, call in world.calls.items() if call in unwanted]
    assert world.host.waiting.refuse_of(b"somebody else", ids) == 0
    assert world.host.waiting.refuse_of(b"test", ids) == 5, "what runs is not refused"
    await world.settle()
    for call in unwanted[1:]:
        assert (call.error.code, call.error.outcome) == ("overloaded", "not_executed")
        assert call.error.details["retry_after_ms"] > 0
    world.check()
    CONTROL["done"].set_result(None)
    readers.take(world)
    await world.ask_all([busy, at_gate[0], *unread[2:]])
    assert sorted(number for _, number in LOG) == [2, 3, 4]
