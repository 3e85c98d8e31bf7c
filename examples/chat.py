"""Chat rooms with a history: one object is one room.

    tidegate serve examples/chat.py
    tidegate call Room lobby post '"alice"' '"hello"'
    tidegate call Room lobby history

The key of a message is its number with leading zeros, so the order of the keys is the order of the messages, and a page of the
history is one `list` of a key range: the newest first with `reverse`, any older page with `end`.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

from tidegate import DurableObject

PAGE_MAX = 100
KEPT = 10_000
TEXT_MAX = 2_000


def key_of(number: int) -> str:
    return f"message/{number:012d}"


class Room(DurableObject):
    async def on_start(self) -> None:
        self.next: int = await self.storage.get("next", 0)
        self.posted = asyncio.Event()  # Lives in memory, as everything that may be forgotten.

    async def post(self, author: str, text: str) -> int:
        """The number of the message. When it is answered the message is on disk, and every reader sees it."""
        if not 0 < len(text) <= TEXT_MAX:
            raise ValueError(f"a message has 1 to {TEXT_MAX} characters")
        number, self.next = self.next, self.next + 1
        message = {"number": number, "author": author, "text": text, "at": datetime.now(UTC)}
        self.storage.put_many({"next": self.next, key_of(number): message})
        if number >= KEPT:
            self.storage.delete(key_of(number - KEPT))
        self.posted.set()
        self.posted = asyncio.Event()
        return number

    async def history(self, limit: int = 20, before: int | None = None) -> list[dict[str, Any]]:
        """The newest messages, or those before a number, oldest first."""
        end = None if before is None else key_of(max(before, 0))
        page = await self.storage.list(prefix="message/", end=end, reverse=True, limit=min(max(limit, 1), PAGE_MAX))
        return list(page.values())[::-1]

    async def wait(self, after: int, seconds: float = 20.0) -> list[dict[str, Any]]:
        """Messages after a number; if there are none yet, the next one. Empty when nothing was posted in time."""
        if self.next <= after + 1:
            try:
                async with asyncio.timeout(seconds):
                    await self.posted.wait()  # Others are served meanwhile.
            except TimeoutError:
                return []
        return list((await self.storage.list(prefix="message/", start_after=key_of(after), limit=PAGE_MAX)).values())
