"""The app whose callers are among strangers."""

from __future__ import annotations

import dataclasses

from tidegate import DurableObject


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Echo(DurableObject):
    async def echo(self, value: object) -> object:
        return value

    async def add(self, number: int) -> int:
        total: int = await self.storage.get("total", 0) + number
        await self.storage.put("total", total % 1_000)
        return total

    async def point(self, at: Point, *more: Point) -> int:
        return at.x + len(more)
