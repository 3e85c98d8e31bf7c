"""Objects that call each other."""

import os

from tidegate import DurableObject


class Traced(DurableObject):
    async def pid(self) -> int:
        return os.getpid()

    async def add(self) -> int:
        count: int = await self.storage.get("count", 0)
        await self.storage.put("count", count + 1)
        return count

    async def ask(self, other: str) -> int:
        return await self.stub(Traced, other).add()
