"""Objects for services whose logs other machines keep."""

import sys
from datetime import timedelta

from tidegate import DurableObject


class Till(DurableObject):
    async def add(self, amount: int = 1) -> int:
        value: int = await self.storage.get("value", 0) + amount
        await self.storage.put("value", value)
        return value

    async def read(self) -> int:
        value: int = await self.storage.get("value", 0)
        return value

    async def add_to(self, other: str, amount: int) -> list[int]:
        """Here and there, and what is read there then."""
        there = self.stub(Till, other)
        return [await self.add(amount), await there.add(amount), await there.read()]

    async def remind(self, after_s: float) -> float | None:
        """Unix time."""
        await self.storage.set_alarm(timedelta(seconds=after_s))
        return await self.reminds_at()

    async def reminds_at(self) -> float | None:
        alarm = await self.storage.get_alarm()
        return None if alarm is None else alarm.timestamp()

    async def alarm(self, info: object) -> None:
        await self.add(100)

    async def knows_clusters(self) -> list[str]:
        return sorted({"nats", "tidegate.shard.worker.worker_shards", "tidegate.shard.replicated"} & sys.modules.keys())
