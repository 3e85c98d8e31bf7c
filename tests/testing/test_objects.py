"""What a test holds: stubs, instances, storage, alarms, evictions, crashes, failed commits."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import sys
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tidegate
from tests.testing.bank import Account, Reminder
from tidegate import AlarmInfo, DurableObject, MethodRaised, ObjectReset, ShardLost
from tidegate.testing import CrashPoint, NeverEnds, Objects


async def test_a_stub_calls_the_real_object_and_has_its_type(objects: Objects) -> None:
    account = objects(Account, "a")
    assert await account.deposit(10) == 10
    assert await objects("Account", "a").deposit(5) == 15
    assert objects.storage(account) == {"balance": 15}
    assert objects.instance(account).started == 1


async def test_calls_made_together_are_delivered_in_order_and_none_is_lost(objects: Objects) -> None:
    account = objects(Account, "a")
    assert await asyncio.gather(*(account.deposit(1) for _ in range(20))) == list(range(1, 21))


async def test_an_error_reaches_the_test_as_itself(objects: Objects) -> None:
    with pytest.raises(ValueError, match="no credit"):
        await objects(Account, "a").refuse()
    with pytest.raises(tidegate.BadArguments, match="amount"):
        await objects("Account", "a").deposit("much")


async def test_a_class_that_only_other_objects_name_is_found(objects: Objects) -> None:
    assert await objects(Account, "a").ask_audit("x") == "fine"


async def test_classes_of_one_test_do_not_meet_those_of_another(objects: Objects) -> None:
    class Audit(DurableObject):
        async def look(self) -> str:
            return "another one"

    objects.serve(Audit)
    assert await objects(Account, "a").ask_audit("x") == "another one"
    with pytest.raises(ValueError, match="two classes are named Audit"):
        objects.serve(type("Audit", (DurableObject,), {}))


LOADED_TWICE = """
from tidegate import DurableObject

class Till(DurableObject):
    async def take(self) -> int:
        return 1

class Buyer(DurableObject):
    async def buy(self) -> int:
        return await self.stub(Till, "a").take()
"""


class Ledger(DurableObject):
    async def where(self) -> str:
        return "here"


class AsksLedger(DurableObject):
    async def ask(self, name: str) -> str:
        return str(await self.stub("Ledger", name).where())


@pytest.mark.tidegate(workers=2)
async def test_of_several_classes_of_a_name_that_is_meant_which_the_callers_module_has(objects: Objects) -> None:
    elsewhere = type("Ledger", (DurableObject,), {"__module__": "json"})
    assert {await objects(AsksLedger, "a").ask(f"ledger-{n}") for n in range(8)} == {"here"}
    assert elsewhere.__name__ == "Ledger"


async def test_of_two_modules_of_a_name_the_callers_own_is_looked_into(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `tidegate test` in the process of a test, which loads the app once more."""
    file = tmp_path / "shop_loaded_twice.py"
    file.write_text(LOADED_TWICE)

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
        return module

    first, second = load(), load()
    assert await objects(first.Buyer, "alice").buy() == 1
    assert second.Till is not first.Till
    assert await objects(first.Till, "a").take() == 1


@pytest.mark.tidegate(workers=2)
async def test_a_caller_that_could_mean_several_classes_is_told_so(objects: Objects) -> None:
    """It once waited for ever."""
    elsewhere = type("Ledger", (DurableObject,), {"__module__": "json"})
    stranger = type("AsksLedger", (DurableObject,), {"__module__": "no_such_module", "ask": AsksLedger.ask})
    for n in range(8):
        with pytest.raises(MethodRaised, match="several classes are named Ledger"):
            await objects(stranger, "a").ask(f"ledger-{n}")
    assert elsewhere.__name__ == "Ledger"


async def test_an_eviction_takes_memory_and_nothing_else(objects: Objects) -> None:
    account = objects(Account, "a")
    await account.deposit(10)
    before = objects.instance(account)
    objects.evict(account)
    with pytest.raises(LookupError, match="not in memory"):
        objects.instance(account)
    assert await account.deposit(1) == 11
    assert objects.instance(account) is not before
    await objects.clock.advance("2m")
    with pytest.raises(LookupError):
        objects.instance(account)


async def test_an_object_at_work_is_not_evicted(objects: Objects) -> None:
    account = objects(Account, "a")
    call = account.wait(5)
    await objects.clock.advance("1s")
    with pytest.raises(RuntimeError, match="at work"):
        objects.evict(account)
    assert await call == 5
    objects.evict()


async def test_storage_can_be_set_up_and_changed_by_the_test(objects: Objects) -> None:
    account = objects(Account, "a")
    rows = objects.storage(account)
    rows["balance"] = 100
    assert await account.deposit(1) == 101
    rows["balance"] = 5
    assert await account.deposit(1) == 6
    del rows["balance"]
    assert await account.deposit(1) == 1
    assert rows.read("balance", int) == 1
    with pytest.raises(TypeError, match="tuple"):
        rows["pair"] = (1, 2)
    with pytest.raises(KeyError):
        del rows["nothing"]


async def test_a_function_of_the_test_runs_inside_the_object(objects: Objects) -> None:
    account = objects(Account, "a")

    async def look(inside: Account, factor: int) -> int:
        return factor * await inside.storage.get("balance", 0)

    await account.deposit(4)
    assert await objects.run_in(account, look, 10) == 40

    async def fail(inside: Account) -> None:
        raise LookupError(str(inside.id))

    with pytest.raises(LookupError, match="Account/a"):
        await objects.run_in(account, fail)


async def test_a_crash_takes_what_is_in_memory_and_keeps_what_is_durable(objects: Objects) -> None:
    account = objects(Account, "a")
    await account.deposit(10)
    call = account.never()
    await objects.clock.advance("1s")
    objects.crash()
    with pytest.raises(ShardLost, match="crashed"):
        await call
    assert await account.deposit(1) == 11


@pytest.mark.parametrize(("point", "left"), [("call", None), ("before_commit", None), ("after_commit", 10)])
async def test_at_a_crash_a_write_is_there_or_not_as_the_point_says(objects: Objects, point: Any, left: int | None) -> None:
    account = objects(Account, "a")
    objects.crash(at=point)
    with pytest.raises(ShardLost):
        await account.deposit(10)
    assert objects.storage(account).get("balance") == left
    assert await account.deposit(1) == (left or 0) + 1


async def test_a_crash_lets_so_many_occasions_pass_as_it_is_told(objects: Objects) -> None:
    account = objects(Account, "a")
    crash = objects.crash(at="call", of=account, skip=2)
    assert [await account.deposit(10), await account.deposit(1)] == [10, 11]
    assert not crash.happened
    with pytest.raises(ShardLost):
        await account.deposit(5)
    assert crash.happened
    assert await account.deposit(1) == 12


async def test_a_crash_inside_a_transaction_leaves_nothing_of_it(objects: Objects) -> None:
    account = objects(Account, "a")
    await account.deposit(10)
    objects.crash(at="transaction")
    with pytest.raises(ShardLost):
        await account.pay_at_once(5)
    assert objects.storage(account) == {"balance": 10}
    await account.pay_at_once(5)
    assert objects.storage(account) == {"balance": 5}


async def test_a_naive_transfer_loses_money_in_a_crash(objects: Objects) -> None:
    a, b = objects(Account, "a"), objects(Account, "b")
    await a.deposit(100)
    objects.crash(at="sending", of=a)
    with pytest.raises(ShardLost):
        await a.pay("b", 30)
    assert objects.storage(a)["balance"] == 70
    assert "balance" not in objects.storage(b)


@pytest.mark.tidegate(workers=4)
async def test_one_worker_of_several_crashes_alone(objects: Objects) -> None:
    accounts = [objects(Account, f"a{number}") for number in range(8)]
    for account in accounts:
        await account.deposit(10)
    before = [objects.instance(account) for account in accounts]
    objects.crash(of=accounts[0])
    after = [await objects.run_in(account, _itself) for account in accounts]
    same = [one is other for one, other in zip(before, after, strict=True)]
    assert not same[0]
    assert any(same)


async def _itself(account: Account) -> Account:
    return account


@pytest.mark.tidegate(workers=4)
async def test_objects_of_several_workers_call_each_other(objects: Objects) -> None:
    await objects(Account, "a0").deposit(100)
    for number in range(1, 8):
        await objects(Account, "a0").pay(f"a{number}", 10)
    assert [objects.storage(objects(Account, f"a{number}"))["balance"] for number in range(8)] == [30] + [10] * 7


@pytest.mark.tidegate(workers=4)
async def test_who_waits_for_a_worker_that_crashes_is_told(objects: Objects) -> None:
    a0 = objects(Account, "a0")
    others = [objects(Account, f"a{number}") for number in range(1, 8)]
    elsewhere = next(each for each in others if _worker(objects, each) is not _worker(objects, a0))
    objects.crash(at="before_commit", of=elsewhere)
    with pytest.raises(MethodRaised, match="crashed"):  # What its code did not expect came out of it.
        await a0.pay(str(_name(elsewhere)), 10)
    assert objects.storage(a0)["balance"] == -10


def _name(stub: Any) -> str:
    return stub._name


def _worker(objects: Objects, stub: Any) -> Any:
    return objects._service.worker_of("Account", _name(stub))


async def test_a_failed_commit_resets_the_object_and_tells_the_caller(objects: Objects) -> None:
    account = objects(Account, "a")
    await account.deposit(10)
    objects.fail_next_commit(of=account)
    with pytest.raises(ObjectReset, match="could not be made durable"):
        await account.deposit(1)
    assert await account.deposit(2) == 12


async def test_calls_with_one_key_run_once(objects: Objects) -> None:
    account = objects(Account, "a", key="order 7")
    assert [await account.deposit(10), await account.deposit(10)] == [10, 10]


async def test_a_call_that_is_not_answered_in_time_raises(objects: Objects) -> None:
    with pytest.raises(tidegate.DeadlineExceeded):
        await objects(Account, "a", timeout="10s").never()
    assert objects.clock.now == datetime.datetime(2026, 1, 1, 0, 0, 10, tzinfo=datetime.UTC)


async def test_alarms_are_listed_in_the_order_in_which_they_ring(objects: Objects) -> None:
    await objects(Reminder, "late").once(600)
    await objects(Reminder, "early").once(60)
    assert [(each.name, each.at.minute) for each in objects.alarms()] == [("early", 1), ("late", 10)]
    await objects.clock.advance("5m")
    assert [each.name for each in objects.alarms()] == ["late"]


async def test_an_alarm_whose_handler_dies_with_its_worker_rings_again(objects: Objects) -> None:
    reminder = objects(Reminder, "r")
    await reminder.once(60)
    objects.crash(at="alarm")
    await objects.clock.advance("61s")
    assert objects.storage(reminder)["rang"] == ["01-01 00:01 00:01"]
    objects.crash(at="before_commit", of=Reminder)
    with pytest.raises(ShardLost):
        await reminder.once(60)


class Patient(DurableObject):
    """Whose alarm waits, and swallows or hides what it is told at its end."""

    async def begin(self, way: str) -> None:
        await self.storage.put("way", way)
        await self.storage.set_alarm(datetime.timedelta(seconds=1))

    async def alarm(self, info: AlarmInfo) -> None:
        way = await self.storage.get("way")
        try:
            await asyncio.sleep(3_600)
        finally:
            if way == "raises":
                raise ValueError("the cleanup fails")


@pytest.mark.parametrize("way", ["waits", "raises"])
async def test_a_handler_that_is_closed_with_its_worker_has_not_failed(
    objects: Objects, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    patient = objects(Patient, "p")
    await patient.begin(way)
    await objects.clock.advance("10s")
    objects.crash()
    await objects.clock.advance("10s")
    assert "alarm handler failed" not in caplog.text
    assert [alarm.retry_count for alarm in objects.alarms()] == [0], "it runs again, and that is no retry"


def test_what_never_ends_is_said_to_and_what_it_waits_for() -> None:
    with pytest.raises(NeverEnds, match=r"Account/a\.never"), Objects() as objects:
        objects.run(objects(Account, "a").never())


def test_a_crash_that_never_comes_fails_the_test_and_so_does_time_that_nobody_awaited() -> None:
    with pytest.raises(AssertionError, match="the crash at 'alarm' never happened"), Objects() as objects:
        objects.crash(at="alarm")
    with pytest.raises(AssertionError, match="write `await`"), Objects() as objects:
        objects.clock.advance("1d")
    with pytest.raises(ValueError, match="there is no point"), Objects() as objects:
        objects.crash(at="elsewhere")  # type: ignore[call-overload]  # that is the test


def test_a_test_that_fails_is_told_of_its_own_failure_only() -> None:
    def fails() -> None:
        with Objects() as objects:
            objects.crash(at="alarm")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()


class WithUnittest(unittest.TestCase):
    def test_objects_work_in_a_plain_test_case(self) -> None:
        with Objects() as objects:
            account = objects(Account, "a")
            assert objects.run(account.deposit(2)) == 2
            objects.run(objects.clock.advance("1h"))
            with pytest.raises(ValueError, match="no credit"):
                objects.run(account.refuse())


class Starts(DurableObject):
    async def on_start(self) -> None:
        self.storage.put("starts", await self.storage.get("starts", 0) + 1)
        await self.stub(Account, "asked").deposit(1)

    async def look(self) -> int:
        return await self.storage.get("starts", 0)


@pytest.mark.tidegate(workers=2)
@pytest.mark.parametrize("at", ["before_commit", "after_commit", "sending"])
async def test_a_worker_can_crash_while_an_object_starts(objects: Objects, at: CrashPoint) -> None:
    crash = objects.crash(at=at, of=Starts)
    one = objects(Starts, "s", retry=True)
    assert await one.look() in (1, 2)
    assert crash.happened


@pytest.mark.parametrize("at", ["call", "before_commit", "after_commit"])
async def test_a_stub_that_retries_sees_no_crash_and_its_call_runs_once(objects: Objects, at: CrashPoint) -> None:
    account = objects(Account, "a", retry=True)
    crash = objects.crash(at=at)
    assert await account.deposit(5) == 5
    assert crash.happened
    objects.fail_next_commit()
    assert await account.deposit(5) == 10
