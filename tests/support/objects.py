"""Objects that several test files call, and how a test tells them to go on."""

from __future__ import annotations

import asyncio
from typing import Any

from tidegate.shard.objects.object import DurableObject

CONTROL: dict[str, asyncio.Future[Any]] = {}
LOG: list[Any] = []
MIB = 1 << 20


def control(name: str) -> asyncio.Future[Any]:
    """What the test completes and object code waits for."""
    future = CONTROL[name] = asyncio.get_running_loop().create_future()
    return future


async def until(name: str) -> Any:
    return await asyncio.shield(CONTROL[name])


class Counter(DurableObject):
    value: int | None = None

    async def plain(self) -> int:
        value: int = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1)
        return value

    async def in_transaction(self) -> int:
        async with self.storage.transaction() as txn:
            value: int = await txn.get("counter", 0)
            await asyncio.sleep(0)
            await txn.put("counter", value + 1)
        return value

    async def in_memory(self) -> int:
        if self.value is None:
            self.value = await self.storage.get("counter", 0)
        value = self.value
        self.value += 1
        self.storage.put("counter", self.value)
        return value

    async def after_a_while(self) -> int:
        await asyncio.sleep(0.001)
        return await self.plain()

    async def in_section(self) -> int:
        async with self.block_concurrency():
            value: int = await self.storage.get("counter", 0)
            await asyncio.sleep(0)
            await self.storage.put("counter", value + 1)
        return value


FORMS = ["plain", "in_transaction", "in_memory", "after_a_while", "in_section"]


class Thing(DurableObject):
    async def put(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)

    async def put_unawaited(self, key: str, value: Any) -> str:
        self.storage.put(key, value)
        return "put"

    async def put_unconfirmed(self, key: str, value: Any) -> str:
        self.storage.put(key, value, allow_unconfirmed=True)
        return "put"

    async def put_nothing(self) -> str:
        return "nothing"

    async def put_and_raise(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)
        raise ValueError("after the write")

    async def put_then_wait(self, key: str, value: Any) -> str:
        self.storage.put(key, value)
        await until("wait")
        return "waited"

    async def put_and_sync(self, key: str, value: Any) -> str:
        self.storage.put(key, value)
        await self.storage.sync()
        LOG.append("synced")
        return "synced"

    async def get(self, key: str) -> Any:
        return await self.storage.get(key)

    async def list(self) -> dict[str, Any]:
        return await self.storage.list()

    async def put_large(self, mebibytes: int) -> None:
        for number in range(mebibytes):
            self.storage.put(f"large{number}", b"x" * (MIB - 100))

    async def wait(self, name: str = "wait") -> str:
        await until(name)
        return "waited"

    async def log(self, text: str) -> None:
        LOG.append(text)

    async def put_many_turns(self, count: int) -> None:
        for number in range(count):
            await self.storage.put("n", number)

    async def memory(self) -> int:
        self.calls = getattr(self, "calls", 0) + 1
        return self.calls

    async def abort_after_put(self, key: str) -> None:
        self.storage.put(key, "aborted")
        self.abort("enough")
