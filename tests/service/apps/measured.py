"""Objects that do a little of everything that is measured."""

import asyncio
import datetime

from tidegate import AlarmInfo, DurableObject


class Shop(DurableObject):
    async def sell(self) -> int:
        stock: int = await self.storage.get("stock", 100)
        self.storage.put("stock", stock - 1)
        return stock

    async def look(self) -> int:
        stock: int = await self.storage.get("stock", 100)
        return stock

    async def fail(self) -> None:
        raise ValueError("sold out")

    async def alone(self) -> None:
        async with self.block_concurrency():
            await asyncio.sleep(0.01)

    async def remind(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(0))

    async def alarm(self, info: AlarmInfo) -> None:
        pass


class Idle(DurableObject):
    async def look(self) -> int:
        return 0
