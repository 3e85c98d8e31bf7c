"""Calls between objects: in order, through both gates, and what one has seen of another's undurable writes it answers for."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import msgspec
import pytest

from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, LOG, control, until
from tidegate.runtime.errors import BadArguments, BadRequest, MethodRaised, ObjectReset, UnknownMethod
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


class Money(msgspec.Struct):
    amount: int


class Account(DurableObject):
    async def balance(self) -> int:
        balance: int = await self.storage.get("balance", 0)
        return balance

    async def deposit(self, amount: int) -> int:
        balance = await self.balance() + amount
        await self.storage.put("balance", balance)
        return balance

    async def typed(self, money: Money) -> Money:
        return Money(money.amount + 1)

    async def fail(self, kind: str) -> None:
        raise {"key": KeyError("k"), "value": ValueError("v")}[kind]

    async def log(self, number: int) -> None:
        LOG.append(number)

    async def too_much(self) -> object:
        return 2**64

    async def abort_now(self) -> None:
        self.abort("gone")

    async def hold(self) -> None:
        async with self.block_concurrency():
            await until("hold")


class Teller(DurableObject):
    async def ask_balance(self, name: str) -> int:
        return await self.stub(Account, name).balance()

    async def write_and_deposit(self, name: str, amount: int) -> int:
        self.storage.put("last", amount)
        return await self.stub(Account, name).deposit(amount)

    async def write_and_tell(self, name: str, amount: int) -> str:
        """Does not wait for the answer."""
        self.storage.put("last", amount)
        self.kept = asyncio.ensure_future(self.stub(Account, name).deposit(amount))
        return "told"

    async def send_many(self, name: str, count: int) -> None:
        stub = self.stub(Account, name)
        calls = []
        for number in range(count):
            calls.append(stub.log(number))
            if number % 3 == 0:
                self.storage.put("n", number)
            if number % 5 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*calls)

    async def typed(self, name: str) -> str:
        return repr(await self.stub(Account, name).typed(Money(1)))

    async def untyped(self, name: str) -> Any:
        return await self.stub("Account", name).typed(Money(1))

    async def keywords(self, name: str) -> int:
        return await self.stub(Account, name).deposit(amount=5)

    async def catch(self, name: str, kind: str) -> str:
        stub = self.stub(Account, name)
        try:
            await stub.fail(kind)
        except Exception as exc:
            return f"{exc!r} {type(exc.__cause__).__name__} {await stub.balance()}"
        return "nothing"

    async def mutate(self, name: str) -> int:
        money = Money(1)
        call = self.stub(Account, name).typed(money)
        money.amount = 100
        return (await call).amount

    async def wrong(self, what: str) -> str:
        try:
            if what == "hook":
                await self.stub("Account", "a").on_start()
            elif what == "private":
                await self.stub("Account", "a")._secret()
            elif what == "method":
                await self.stub("Account", "a").nothing()
            elif what == "name":
                await self.stub("Account", "").balance()
            elif what == "arguments":
                await self.stub("Account", "a").deposit("x")
        except Exception as exc:
            return type(exc).__name__
        return "nothing"

    async def ask_too_much(self) -> str:
        try:
            await self.stub(Account, "a").too_much()
        except TypeError as exc:
            return f"{exc} / {type(exc.__cause__).__name__}"
        return "nothing"

    async def bounce(self, path: list[str]) -> list[str]:
        """Goes from teller to teller and back."""
        if not path:
            return [self.id.name]
        return [self.id.name, *await self.stub(Teller, path[0]).bounce(path[1:])]

    async def wait_for_hold(self, name: str) -> None:
        await self.stub(Account, name).hold()

    async def log(self, text: str) -> None:
        LOG.append(text)

    async def abort_now(self) -> None:
        self.abort("gone")

    async def learn(self, name: str) -> int:
        """Writes down what another object says."""
        balance = await self.stub(Account, name).balance()
        await self.storage.put("learnt", balance)
        return balance

    async def learnt(self) -> Any:
        return await self.storage.get("learnt")

    async def ask_teller(self, name: str) -> Any:
        return await self.stub(Teller, name).learnt()


async def test_who_has_seen_a_write_that_is_lost_is_reset_also_if_the_writer_was_reset_before_that_was_known() -> None:
    """Simulator seed 540150."""
    world = World(Account, Teller, auto=False)
    deposit = world.call(Account, "a", "deposit", 5)
    await world.settle()
    world.cut()  # What it has written is on its way to the disk.
    learning = world.call(Teller, "t", "write_and_deposit", "a", 0)  # Has seen it, and has written something itself.
    await world.settle()
    teller = world.activation(Teller, "t")
    aborting = world.call(Account, "a", "abort_now")
    await world.settle()
    assert isinstance(aborting.error, ObjectReset)
    assert teller.broken is None, "it may become durable"
    world.fail_commit()
    assert teller.broken is not None
    await world.settle()
    assert not world.host.output_gate.can_cut
    assert isinstance(deposit.error, ObjectReset)
    assert isinstance(learning.error, ObjectReset)
    assert world.durable(Teller, "t") == {}


async def test_an_object_calls_another_and_gets_its_result() -> None:
    world = World(Account, Teller)
    assert await world.ask(Teller, "t", "write_and_deposit", "a", 5) == 5
    assert await world.ask(Teller, "t", "ask_balance", "a") == 5
    assert await world.ask(Teller, "t", "keywords", "a") == 10


async def test_a_stub_made_from_a_class_returns_the_annotated_type_and_one_from_a_name_plain_values() -> None:
    world = World(Account, Teller)
    assert await world.ask(Teller, "t", "typed", "a") == "Money(amount=2)"
    assert await world.ask(Teller, "t", "untyped", "a") == {"amount": 2}


async def test_a_result_that_cannot_be_sent_is_the_fault_of_the_method_between_objects_too() -> None:
    world = World(Account, Teller)
    told = await world.ask(Teller, "t", "ask_too_much")
    assert "the result cannot be sent" in told
    assert told.endswith(" / MethodRaised")


async def test_an_exception_of_the_other_object_is_raised_as_itself_and_the_stub_stays_usable() -> None:
    world = World(Account, Teller)
    assert await world.ask(Teller, "t", "catch", "a", "key") == "KeyError('k') MethodRaised 0"
    assert await world.ask(Teller, "t", "catch", "a", "value") == "ValueError('v') MethodRaised 0"


async def test_arguments_are_snapshots_of_the_moment_of_the_call() -> None:
    assert await World(Account, Teller).ask(Teller, "t", "mutate", "a") == 2


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("hook", "AttributeError"), ("private", "AttributeError"), ("method", UnknownMethod.__name__),
        ("name", BadRequest.__name__), ("arguments", BadArguments.__name__),
    ],
)  # fmt: skip
async def test_a_wrong_call_of_another_object_is_an_error_for_the_caller(what: str, error: str) -> None:
    assert await World(Account, Teller).ask(Teller, "t", "wrong", what) == error


@pytest.mark.parametrize("path", [["a"], ["b"], ["b", "a"], ["b", "c", "b", "a", "a"]])
async def test_objects_that_call_each_other_and_themselves_do_not_deadlock(path: list[str]) -> None:
    assert await World(Teller).ask(Teller, "a", "bounce", path) == ["a", *path]


@pytest.mark.parametrize("auto", [True, False])
async def test_calls_of_one_object_to_another_arrive_in_the_order_in_which_they_were_made(auto: bool) -> None:
    world = World(Account, Teller, auto=auto)
    call = world.call(Teller, "t", "send_many", "a", 50)
    for _ in range(100):
        await world.settle(2)
        if not auto and world.host.output_gate.can_cut:
            world.commit()
    await call.reply
    assert list(range(50)) == LOG


async def test_a_reply_of_another_object_waits_at_the_input_gate() -> None:
    world = World(Account, Teller)
    hold = control("hold")
    waiting = world.call(Teller, "t", "wait_for_hold", "a")
    await world.settle()
    activation = world.activation(Teller, "t")
    activation.gate.lock(activation.gate.root)
    hold.set_result(None)
    await world.settle()
    assert not waiting.answered
    activation.gate.unlock(activation.gate.root)
    activation.schedule_pump()
    await waiting.reply


async def test_while_an_object_waits_for_another_its_other_calls_are_served() -> None:
    world = World(Account, Teller)
    hold = control("hold")
    waiting = world.call(Teller, "t", "wait_for_hold", "a")
    await world.ask(Teller, "t", "log", "meanwhile")
    assert LOG == ["meanwhile"]
    assert not waiting.answered
    hold.set_result(None)
    await waiting.reply


# What one has seen of the other


async def test_an_answer_that_another_object_has_built_on_undurable_writes_is_held_with_them() -> None:
    world = World(Account, Teller, auto=False)
    deposit = world.call(Account, "a", "deposit", 5)
    await world.settle()
    read = world.call(Teller, "t", "ask_balance", "a")
    await world.settle()
    assert not deposit.answered
    assert not read.answered
    world.commit()
    assert (deposit.result, read.result) == (5, 5)


@pytest.mark.parametrize("fails", ["commit", "abort"])
async def test_who_has_seen_writes_that_are_lost_is_reset_and_tells_nobody(fails: str) -> None:
    world = World(Account, Teller, auto=False)
    deposit = world.call(Account, "a", "deposit", 5)
    await world.settle()
    learn = world.call(Teller, "t", "learn", "a")
    await world.settle()
    second = world.call(Teller, "u", "ask_teller", "t")
    await world.settle()
    other = world.call(Account, "b", "deposit", 1)
    await world.settle()
    if fails == "commit":
        world.cut()
        world.fail_commit()
        assert isinstance(other.error, ObjectReset), "it was in the commit"
    else:
        abort = world.call(Account, "a", "abort_now")
        await world.settle()
        assert isinstance(abort.error, ObjectReset)
        assert not other.answered
        world.commit()
        assert other.answered
    for call in (deposit, learn, second):
        assert isinstance(call.error, ObjectReset)
    world.auto = True
    assert await world.ask(Teller, "t", "learnt") is None
    assert await world.ask(Account, "a", "balance") == 0


async def test_who_has_seen_lost_writes_through_an_object_that_is_gone_is_reset_all_the_same() -> None:
    world = World(Account, Teller, auto=False)
    deposit = world.call(Account, "a", "deposit", 5)
    await world.settle()
    learn = world.call(Teller, "t", "learn", "a")
    await world.settle()
    second = world.call(Teller, "u", "ask_teller", "t")
    await world.settle()
    gone = [world.call(Teller, "t", "abort_now")]
    await world.settle()
    gone.append(world.call(Account, "a", "abort_now"))
    await world.settle()
    world.host.turn.end_soon()
    world.auto = True
    await world.settle()
    for call in (deposit, learn, second, *gone):
        assert isinstance(call.error, ObjectReset)


async def test_a_call_made_by_an_object_whose_write_before_it_is_lost_does_not_run() -> None:
    world = World(Account, Teller, auto=False)

    class Rash(DurableObject):
        async def act(self) -> None:
            self.storage.put("k", 1)
            self.kept = asyncio.ensure_future(self.stub(Account, "a").log(1))
            self.abort("never mind")

    world = World(Account, Rash, auto=False)
    call = world.call(Rash, "r", "act")
    await world.settle()
    assert isinstance(call.error, ObjectReset)
    assert LOG == []


async def test_a_message_to_another_object_does_not_wait_for_the_disk_and_its_effect_does() -> None:
    world = World(Account, Teller, auto=False)
    told = world.call(Teller, "t", "write_and_tell", "a", 5)
    await world.settle()
    assert not told.answered
    balance = world.call(Account, "a", "balance")
    await world.settle()
    assert not balance.answered
    world.commit()
    await world.ask_all([told, balance])
    assert world.durable(Account, "a") == {"balance": 5}
    assert world.durable(Teller, "t") == {"last": 5}


OBJECTS = [(Account, "a"), (Account, "b"), (Teller, "t"), (Teller, "u")]


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_fails_nobody_outside_learns_what_is_not_durable(seed: int) -> None:
    """Deposits of one into two accounts, tellers that read them and write down what they saw, aborts, failed commits, crashes:
    an amount that was told outside, directly or through others, is never seen to have been undone."""
    rng = random.Random(seed)
    world = World(Account, Teller, auto=False)
    pending: list[tuple[str, Call]] = []
    told = {"a": 0, "b": 0}

    def collect() -> None:
        for name, call in list(pending):
            if call.answered:
                pending.remove((name, call))
                if not call.reply.exception() and name:
                    told[name] = max(told[name], call.result)
        for name, amount in told.items():
            assert world.durable(Account, name).get("balance", 0) >= amount, (name, amount)

    for _ in range(250):
        name = rng.choice("ab")
        event = rng.randrange(12)
        if event < 3:
            pending.append((name, world.call(Account, name, "deposit", 1)))
        elif event < 5:
            pending.append((name, world.call(Teller, "t", "learn", name)))
        elif event == 5:
            pending.append((name, world.call(Teller, rng.choice("tu"), "ask_balance", name)))
        elif event == 6:
            pending.append((name, world.call(Teller, "u", "write_and_deposit", name, 1)))
        elif event == 7:
            cls, target = rng.choice(OBJECTS)
            pending.append(("", world.call(cls, target, "abort_now")))
        elif event == 8 and world.host.output_gate.in_flight is not None:
            world.fail_commit()
        elif event == 9 and world.host.output_gate.in_flight is not None:
            world.committed()
        elif world.host.output_gate.can_cut:
            world.cut()
        await world.settle(rng.randrange(4))
        collect()
        if rng.random() < 0.01:
            world.crash(in_flight_is_durable=rng.random() < 0.5)
            pending.clear()
    for _ in itertools.count():
        if world.host.output_gate.in_flight is not None:
            world.committed()
        await world.settle()
        collect()
        if not pending:
            break
        world.cut()
    for _, call in pending:
        with pytest.raises((ObjectReset, MethodRaised)):
            await call.reply


class Starter(DurableObject):
    """Gives calls, and storage operations, to whatever takes a coroutine."""

    async def tasks(self, name: str) -> list[int]:
        stub = self.stub(Account, name)
        first = stub.deposit(1)
        second = asyncio.create_task(stub.deposit(1))
        async with asyncio.TaskGroup() as tasks:
            third = tasks.create_task(stub.deposit(1))
        fourth = self.spawn(self.stub("Account", name).deposit(1))
        fifth = asyncio.wait_for(asyncio.shield(stub.deposit(1)), 5)
        return [await first, await second, third.result(), *await asyncio.gather(fourth, fifth)]

    async def failing(self, name: str) -> str:
        try:
            await asyncio.create_task(self.stub(Account, name).fail("key"))
        except KeyError as exc:
            return repr(exc)
        return "no error"

    async def storage_tasks(self) -> list[Any]:
        wrote: Any = self.spawn(self.storage.put("k", 1))  # type: ignore[arg-type]  # an awaitable, it says
        synced: Any = asyncio.create_task(self.storage.sync())  # type: ignore[arg-type]  # likewise
        async with asyncio.TaskGroup() as tasks:
            got: Any = tasks.create_task(self.storage.get("k"))  # type: ignore[arg-type]  # likewise
        return [await wrote, await synced, got.result()]

    async def in_a_thread(self, name: str) -> int:
        loop = asyncio.get_running_loop()
        stub = self.stub(Account, name)
        return await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(stub.deposit(1), loop).result(5))

    async def no_coroutine(self) -> list[str]:
        said = []
        for start in (self.spawn, asyncio.create_task):
            try:
                start(5)  # type: ignore[arg-type]  # on purpose
            except TypeError as exc:
                said.append(str(exc))
        return said


async def test_a_call_is_taken_by_whatever_takes_a_coroutine() -> None:
    world = World(Account, Starter)
    assert await world.ask(Starter, "s", "tasks", "a") == [1, 2, 3, 4, 5]
    assert await world.ask(Starter, "s", "failing", "a") == "KeyError('k')"


async def test_a_storage_operation_is_taken_by_whatever_takes_a_coroutine() -> None:
    world = World(Account, Starter)
    assert await world.ask(Starter, "s", "storage_tasks") == [None, None, 1]


async def test_a_call_made_in_a_thread_is_sent_by_the_loop_that_it_is_given_to() -> None:
    world = World(Account, Starter)
    assert await world.ask(Starter, "s", "in_a_thread", "a") == 1


async def test_what_is_no_coroutine_is_refused_where_it_is_given() -> None:
    world = World(Starter)
    assert await world.ask(Starter, "s", "no_coroutine") == ["a coroutine was expected, got 5"] * 2
