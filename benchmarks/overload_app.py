"""What the overload benchmark calls: answers and arguments of any size, work of any length."""

from __future__ import annotations

import time

from tidegate import DurableObject


class Bulk(DurableObject):
    async def give(self, size: int) -> bytes:
        """So many bytes."""
        return bytes(size)

    async def take(self, data: bytes) -> int:
        """How many bytes that were."""
        return len(data)

    async def number(self) -> int:
        """The next one, durable."""
        value: int = await self.storage.get("number", 0)
        await self.storage.put("number", value + 1)
        return value

    async def work(self, ms: float) -> float:
        """Keeps the worker's core busy for so long. Answers when that began, on the machine's clock."""
        began_s = time.monotonic()
        while time.monotonic() < began_s + ms / 1_000:
            pass
        return began_s
