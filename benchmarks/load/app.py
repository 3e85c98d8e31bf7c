"""The object classes that the workloads call: each does one thing that real objects do, and answers what can be checked."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import logging
from zlib import crc32

from tidegate import AlarmInfo, DurableObject


class Counter(DurableObject):
    """Read, add one, write back; as in examples/counter.py."""

    async def get_unique_number(self) -> int:
        value: int = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1)
        return value

    async def get_unconfirmed_number(self) -> int:
        """The same, but the answer does not wait for the disk."""
        value: int = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1, allow_unconfirmed=True)
        return value

    async def current(self) -> int:
        value: int = await self.storage.get("counter", 0)
        return value


_calls = itertools.count()
_log = logging.getLogger(__name__)


class Logging(Counter):
    """Writes a line of the log for one call in a hundred, whichever object it is to."""

    async def get_unique_number(self) -> int:
        value: int = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1)
        if next(_calls) % 100 == 0:
            _log.info("order %d is stored", value)
        return value


class Chatty(Counter):
    """The same for one in ten."""

    async def get_unique_number(self) -> int:
        value: int = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1)
        if next(_calls) % 10 == 0:
            _log.info("order %d is stored", value)
        return value


class Record(DurableObject):
    """A counter that carries a kilobyte, so that many of them do not fit in a small cache."""

    async def get_unique_number(self) -> int:
        value: list[object] = await self.storage.get("record", [0, ""])
        number = value[0]
        assert isinstance(number, int)
        await self.storage.put("record", [number + 1, "x" * 1_000])
        return number


class Account(DurableObject):
    """A counter beside data that nobody asks for."""

    async def fill(self, size: int) -> int:
        """So many bytes, in four rows; what the counter was."""
        count: int = await self.storage.get("count", 0)
        await self.storage.put_many({"count": count + 1, **{f"data-{part}": bytes(size // 4) for part in range(4)}})
        return count

    async def get_unique_number(self) -> int:
        count: int = await self.storage.get("count", 0)
        await self.storage.put("count", count + 1)
        return count

    async def current(self) -> int:
        count: int = await self.storage.get("count", 0)
        return count


class Blob(DurableObject):
    """One large value."""

    async def replace(self, data: bytes) -> int:
        """The checksum of what was there before."""
        old: bytes = await self.storage.get("data", b"")
        await self.storage.put("data", data)
        return crc32(old)


class Fan(DurableObject):
    """Asks four counters of its own at once."""

    async def get_numbers(self) -> int:
        counters = [self.stub(Counter, f"{self.id.name}/{index}") for index in range(4)]
        numbers = await asyncio.gather(*(counter.get_unique_number() for counter in counters))
        if len(set(numbers)) > 1:
            raise ValueError(f"the counters were not called in order: {numbers}")
        return numbers[0]


class Shelf(DurableObject):
    """A hundred keys, of which pages are listed."""

    async def fill(self) -> int:
        await self.storage.put_many({f"item-{index:03d}": index for index in range(100)})
        return 100

    async def page(self) -> list[int]:
        items: dict[str, int] = await self.storage.list(start="item-040", limit=20)
        return list(items.values())


class Sleeper(DurableObject):
    """Sets its alarm to now and answers when it has rung."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def wake(self, turn: int) -> int:
        rung = asyncio.get_running_loop().create_future()
        self.waiting.append(rung)
        await self.storage.set_alarm(datetime.timedelta(0))
        await rung
        return turn

    async def alarm(self, info: AlarmInfo) -> None:
        waiting, self.waiting = self.waiting, []
        self.storage.put("rings", await self.storage.get("rings", 0) + 1)
        for rung in waiting:
            if not rung.done():
                rung.set_result(None)
