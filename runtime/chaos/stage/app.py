"""The objects of the service that chaos drives. `models` says what they do to their state, in other words.

Written in the plain way in which a user would; nothing here helps against crashes.
"""

from __future__ import annotations

from typing import Any

from tidegate import CallError, DurableObject


class Counter(DurableObject):
    """Numbers from 0, each once."""

    async def take(self) -> int:
        value: int = await self.storage.get("next", 0)
        await self.storage.put("next", value + 1)
        return value

    async def read(self) -> int:
        value: int = await self.storage.get("next", 0)
        return value


class Register(DurableObject):
    """One value, kept in memory, too."""

    async def on_start(self) -> None:
        self.value: int = await self.storage.get("value", 0)

    async def swap(self, value: int) -> int:
        before, self.value = self.value, value
        self.storage.put("value", value)
        return before

    async def compare_and_swap(self, expected: int, value: int) -> bool:
        if self.value != expected:
            return False
        await self.swap(value)
        return True

    async def read(self) -> int:
        return self.value


class Shelf(DurableObject):
    """A few places, each with a value or none."""

    async def put(self, place: str, value: int) -> int | None:
        before: int | None = await self.storage.get(place)
        await self.storage.put(place, value)
        return before

    async def take(self, place: str) -> int:
        """Raises KeyError if nothing is there."""
        value: int | None = await self.storage.get(place)
        if value is None:
            raise KeyError(place)
        await self.storage.delete(place)
        return value

    async def exchange(self, one: str, other: str) -> list[int | None]:
        """What was there before."""
        async with self.storage.transaction() as txn:
            values = [await txn.get(one), await txn.get(other)]
            for place, value in zip((other, one), values, strict=True):
                if value is None:
                    await txn.delete(place)
                else:
                    await txn.put(place, value)
        return values

    async def read(self) -> dict[str, int]:
        return await self.storage.list()


class Bulk(DurableObject):
    """One value that takes as much room as it is told."""

    async def write(self, value: int, size_bytes: int) -> int:
        before: int = await self.storage.get("value", 0)
        await self.storage.put_many({"value": value, "room": bytes([value % 251 + 1]) * size_bytes})
        return before

    async def read(self) -> int:
        """Raises RuntimeError if value and room are not of one write."""
        value: int = await self.storage.get("value", 0)
        room: bytes = await self.storage.get("room", b"")
        if room.strip(bytes([value % 251 + 1])):
            raise RuntimeError("half of a write")
        return value


class Account(DurableObject):
    """Money that is sent from one to another. Each sum that has left is in doubt until its receiver has said that it came."""

    async def transfer(self, to: str, amount: int) -> bool:
        """Whether the money has arrived."""
        balance = await self._balance()
        if balance < amount:
            return False
        number: int = await self.storage.get(f"sent/{to}", 0) + 1
        await self.storage.put_many({"balance": balance - amount, f"sent/{to}": number, f"doubt/{to}/{number}": amount})
        try:
            await self.stub(Account, to).deposit(self.id.name, number, amount)
        except CallError as error:
            if error.outcome == "not_executed":
                balance = await self._balance()
                self.storage.put("balance", balance + amount)
                await self.storage.delete(f"doubt/{to}/{number}")
            return False
        await self.storage.delete(f"doubt/{to}/{number}")
        return True

    async def pay(self, to: str, amount: int) -> int:
        """The same for calls with keys, which may be repeated: it asks first and writes last. The balance afterwards; there is
        credit."""
        await self.stub(Account, to).receive(amount)
        balance = await self._balance() - amount
        await self.storage.put("balance", balance)
        return balance

    async def receive(self, amount: int) -> None:
        await self.storage.put("balance", await self._balance() + amount)

    async def deposit(self, sender: str, number: int, amount: int) -> None:
        """All reads before the first write: one that waits for the disk would part the writes before it from those behind."""
        balance = await self._balance()
        last: int = await self.storage.get(f"last/{sender}", 0)
        missing: list[int] = await self.storage.get(f"missing/{sender}", [])
        repeated: int = await self.storage.get("repeated", 0)
        if number > last:
            missing += range(last + 1, number)
            last = number
        elif number in missing:
            missing.remove(number)
        else:
            repeated += 1
        books = {"balance": balance + amount, f"last/{sender}": last, f"missing/{sender}": missing, "repeated": repeated}
        await self.storage.put_many(books)

    async def books(self) -> dict[str, Any]:
        rows = await self.storage.list()
        return {"balance": await self._balance(), **rows}

    async def _balance(self) -> int:
        balance: int = await self.storage.get("balance", 1_000)
        return balance
