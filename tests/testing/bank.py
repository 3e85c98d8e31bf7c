"""Objects of an app that the toolkit's own tests test."""

from __future__ import annotations

import asyncio
import datetime
import time

import aiohttp

from tidegate import AlarmInfo, DurableObject


class Account(DurableObject):
    started = 0

    async def on_start(self) -> None:
        self.started += 1

    async def deposit(self, amount: int) -> int:
        balance = await self.storage.get("balance", 0) + amount
        self.storage.put("balance", balance)
        return balance

    async def pay(self, to: str, amount: int) -> int:
        """Loses the money where the worker dies between the two."""
        left = await self.deposit(-amount)
        await self.storage.sync()
        await self.stub(Account, to).deposit(amount)
        return left

    async def pay_at_once(self, amount: int) -> None:
        async with self.storage.transaction() as txn:
            await txn.put("balance", await txn.get("balance", 0) - amount)

    async def refuse(self) -> None:
        raise ValueError("no credit")

    async def wait(self, seconds: float) -> float:
        before = time.monotonic()
        await asyncio.sleep(seconds)
        return time.monotonic() - before

    async def never(self) -> None:
        await asyncio.Event().wait()

    async def ask_audit(self, name: str) -> str:
        answer: str = await self.stub("Audit", name).look()
        return answer


class Audit(DurableObject):
    """Nobody but an account calls it, by its name."""

    async def look(self) -> str:
        return "fine"


class Reminder(DurableObject):
    async def every(self, hours: float) -> None:
        self.storage.put("hours", hours)
        await self._again()

    async def _again(self) -> None:
        hours = await self.storage.get("hours", 1.0)
        await self.storage.set_alarm(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours))

    async def once(self, seconds: float) -> None:
        await self.storage.set_alarm(datetime.timedelta(seconds=seconds))

    async def alarm(self, info: AlarmInfo) -> None:
        seen = await self.storage.get("rang", [], type=list[str])
        await self.storage.put("rang", [*seen, f"{info.scheduled_for:%m-%d %H:%M} {datetime.datetime.now(datetime.UTC):%H:%M}"])
        if await self.storage.get("hours") is not None:
            await self._again()


class Shop(DurableObject):
    async def price(self, url: str) -> object:
        self.storage.put("asked", url)
        async with self.fetch.get(url) as response:
            response.raise_for_status()
            return await response.json()

    async def order(self, url: str, article: str) -> int:
        async with aiohttp.ClientSession() as session, session.post(url, json={"article": article}) as response:
            return response.status

    async def by_hand(self) -> str:
        import socket

        with socket.socket() as sock:
            sock.connect(("127.0.0.1", 9))
        return "connected"
