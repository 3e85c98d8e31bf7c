"""Objects that offload work to other processes."""

import asyncio
import os
import time

from tidegate import DurableObject


def burn(seconds: float) -> float:
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        pass
    return seconds


def pid() -> int:
    return os.getpid()


def niceness() -> int:
    return os.nice(0)


def fail(text: str) -> None:
    raise LookupError(text)


def end() -> None:
    os._exit(7)


def forever() -> None:
    time.sleep(600)


class Offloads(DurableObject):
    async def burn(self, seconds: float) -> float:
        return await self.offload(burn, seconds)

    async def pid(self) -> int:
        return await self.offload(pid)

    async def niceness(self) -> int:
        return await self.offload(niceness)

    async def fail(self) -> None:
        await self.offload(fail, "no such thing")

    async def unsendable(self) -> None:
        await self.offload(lambda: 1)

    async def end(self) -> None:
        await self.offload(end)

    async def forever(self) -> None:
        await self.offload(forever)

    async def in_section(self) -> list[str]:
        """What happened, in order: the result comes back only when the section is over."""
        seen: list[str] = []

        async def offloaded() -> None:
            await self.offload(burn, 0.05)
            seen.append("result")

        task = self.spawn(offloaded())
        await asyncio.sleep(0)
        async with self.block_concurrency():
            await self.offload(burn, 0.3)
            seen.append("section")
        await task
        return seen

    async def reset(self) -> None:
        self.spawn(self.forever())
        await asyncio.sleep(0.2)
        self.abort("enough")

    async def hello(self) -> str:
        return "hello"
