"""Calls that code of objects makes vanish: nobody would ever answer them."""

from __future__ import annotations

import asyncio
from typing import Any

from tidegate import DurableObject


class Vanishing(DurableObject):
    async def vanish(self) -> None:
        """Takes from its own task what the worker knows of the call."""
        task: Any = asyncio.current_task()
        await asyncio.sleep(0)
        task.call = None

    async def take_long(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    async def call_another(self, name: str) -> str:
        try:
            await self.stub(Vanishing, name).vanish()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "answered"
