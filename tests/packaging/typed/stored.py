"""What a user's type checker says about storage. A line that ends in `# wrong` must be reported by each checker, no other may."""

import datetime
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_type

import msgspec

from tidegate import AlarmInfo, DurableObject, ObjectId, Storage, Transaction


@dataclass
class Line:
    text: str


class Order(msgspec.Struct):
    lines: list[Line]


Positive = Annotated[int, msgspec.Meta(ge=0)]
Colour = Literal["red", "green"]


class Desk(DurableObject):
    async def counter(self) -> int:
        value = await self.storage.get("counter", 0)
        assert_type(value, int)
        await self.storage.put("counter", value + 1)
        return value

    async def text(self) -> str:
        return await self.storage.get("counter", 0)  # wrong

    async def typed(self) -> Order:
        order = await self.storage.get("order", type=Order)
        assert_type(order, Order | None)
        print(order.lines)  # wrong
        lines = await self.storage.get("lines", [], type=list[Line])
        assert_type(lines, list[Line])
        never = await self.storage.get("order", 0, type=Order)
        assert_type(never, Order | int)
        wanted: list[str] = await self.storage.get("names", [])
        assert_type(await self.storage.get("anything"), Any)
        assert_type(await self.storage.get("anything", None), Any)
        assert_type(await self.storage.get("n", 0, allow_concurrency=True, no_cache=True), int)
        either: int | str | None = await self.storage.get("either", type=int | str)
        positive: int = await self.storage.get("positive", 0, type=Positive)
        colour: Colour | None = await self.storage.get("colour", type=Colour)
        unfit: str = await self.storage.get("positive", 0, type=Positive)  # wrong
        print(wanted, either, positive, colour, unfit)
        return order or Order(lines)

    async def several(self, storage: Storage) -> dict[str, int]:
        assert_type(await storage.get_many(["a", "b"], type=int), dict[str, int])
        assert_type(await storage.get_many({"a"}), dict[str, Any])
        assert_type(await storage.list(prefix="a", reverse=True, limit=3, type=Order), dict[str, Order])
        assert_type(await storage.list(start_after="a", end="b"), dict[str, Any])
        await storage.get_many([1])  # wrong
        await storage.list(limit="3")  # wrong
        await storage.list(begin="a")  # wrong
        return await storage.list(type=str)  # wrong

    async def writes(self, storage: Storage) -> int:
        assert_type(await storage.put("a", 1, allow_unconfirmed=True), None)
        await storage.put(1, "a")  # wrong
        await storage.put("a", 1, confirmed=False)  # wrong
        await storage.put_many({"a": 1, "b": [Line("x")]})
        await storage.put_many([("a", 1)])  # wrong
        assert_type(await storage.delete("a"), bool)
        assert_type(await storage.delete_many(["a", "b"]), int)
        await storage.delete_all(no_cache=True)  # wrong
        await storage.sync()
        storage.put_all({})  # wrong
        return await storage.delete_many(keys=["a"], no_cache=True)

    async def in_transaction(self) -> int:
        async with self.storage.transaction() as txn:
            assert_type(txn, Transaction)
            assert_type(await txn.get("a", 0), int)
            assert_type(await txn.get("a", type=Order), Order | None)
            assert_type(await txn.get_many(["a"], type=Order), dict[str, Order])
            assert_type(await txn.list(prefix="a", type=Order), dict[str, Order])
            assert_type(await txn.delete("a", allow_unconfirmed=True), bool)
            await txn.put("a")  # wrong
            await txn.put("a", 1, not_an_option=True)  # wrong
            await txn.list("a")  # wrong
            txn.roll_back()  # wrong
            txn.rollback()
        return await txn.get("a", "none")  # wrong

    async def alarm(self, info: AlarmInfo) -> None:
        assert_type(info.scheduled_for, datetime.datetime)
        assert_type(await self.storage.get_alarm(), datetime.datetime | None)
        await self.storage.set_alarm(datetime.timedelta(hours=1), allow_unconfirmed=True)
        await self.storage.set_alarm(1_800_000_000)
        await self.storage.set_alarm("tomorrow")  # wrong
        print(info.scheduled_at)  # wrong

    async def others(self) -> str:
        desk = self.stub(Desk, "other")
        assert_type(desk, Desk)
        assert_type(await desk.counter(), int)
        await desk.count()  # wrong
        await desk.counter(1)  # wrong
        later: Awaitable[int] = desk.counter()
        task = self.spawn(desk.counter())
        assert_type(await task, int)
        assert_type(self.id, ObjectId)
        async with self.block_concurrency():
            await later
        self.abort("enough")
