"""Opens descriptors and keeps them."""

from __future__ import annotations

import os

from tidegate import DurableObject

KEPT: list[int] = []


class Hoarder(DurableObject):
    async def hoard(self, leave: int) -> int:
        try:
            while True:
                KEPT.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            for _ in range(leave):
                os.close(KEPT.pop())
        return len(KEPT)

    async def let_go(self) -> None:
        while KEPT:
            os.close(KEPT.pop())

    async def ping(self) -> str:
        return "pong"
