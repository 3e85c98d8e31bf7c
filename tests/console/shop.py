"""A shop whose console is looked at: busy, slow, failing and broken objects of three classes."""

from __future__ import annotations

import asyncio
import datetime
import os

from tidegate import DurableObject


class Cart(DurableObject):
    async def add(self, item: str, count: int = 1) -> int:
        now = await self.storage.get(f"item/{item}", 0)
        await self.storage.put(f"item/{item}", now + count)
        return now + count

    async def check_out(self, card: str) -> str:
        raise PaymentRefused(f"the bank refuses card {card}")

    async def ponder(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def remember_many(self, key: str, value: str, count: int) -> None:
        await self.storage.put(key, value * count)

    async def remember(self, key: str, value: object) -> None:
        await self.storage.put(key, value)


class Invoice(DurableObject):
    async def render(self, pages: int) -> int:
        """Waits for a printer, with the gate closed for others."""
        async with self.block_concurrency():
            await asyncio.sleep(0.12 * pages)
        await self.storage.put("pages", pages)
        return pages

    async def remind_in(self, days: float) -> None:
        await self.storage.put("customer", self.id.name)
        await self.storage.set_alarm(datetime.timedelta(days=days))

    async def alarm(self, info: object) -> None:
        await self.storage.delete("customer")


class Printer(DurableObject):
    async def jam(self) -> None:
        os._exit(3)


class PaymentRefused(Exception):
    pass
