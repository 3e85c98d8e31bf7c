"""Mistakes that people make with durable objects, each with a twin that is right, and a test that tells them apart.

Each entry is a class with the mistake, one without, and an ordinary test of what the class is for."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from tidegate import AlarmInfo, DurableObject
from tidegate.testing import Objects
from tidegate.testing.judges import conserved, unique_and_gap_free

HOUR = datetime.timedelta(hours=1)
SHARED: dict[str, int] = {}


class Planted(NamedTuple):
    name: str
    wrong: type[Any]
    right: type[Any]
    test: Callable[[Objects, Any], Awaitable[None]]


class Purse(DurableObject):
    """Who is paid by others: with a number, once."""

    async def pay(self, amount: int, number: str = "") -> None:
        balance = await self.storage.get("balance", 0)
        if number and await self.storage.get(f"paid:{number}") is not None:
            return
        if number:
            self.storage.put(f"paid:{number}", True)
        self.storage.put("balance", balance + amount)

    async def balance(self) -> int:
        return await self.storage.get("balance", 0)


# An await between reading and writing.


class ReadsThenWaits(DurableObject):
    async def take(self) -> int:
        value = await self.storage.get("n", 0)
        await asyncio.sleep(0.01)
        await self.storage.put("n", value + 1)
        return value


class WaitsInASection(DurableObject):
    async def take(self) -> int:
        async with self.block_concurrency():
            value = await self.storage.get("n", 0)
            await asyncio.sleep(0.01)
            await self.storage.put("n", value + 1)
        return value


async def takes_are_unique(objects: Objects, cls: Any) -> None:
    ticket = objects(cls, "t")
    unique_and_gap_free(await asyncio.gather(*(ticket.take() for _ in range(3))))


# Two calls of one event.


class TakesTwoAtOnce(ReadsThenWaits):
    async def two(self) -> list[int]:
        return list(await asyncio.gather(self.take(), self.take()))


class TakesTwoInOneStep(WaitsInASection):
    async def two(self) -> list[int]:
        async with self.block_concurrency():
            value = await self.storage.get("n", 0)
            self.storage.put("n", value + 2)
        return [value, value + 1]


async def two_differ(objects: Objects, cls: Any) -> None:
    numbers = await objects.attempt(objects(cls, "t").two())
    unique_and_gap_free(numbers or [])


# A transfer that is not written down.


class PaysStraight(DurableObject):
    async def send(self, amount: int, number: str) -> None:
        self.storage.put("balance", await self.storage.get("balance", 100) - amount)
        await self.stub(Purse, "p").pay(amount, number)

    async def balance(self) -> int:
        return await self.storage.get("balance", 100)


class PaysByOrder(PaysStraight):
    numbered = True

    async def send(self, amount: int, number: str) -> None:
        if await self.storage.get(f"sent:{number}", False):
            return
        self.storage.put("balance", await self.storage.get("balance", 100) - amount)
        self.storage.put(f"sent:{number}", True)
        self.storage.put(f"open:{number}", amount)
        await self.storage.set_alarm(datetime.timedelta(0))

    async def alarm(self, info: AlarmInfo) -> None:
        for key, amount in (await self.storage.list(prefix="open:")).items():
            await self.stub(Purse, "p").pay(amount, f"{self.id} {key}" if self.numbered else "")
            await self.storage.delete(key)


class PaysByOrderWithoutNumbers(PaysByOrder):
    numbered = False


async def no_money_is_lost(objects: Objects, cls: Any) -> None:
    payer = objects(cls, "a")
    for _ in range(2):
        await objects.attempt(payer.send(30, "rent"))
        if await payer.balance() == 70:
            break
    await objects.clock.advance("1h")
    assert await payer.balance() + await objects(Purse, "p").balance() == 100


# A reply before the write.


class WritesLater(DurableObject):
    async def note(self, text: str) -> None:
        self.spawn(self._write(text))

    async def _write(self, text: str) -> None:
        await asyncio.sleep(0.01)
        await self.storage.put("text", text)

    async def read(self) -> str:
        return await self.storage.get("text", "")


class WritesFirst(WritesLater):
    async def note(self, text: str) -> None:
        await self.storage.put("text", text)


async def what_was_noted_is_there(objects: Objects, cls: Any) -> None:
    diary = objects(cls, "d")
    await diary.note("rain")
    await objects.clock.advance("1s")
    assert await diary.read() == "rain"


class SendsUnconfirmed(DurableObject):
    unconfirmed = True

    async def send(self) -> None:
        number = await self.storage.get("number", 0)
        await self.storage.put("number", number + 1, allow_unconfirmed=self.unconfirmed)
        async with self.fetch.post(f"https://mail.example/{number}"):
            pass


class SendsConfirmed(SendsUnconfirmed):
    unconfirmed = False


async def each_number_is_sent_once(objects: Objects, cls: Any) -> None:
    objects.http.answer("https://mail.example/*", 200)
    for _ in range(2):
        await objects.attempt(objects(cls, "m").send())
    sent = [request.url for request in objects.http.requests]
    assert len(sent) == len(set(sent))


# What is in memory only.


class CountsInMemory(DurableObject):
    count = 0

    async def take(self) -> int:
        self.count += 1
        return self.count - 1


class CountsInStorage(DurableObject):
    async def take(self) -> int:
        count = await self.storage.get("count", 0)
        self.storage.put("count", count + 1)
        return count


async def takes_go_on(objects: Objects, cls: Any) -> None:
    ticket = objects(cls, "t")
    unique_and_gap_free([await ticket.take() for _ in range(4)])


class CachesForEver(DurableObject):
    price: int | None = None

    async def set(self, price: int) -> None:
        await self.storage.put("price", price)

    async def get(self) -> int:
        if self.price is None:
            self.price = await self.storage.get("price", 0)
        return self.price


class CachesWhatItWrites(CachesForEver):
    async def set(self, price: int) -> None:
        self.price = price
        await self.storage.put("price", price)


async def the_newest_price_is_told(objects: Objects, cls: Any) -> None:
    shop = objects(cls, "s")
    for price in (1, 2):
        await shop.set(price)
        assert await shop.get() == price


class NumbersInInit(DurableObject):
    def __init__(self) -> None:
        self.next_number = 0

    async def add(self, text: str) -> str:
        key = f"item:{self.next_number:03}"
        self.next_number += 1
        await self.storage.put(key, text)
        return key


class NumbersOnStart(NumbersInInit):
    async def on_start(self) -> None:
        self.next_number = len(await self.storage.list(prefix="item:"))


async def nothing_is_overwritten(objects: Objects, cls: Any) -> None:
    things = objects(cls, "l")
    for text in ("a", "b", "c"):
        await things.add(text)
    assert list(objects.storage(things).values()) == ["a", "b", "c"]


class SharesAModule(DurableObject):
    async def take(self) -> int:
        value = SHARED.get("n", 0)
        SHARED["n"] = value + 1
        return value


async def each_counts_for_itself(objects: Objects, cls: Any) -> None:
    for name in ("a", "b"):
        unique_and_gap_free([await objects(cls, name).take() for _ in range(2)])


class BonusAtEachStart(DurableObject):
    async def on_start(self) -> None:
        self.storage.put("points", await self.storage.get("points", 0) + 10)

    async def points(self) -> int:
        return await self.storage.get("points", 0)


class BonusOnce(BonusAtEachStart):
    async def on_start(self) -> None:
        if await self.storage.get("points") is None:
            self.storage.put("points", 10)


async def there_is_one_bonus(objects: Objects, cls: Any) -> None:
    player = objects(cls, "p")
    assert [await player.points() for _ in range(3)] == [10, 10, 10]


# Timers and alarms.


class RemindsByTimer(DurableObject):
    async def remind(self) -> None:
        asyncio.get_running_loop().call_later(60, self._due)

    def _due(self) -> None:
        self.storage.put("reminded", True)


class RemindsByAlarm(DurableObject):
    async def remind(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(seconds=60))

    async def alarm(self, info: AlarmInfo) -> None:
        await self.storage.put("reminded", True)


async def it_is_reminded(objects: Objects, cls: Any) -> None:
    reminder = objects(cls, "r")
    await reminder.remind()
    await objects.clock.advance("10m")
    assert objects.storage(reminder).get("reminded") is True


class Wages(DurableObject):
    async def begin(self) -> None:
        await self.storage.set_alarm(HOUR)

    async def alarm(self, info: AlarmInfo) -> None:
        await self.stub(Purse, "p").pay(10)
        await self.storage.put("done", True)


class NumberedWages(Wages):
    async def alarm(self, info: AlarmInfo) -> None:
        await self.stub(Purse, "p").pay(10, f"{info.scheduled_for}")
        await self.storage.put("done", True)


async def wages_are_paid_once(objects: Objects, cls: Any) -> None:
    await objects(cls, "w").begin()
    await objects.clock.advance("90m")
    await objects.clock.advance("1h")
    conserved(objects, Purse, "balance", 10)


class SetsTheNextAtTheEnd(DurableObject):
    async def begin(self) -> None:
        await self.storage.set_alarm(HOUR)

    async def alarm(self, info: AlarmInfo) -> None:
        await self._work()
        await self.storage.set_alarm(info.scheduled_for + HOUR)

    async def _work(self) -> None:
        async with self.fetch.get("https://flaky.example/") as response:
            response.raise_for_status()
        self.storage.put("done", await self.storage.get("done", 0) + 1)


class SetsTheNextFirst(SetsTheNextAtTheEnd):
    async def alarm(self, info: AlarmInfo) -> None:
        await self.storage.set_alarm(info.scheduled_for + HOUR)
        try:
            await self._work()
        except Exception:
            self.storage.put("failed", str(info.scheduled_for))


async def a_bad_hour_does_not_end_it(objects: Objects, cls: Any) -> None:
    worker = objects(cls, "w")
    objects.http.answer("https://flaky.example/", 503)
    await worker.begin()
    await objects.clock.advance("90m")
    objects.http.answer("https://flaky.example/", 200)
    await objects.clock.advance("3h")
    assert objects.storage(worker).get("done", 0) >= 2


class Drifts(DurableObject):
    async def begin(self) -> None:
        await self.storage.set_alarm(HOUR)

    async def alarm(self, info: AlarmInfo) -> None:
        await asyncio.sleep(60)
        self.storage.put("rang", [*await self.storage.get("rang", [], type=list[int]), info.scheduled_for.minute])
        await self.storage.set_alarm(HOUR)


class KeepsTime(Drifts):
    async def alarm(self, info: AlarmInfo) -> None:
        await asyncio.sleep(60)
        self.storage.put("rang", [*await self.storage.get("rang", [], type=list[int]), info.scheduled_for.minute])
        await self.storage.set_alarm(info.scheduled_for + HOUR)


async def it_rings_at_the_full_hour(objects: Objects, cls: Any) -> None:
    bell = objects(cls, "b")
    await bell.begin()
    await objects.clock.advance("5h 30m")
    assert len(set(objects.storage(bell)["rang"])) == 1


# Several objects.


class Stock(DurableObject):
    async def left(self) -> int:
        return await self.storage.get("left", 1)

    async def take(self) -> None:
        self.storage.put("left", await self.left() - 1)

    async def take_if_there(self) -> bool:
        left = await self.left()
        if left > 0:
            self.storage.put("left", left - 1)
        return left > 0


class LooksThenTakes(DurableObject):
    async def buy(self) -> bool:
        stock = self.stub(Stock, "s")
        if await stock.left() > 0:
            await stock.take()
            return True
        return False


class AsksToTake(DurableObject):
    async def buy(self) -> bool:
        return await self.stub(Stock, "s").take_if_there()


async def nothing_is_sold_twice(objects: Objects, cls: Any) -> None:
    await asyncio.gather(*(objects.attempt(objects(cls, name).buy()) for name in ("a", "b", "c")))
    assert await objects(Stock, "s").left() >= 0


class Page(DurableObject):
    async def write(self, text: str) -> None:
        await self.storage.put("text", text)

    async def read(self) -> str:
        return await self.storage.get("text", "")


class Reader(DurableObject):
    async def copy(self) -> None:
        await self.storage.put("copied", await self.stub(Page, "p").read())


class AssumesAnOrder(DurableObject):
    async def publish(self) -> None:
        written = self.stub(Page, "p").write("news")
        await self.stub(Reader, "r").copy()
        await written


class WaitsForIt(DurableObject):
    async def publish(self) -> None:
        await self.stub(Page, "p").write("news")
        await self.stub(Reader, "r").copy()


async def the_reader_has_the_news(objects: Objects, cls: Any) -> None:
    await objects(cls, "x").publish()
    assert objects.storage(objects(Reader, "r"))["copied"] == "news"


class TakesBeforeItGives(DurableObject):
    async def add(self, item: str) -> None:
        await self.storage.put(f"item:{item}", 10)
        await self.storage.set_alarm(HOUR)

    async def alarm(self, info: AlarmInfo) -> None:
        for key, amount in (await self.storage.list(prefix="item:")).items():
            await self.storage.delete(key)
            await self.storage.sync()
            await self.stub(Purse, "p").pay(amount, key)


class GivesBeforeItTakes(TakesBeforeItGives):
    async def alarm(self, info: AlarmInfo) -> None:
        for key, amount in (await self.storage.list(prefix="item:")).items():
            await self.stub(Purse, "p").pay(amount, key)
            await self.storage.delete(key)


async def every_item_arrives_once(objects: Objects, cls: Any) -> None:
    await objects(cls, "q").add("a")
    await objects.clock.advance("5h")
    conserved(objects, Purse, "balance", 10)


class CompensatesAnyTime(DurableObject):
    async def refund(self) -> None:
        if await self.storage.get("refunded", False):
            return
        await self.stub(Purse, "p").pay(5)
        await self.storage.put("refunded", True)


class CompensatesOnce(CompensatesAnyTime):
    async def refund(self) -> None:
        await self.stub(Purse, "p").pay(5, f"refund of {self.id}")
        await self.storage.put("refunded", True)


async def there_is_one_refund(objects: Objects, cls: Any) -> None:
    order = objects(cls, "o")
    await asyncio.gather(objects.attempt(order.refund()), objects.attempt(order.refund()))
    await objects.attempt(order.refund())
    await objects.attempt(order.refund())
    conserved(objects, Purse, "balance", 5)


# Halves.


class WritesTwoHalves(DurableObject):
    async def rename(self, first: str, last: str) -> None:
        await self.storage.put("first", first)
        await asyncio.sleep(0.01)
        await self.storage.put("last", last)


class WritesBothAtOnce(DurableObject):
    async def rename(self, first: str, last: str) -> None:
        await asyncio.sleep(0.01)
        self.storage.put("first", first)
        self.storage.put("last", last)


async def a_name_is_whole(objects: Objects, cls: Any) -> None:
    person = objects(cls, "p")
    await objects.attempt(person.rename("Ada", "Lovelace"))
    rows = objects.storage(person)
    assert ("first" in rows) == ("last" in rows)


class ReadsBetweenTwoHalves(DurableObject):
    async def price(self, price: int) -> None:
        await self.storage.put("price", price)

    async def order(self, article: str) -> None:
        if await self.storage.get("ordered") is None:
            self.storage.put("ordered", article)
            self.storage.put("owed", await self.storage.get("price", 0))


class ReadsBeforeBoth(ReadsBetweenTwoHalves):
    async def order(self, article: str) -> None:
        price = await self.storage.get("price", 0)
        if await self.storage.get("ordered") is None:
            self.storage.put("ordered", article)
            self.storage.put("owed", price)


async def what_is_ordered_is_owed(objects: Objects, cls: Any) -> None:
    desk = objects(cls, "d")
    await desk.price(3)
    await objects.attempt(desk.order("tea"))
    rows = objects.storage(desk)
    assert ("ordered" in rows) == ("owed" in rows)


class WritesThenRefuses(DurableObject):
    async def spend(self, amount: int) -> None:
        left = await self.storage.get("left", 10) - amount
        await self.storage.put("left", left)
        if left < 0:
            raise ValueError("too little")


class RefusesInATransaction(DurableObject):
    async def spend(self, amount: int) -> None:
        async with self.storage.transaction() as txn:
            left = await txn.get("left", 10) - amount
            await txn.put("left", left)
            if left < 0:
                raise ValueError("too little")


async def a_refused_payment_costs_nothing(objects: Objects, cls: Any) -> None:
    purse = objects(cls, "p")
    for _ in range(2):
        try:
            await purse.spend(6)
        except ValueError:
            pass
    assert objects.storage(purse)["left"] == 4


class TellsOthersFromATransaction(DurableObject):
    async def order(self, amount: int) -> None:
        async with self.storage.transaction() as txn:
            await txn.put("ordered", amount)
            await self.stub(Purse, "p").pay(amount, "order")
            if amount > 10:
                raise ValueError("too much")


class ChecksBeforeItTells(DurableObject):
    async def order(self, amount: int) -> None:
        if amount > 10:
            raise ValueError("too much")
        self.storage.put("ordered", amount)
        await self.stub(Purse, "p").pay(amount, "order")


async def a_refused_order_is_not_paid(objects: Objects, cls: Any) -> None:
    try:
        await objects(cls, "o").order(20)
    except ValueError:
        pass
    assert await objects(Purse, "p").balance() == 0


# Memory and alarms that are taken for more than they are.


class KnowsOrdersInMemory(DurableObject):
    def __init__(self) -> None:
        self.known: set[str] = set()

    async def order(self, number: str) -> None:
        if number not in self.known:
            self.known.add(number)
            self.storage.put("orders", await self.storage.get("orders", 0) + 1)


class KnowsOrdersInStorage(DurableObject):
    async def order(self, number: str) -> None:
        orders = await self.storage.get("orders", 0)
        if await self.storage.get(f"known:{number}") is None:
            self.storage.put(f"known:{number}", True)
            self.storage.put("orders", orders + 1)


async def an_order_that_is_asked_for_again_is_one(objects: Objects, cls: Any) -> None:
    desk = objects(cls, "d")
    for _ in range(3):
        await objects.attempt(desk.order("seven"))
    assert objects.storage(desk)["orders"] == 1


class StaysBusy(DurableObject):
    busy = False

    async def clean(self) -> bool:
        if self.busy:
            return False
        self.busy = True
        await self.stub(Purse, "p").pay(1, f"{self.id}")
        self.busy = False
        return True


class IsBusyAsLongAsItIs(StaysBusy):
    async def clean(self) -> bool:
        if self.busy:
            return False
        self.busy = True
        try:
            await self.stub(Purse, "p").pay(1, f"{self.id}")
        finally:
            self.busy = False
        return True


async def it_cleans_again_after_a_trouble(objects: Objects, cls: Any) -> None:
    cleaner = objects(cls, "a")  # On another worker than who is paid.
    await objects.attempt(cleaner.clean())
    await objects.clock.advance("1s")
    assert await objects.attempt(cleaner.clean()) is not False


class OneAlarmForAll(DurableObject):
    async def remind(self, text: str, hours: int) -> None:
        await self.storage.put(f"due:{hours:04}", text)
        await self.storage.set_alarm(hours * HOUR)

    async def alarm(self, info: AlarmInfo) -> None:
        due = await self.storage.list(prefix="due:", limit=1)
        for key, text in due.items():
            self.storage.put("told", [*await self.storage.get("told", [], type=list[str]), text])
            self.storage.delete(key)


class TheNextAlarmOfAll(OneAlarmForAll):
    async def remind(self, text: str, hours: int) -> None:
        async with self.storage.transaction():
            now = await self.storage.get("first", datetime.datetime.now(datetime.UTC), type=datetime.datetime)
            self.storage.put("first", now)
            self.storage.put(f"due:{hours:04}", text)
            await self._next(now)

    async def alarm(self, info: AlarmInfo) -> None:
        async with self.storage.transaction():
            await super().alarm(info)
            await self._next(await self.storage.get("first", info.scheduled_for, type=datetime.datetime))

    async def _next(self, first: datetime.datetime) -> None:
        for key in await self.storage.list(prefix="due:", limit=1):
            await self.storage.set_alarm(first + int(key[4:]) * HOUR)


async def all_are_reminded_of(objects: Objects, cls: Any) -> None:
    notes = objects(cls, "n")
    await notes.remind("tea", 1)
    await notes.remind("bed", 9)
    await objects.clock.advance("24h")
    assert objects.storage(notes).get("told") == ["tea", "bed"]


CATALOGUE = [
    Planted("an await between reading and writing", ReadsThenWaits, WaitsInASection, takes_are_unique),
    Planted("two calls of one event", TakesTwoAtOnce, TakesTwoInOneStep, two_differ),
    Planted("a transfer that is not written down", PaysStraight, PaysByOrder, no_money_is_lost),
    Planted("a transfer that arrives twice", PaysByOrderWithoutNumbers, PaysByOrder, no_money_is_lost),
    Planted("a write after the reply", WritesLater, WritesFirst, what_was_noted_is_there),
    Planted("an unconfirmed write that matters", SendsUnconfirmed, SendsConfirmed, each_number_is_sent_once),
    Planted("a count in memory", CountsInMemory, CountsInStorage, takes_go_on),
    Planted("a cached value that is not renewed", CachesForEver, CachesWhatItWrites, the_newest_price_is_told),
    Planted("numbers that begin anew", NumbersInInit, NumbersOnStart, nothing_is_overwritten),
    Planted("state of a module", SharesAModule, CountsInStorage, each_counts_for_itself),
    Planted("a bonus at each start", BonusAtEachStart, BonusOnce, there_is_one_bonus),
    Planted("a timer for what must happen", RemindsByTimer, RemindsByAlarm, it_is_reminded),
    Planted("an alarm that is not idempotent", Wages, NumberedWages, wages_are_paid_once),
    Planted("a set alarm lost by an exception", SetsTheNextAtTheEnd, SetsTheNextFirst, a_bad_hour_does_not_end_it),
    Planted("a schedule that drifts", Drifts, KeepsTime, it_rings_at_the_full_hour),
    Planted("a look before a step", LooksThenTakes, AsksToTake, nothing_is_sold_twice),
    Planted("an order assumed across objects", AssumesAnOrder, WaitsForIt, the_reader_has_the_news),
    Planted("taken before it is given", TakesBeforeItGives, GivesBeforeItTakes, every_item_arrives_once),
    Planted("a saga that compensates twice", CompensatesAnyTime, CompensatesOnce, there_is_one_refund),
    Planted("two halves with an await between", WritesTwoHalves, WritesBothAtOnce, a_name_is_whole),
    Planted("a read from disk between two halves", ReadsBetweenTwoHalves, ReadsBeforeBoth, what_is_ordered_is_owed),
    Planted("a write before a refusal", WritesThenRefuses, RefusesInATransaction, a_refused_payment_costs_nothing),
    Planted("a message out of a transaction", TellsOthersFromATransaction, ChecksBeforeItTells, a_refused_order_is_not_paid),
    Planted("orders that only memory knows", KnowsOrdersInMemory, KnowsOrdersInStorage, an_order_that_is_asked_for_again_is_one),
    Planted("a flag that an error leaves set", StaysBusy, IsBusyAsLongAsItIs, it_cleans_again_after_a_trouble),
    Planted("one alarm for several things", OneAlarmForAll, TheNextAlarmOfAll, all_are_reminded_of),
]
