"""Methods that take longer than their callers want to wait."""

import asyncio
import time

from tidegate import DurableObject


class Sluggish(DurableObject):
    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "late"

    async def block(self, seconds: float) -> str:
        """Nobody else of this worker runs meanwhile."""
        time.sleep(seconds)  # noqa: ASYNC251  # on purpose
        return "late"

    async def hold(self, seconds: float) -> None:
        async with self.block_concurrency():
            await asyncio.sleep(seconds)

    async def add(self, number: int) -> int:
        total: int = await self.storage.get("total", 0) + number
        await self.storage.put("total", total)
        return total
