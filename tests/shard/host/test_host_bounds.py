"""What happens at the bounds: too many calls, too late, too much that is not durable."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, LOG, MIB, Thing, control, until
from tidegate.runtime.errors import (
    BadArguments,
    BadRequest,
    CallError,
    DeadlineExceeded,
    ObjectReset,
    Overloaded,
)
from tidegate.runtime.limits import OBJECT_CALLS_MAX, UNDURABLE_BYTES_MAX
from tidegate.runtime.wire.protocol import own_identity
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


# Bounds and deadlines


async def test_the_thousand_and_first_waiting_call_is_refused_at_once_and_the_others_run() -> None:
    class Busy(DurableObject):
        async def hold(self) -> None:
            async with self.block_concurrency():
                await until("wait")

        async def log(self, number: int) -> None:
            LOG.append(number)

    world = World(Busy)
    wait = control("wait")
    holding = world.call(Busy, "a", "hold")
    await world.settle()
    calls = [world.call(Busy, "a", "log", number) for number in range(OBJECT_CALLS_MAX)]
    await world.settle()
    refused = world.call(Busy, "a", "log", -1)
    await world.settle()
    assert isinstance(refused.error, Overloaded)
    assert (refused.error.overloaded, refused.error.retryable, refused.error.outcome) == (True, True, "not_executed")
    assert await world.ask_all([world.call(Busy, "b", "log", 0)]) == [None], "other objects are not"
    LOG.clear()
    wait.set_result(None)
    await world.ask_all([holding, *calls])
    assert list(range(OBJECT_CALLS_MAX)) == LOG


async def test_a_call_whose_deadline_has_passed_before_it_could_start_does_not_run() -> None:
    class Busy(DurableObject):
        async def hold(self) -> None:
            async with self.block_concurrency():
                await until("wait")

        async def log(self, text: str) -> None:
            LOG.append(text)

    world = World(Busy)
    wait = control("wait")
    holding = world.call(Busy, "a", "hold")
    await world.settle()
    late = world.call(Busy, "a", "log", "late", deadline_ms=5)
    early = world.call(Busy, "a", "log", "early", deadline_ms=60_000)
    await asyncio.sleep(0.02)
    wait.set_result(None)
    await world.ask_all([holding, early])
    assert isinstance(late.error, DeadlineExceeded)
    assert late.error.outcome == "not_executed"
    assert LOG == ["early"]


@pytest.mark.parametrize("deadline_ms", [0, -1])
async def test_a_deadline_that_has_passed_at_arrival_is_exceeded(deadline_ms: int) -> None:
    world = World(Thing)
    with pytest.raises(DeadlineExceeded):
        await world.ask(Thing, "a", "log", "ran", deadline_ms=deadline_ms)
    assert LOG == []


async def test_a_deadline_counts_while_a_call_waits_for_a_reset_object() -> None:
    world = World(Thing, auto=False)
    put = world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    abort = world.call(Thing, "a", "abort_after_put", "j")
    late = world.call(Thing, "a", "log", "late", deadline_ms=5)
    await world.settle()
    await asyncio.sleep(0.02)
    world.committed()
    with pytest.raises(DeadlineExceeded):
        await late.reply
    assert (put.answered, abort.answered, LOG) == (True, True, [])


async def test_a_deadline_counts_while_a_call_waits_for_the_disk() -> None:
    world = World(Thing, auto=False)
    large = world.call(Thing, "a", "put_large", 17)
    await world.settle()
    late = world.call(Thing, "b", "log", "late", deadline_ms=5)
    await world.settle()
    await asyncio.sleep(0.02)
    while world.host.output_gate.can_cut:
        world.commit()
    with pytest.raises(DeadlineExceeded):
        await late.reply
    await large.reply
    assert LOG == []


async def test_options_that_are_wrong_are_a_bad_request() -> None:
    world = World(Thing)
    for options in ({"deadline_ms": "soon"}, {"key": "k" * 65}):
        with pytest.raises(BadRequest):
            await world.ask(Thing, "a", "put_nothing", **options)
    assert await world.ask(Thing, "a", "put_nothing", unknown=1, traceparent="00-1") == "nothing"


# Backpressure


async def test_no_new_call_starts_while_too_much_is_not_durable_and_all_do_in_order_afterwards() -> None:
    world = World(Thing, auto=False)
    large = world.call(Thing, "a", "put_large", 17)
    await world.settle()
    assert world.host.output_gate.open_bytes >= UNDURABLE_BYTES_MAX
    calls = [world.call(Thing, "b", "log", str(number)) for number in range(3)]
    await world.settle()
    assert LOG == []
    world.cut()
    calls += [world.call(Thing, "b", "log", str(number)) for number in range(3, 6)]
    await world.settle()
    world.committed()
    calls += [world.call(Thing, "b", "log", str(number)) for number in range(6, 9)]
    await world.ask_all([large, *calls])
    assert [str(number) for number in range(9)] == LOG


async def test_calls_that_waited_at_the_gate_and_for_the_disk_keep_their_order_when_their_object_is_reset() -> None:
    class Ordered(Thing):
        async def hold_and_fail(self) -> None:
            async with self.block_concurrency():
                await until("hold")
                raise ValueError("breaks")

    world = World(Ordered, auto=False)
    hold = control("hold")
    holding = world.call(Ordered, "a", "hold_and_fail")
    await world.settle()
    calls = [world.call(Ordered, "a", "log", str(number)) for number in range(3)]
    await world.settle()
    large = world.call(Ordered, "b", "put_large", 17)
    await world.settle()
    calls += [world.call(Ordered, "a", "log", str(number)) for number in range(3, 6)]
    await world.settle()
    hold.set_result(None)
    calls += [world.call(Ordered, "a", "log", str(number)) for number in range(6, 9)]
    await world.settle()
    world.auto = True
    world.host.turn.end_soon()
    await world.ask_all([large, *calls])
    assert [str(number) for number in range(9)] == LOG
    assert isinstance(holding.error, ObjectReset)


async def test_a_program_that_writes_more_than_fits_makes_progress_without_deadlock() -> None:
    class Large(DurableObject):
        async def write(self, count: int) -> int:
            for number in range(count):
                await self.storage.put(f"{number}", b"x" * (2 * MIB - 100))
            return count

        async def write_in_transaction(self, count: int) -> int:
            async with self.storage.transaction() as txn:
                for number in range(count):
                    await txn.put(f"{number}", b"x" * (MIB - 100))
            return count

        async def write_in_section(self, count: int) -> int:
            async with self.block_concurrency():
                return await self.write(count)

    world = World(Large)
    calls = [world.call(Large, name, "write", 20) for name in "ab"]
    calls.append(world.call(Large, "c", "write_in_transaction", 12))
    calls.append(world.call(Large, "d", "write_in_section", 20))
    assert await world.ask_all(calls) == [20, 20, 12, 20]
    assert len(world.durable(Large, "a")) == 20


async def test_under_backpressure_no_other_event_enters_before_the_result_of_the_put_is_delivered() -> None:
    class Pressed(DurableObject):
        value = 0

        async def count(self) -> int:
            value = self.value
            await self.storage.put("large", bytes([value]) * (2 * MIB - 100))
            self.value = value + 1
            return value

    world = World(Pressed, auto=False)
    calls = [world.call(Pressed, "a", "count") for _ in range(40)]
    for _ in range(200):
        await world.settle(3)
        if world.host.output_gate.can_cut:
            world.commit()
    assert sorted(await world.ask_all(calls)) == list(range(40))


@pytest.mark.parametrize("mebibytes", [20, 23, 40, 100])
async def test_one_turn_that_writes_more_than_a_commit_holds_is_refused_at_the_put_that_is_too_much(mebibytes: int) -> None:
    world = World(Thing)
    other = world.call(Thing, "b", "put", "k", 1)
    call = world.call(Thing, "a", "put_large", mebibytes)
    await world.settle()
    assert await other.reply is None
    if mebibytes == 20:
        assert call.result is None
    else:
        assert call.error.details["type"] == "ValueError"
    await world.settle()
    assert 20 <= len(world.durable(Thing, "a")) <= 24
    assert world.largest_commit_bytes < 31 * MIB, "it fits in a segment of the log"
    assert await world.ask(Thing, "a", "put_nothing") == "nothing"


async def test_a_transaction_that_writes_more_than_a_commit_holds_is_refused_and_leaves_no_trace() -> None:
    class Large(DurableObject):
        async def write(self, count: int) -> None:
            async with self.storage.transaction() as txn:
                for number in range(count):
                    await txn.put(str(number), b"x" * (2 * MIB - 100))

    world = World(Large)
    for count in (20, 60):
        with pytest.raises(CallError, match=r"the transaction writes .* rolled back"):
            await world.ask(Large, "a", "write", count)
        await world.settle()
        assert world.durable(Large, "a") == {}
        assert world.largest_commit_bytes < 31 * MIB
    await world.ask(Large, "a", "write", 8)
    assert len(world.durable(Large, "a")) == 8


async def test_calls_that_wait_are_bounded_by_bytes_too() -> None:

    class Busy(DurableObject):
        async def hold(self) -> None:
            async with self.block_concurrency():
                await until("wait")

        async def take(self, text: str) -> int:
            return len(text)

    world = World(Busy, call_bytes_max=10_000)
    wait = control("wait")
    holding = world.call(Busy, "a", "hold")
    await world.settle()
    calls = [world.call(Busy, "a", "take", "x" * 3_000) for _ in range(4)]
    await world.settle()
    assert isinstance(calls[3].error, Overloaded)
    wait.set_result(None)
    assert await world.ask_all([holding, *calls[:3]]) == [None, 3_000, 3_000, 3_000]
    assert world.host.book.waiting_bytes == 0


def refused(*calls: Call) -> bool:
    """All of them, for lack of room."""
    return all(isinstance(call.error, Overloaded) and call.error.retryable and not_executed(call) for call in calls)


def not_executed(call: Call) -> bool:
    return call.error.outcome == "not_executed"


def world_bounded_by(bound: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """To three calls of 3 kB by one client."""
    if bound == "bytes":
        return World(Thing, auto=False, call_bytes_max=10_000)
    monkeypatch.setattr(f"tidegate.shard.host.call_book.{bound}", 6 if bound == "WAITING_CALLS_MAX" else 3)
    return World(Thing, auto=False)


@pytest.mark.parametrize("bound", ["WAITING_CALLS_MAX", "bytes"])
async def test_calls_that_wait_for_the_disk_are_bounded_by_count_and_bytes(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    world = world_bounded_by(bound, monkeypatch)
    large = world.call(Thing, "a", "put_large", 17)
    await world.settle()
    calls = [world.call(Thing, f"b{number}", "log", "x" * 3_000) for number in range(5)]
    await world.settle()
    assert not any(call.answered for call in calls[:3])
    assert refused(*calls[3:])
    world.cut()
    world.auto = True
    world.committed()
    await world.ask_all([large, *calls[:3]])
    assert len(LOG) == 3, "who was refused has not run"


async def test_one_client_takes_no_room_that_others_need_to_wait_and_routers_see_to_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidegate.shard.host.call_book.WAITING_CALLS_MAX", 20)
    own = own_identity("secret")
    world = World(Thing, auto=False, own_clients=own)
    large = world.call(Thing, "a", "put_large", 17)
    await world.settle()
    calls: dict[bytes, list[Call]] = {}
    for world.client in (b"tidegate-greedy", b"tidegate--polite", own + b"router-1"):
        calls[world.client] = [world.call(Thing, f"b{number}", "log", "x") for number in range(20)]
        await world.settle()
    room = {client: sum(not call.answered for call in made) for client, made in calls.items()}
    assert room == {b"tidegate-greedy": 10, b"tidegate--polite": 5, own + b"router-1": 5}
    assert all(refused(call) for made in calls.values() for call in made if call.answered)
    world.cut()
    world.auto = True
    world.committed()
    await world.ask_all([large, *(call for made in calls.values() for call in made if not call.answered)])
    assert len(LOG) == 20


async def test_one_client_cannot_have_all_that_a_worker_has_not_answered_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.call_book.WORKER_CALLS_MAX", 20)
    monkeypatch.setattr("tidegate.shard.host.host._MANY_CALLS", 10)
    world = World(Thing, auto=False)
    calls: dict[bytes, list[Call]] = {}
    for world.client in (b"greedy", b"polite"):
        calls[world.client] = [world.call(Thing, f"a{number}", "put", "k", 1) for number in range(20)]
        await world.settle()
    room = {client: sum(not call.answered for call in made) for client, made in calls.items()}
    assert room == {b"greedy": 11, b"polite": 5}
    assert all(refused(call) for made in calls.values() for call in made if call.answered)
    world.auto = True
    world.host.turn.end_soon()
    await world.ask_all(call for made in calls.values() for call in made if not call.answered)


@pytest.mark.parametrize("bound", ["WAITING_CALLS_MAX", "bytes", "OBJECT_CALLS_MAX"])
async def test_calls_that_wait_for_the_end_of_a_reset_object_are_bounded_by_count_and_bytes(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    world = world_bounded_by(bound, monkeypatch)
    put = world.call(Thing, "a", "put", "k", 1)
    await world.settle()
    world.cut()
    abort = world.call(Thing, "a", "abort_after_put", "j")
    await world.settle()
    calls = [world.call(Thing, "a", "log", "x" * 3_000) for _ in range(5)]
    await world.settle()
    assert not any(call.answered for call in calls[:3])
    assert refused(*calls[3:])
    world.auto = True
    world.committed()
    await world.ask_all([put, *calls[:3]])
    assert (abort.answered, len(LOG)) == (True, 3)


async def test_the_options_of_a_call_take_room_like_its_arguments() -> None:
    world = World(Thing, auto=False, call_bytes_max=10_000)
    large = world.call(Thing, "a", "put_large", 17)
    await world.settle()
    calls = [world.call(Thing, "b", "put_nothing", traceparent="x" * 3_000) for _ in range(4)]
    await world.settle()
    assert refused(calls[3])
    world.auto = True
    world.host.turn.end_soon()
    await world.ask_all([large, *calls[:3]])


async def test_a_call_that_was_let_in_to_wait_is_not_refused_when_it_has_to_wait_for_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidegate.shard.host.call_book.WAITING_CALLS_MAX", 6)
    world = World(Thing, auto=False)
    writing = [world.call(Thing, "a", "put_large", 17)]
    await world.settle()
    writing += [world.call(Thing, name, "put_large", 17) for name in "bcd"]
    await world.settle()
    for _ in range(4):
        world.commit()
        await world.settle()
    await world.ask_all(writing)


async def test_calls_of_objects_to_each_other_are_in_the_bounds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.call_book.WAITING_CALLS_MAX", 3)

    class Crowd(Thing):
        async def ask_many(self, count: int) -> list[str]:
            await until("ask")
            stubs = [self.stub(Thing, f"b{number}") for number in range(count)]
            answers = await asyncio.gather(*(stub.log("x") for stub in stubs), return_exceptions=True)
            return [type(answer).__name__ for answer in answers]

    world = World(Crowd, Thing, auto=False)
    ask = control("ask")
    asking = world.call(Crowd, "a", "ask_many", 5)
    large = world.call(Thing, "a", "put_large", 17)
    await world.settle()
    ask.set_result(None)
    await world.settle()
    world.auto = True
    world.host.turn.end_soon()
    await large.reply
    assert await asking.reply == ["NoneType"] * 3 + ["Overloaded"] * 2


@pytest.mark.parametrize("raw", [b"\x05", b"\xc3", b"\xe0", b"\xa0"])
async def test_arguments_that_are_no_array_or_map_are_refused_though_the_method_needs_none(raw: bytes) -> None:
    world = World(Thing)
    call = world.call(Thing, "a", "list", raw_args=raw)
    await world.settle()
    assert isinstance(call.error, BadArguments)
