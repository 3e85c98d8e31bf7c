"""A counter that never gives a number twice, in the four ways one would naturally write it.

    tidegate serve examples/counter.py
    tidegate call Counter alice get_unique_number

All four return unique numbers without gaps under any concurrency and any crash.
"""

from tidegate import DurableObject, readonly


class Counter(DurableObject):
    """Read, add one, write back."""

    async def get_unique_number(self) -> int:
        value: int = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1)
        return value

    @readonly
    async def current(self) -> int:
        """The next number, without taking it."""
        value: int = await self.storage.get("counter", 0)
        return value


class TransactionCounter(DurableObject):
    """The same inside a transaction."""

    async def get_unique_number(self) -> int:
        async with self.storage.transaction() as txn:
            value: int = await txn.get("counter", 0)
            await txn.put("counter", value + 1)
        return value


class MemoryCounter(DurableObject):
    """The value lives in memory, is loaded on first use, and the write is not even awaited: the reply waits for it anyway."""

    value: int | None = None

    async def get_unique_number(self) -> int:
        if self.value is None:
            self.value = await self.storage.get("counter", 0)
        value: int = self.value
        self.value += 1
        self.storage.put("counter", self.value)
        return value


class StartedCounter(DurableObject):
    """The value is loaded before the first call arrives, after however many evictions."""

    async def on_start(self) -> None:
        self.value: int = await self.storage.get("counter", 0)

    async def get_unique_number(self) -> int:
        self.value += 1
        self.storage.put("counter", self.value)
        return self.value - 1
