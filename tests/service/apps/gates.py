"""Objects that test_gates.py and test_slow_disk.py ask to do things around their gates."""

import asyncio
import time
from typing import Any

from tidegate import DurableObject


class Counter(DurableObject):
    async def after_request(self, url: str) -> int:
        """A read-modify-write after an HTTP request."""
        async with self.fetch.get(url) as answer:
            await answer.text()
        return await self.next()

    async def next(self) -> int:
        value: int = await self.storage.get("n", 0)
        await self.storage.put("n", value + 1)
        return value

    async def next_waiting(self) -> int:
        """Waits for something else than storage between its read and its write."""
        value: int = await self.storage.get("n", 0)
        await asyncio.sleep(0)
        await self.storage.put("n", value + 1)
        return value

    async def next_guarded(self) -> int:
        async with self.block_concurrency():
            return await self.next_waiting()

    async def gathered(self, method: str, times: int) -> list[int]:
        return await asyncio.gather(*(getattr(self, method)() for _ in range(times)))

    async def current(self) -> int:
        return await self.storage.get("n", 0)


class Witnessing(DurableObject):
    """Remembers the calls it gets, in order."""

    async def note(self, what: Any) -> None:
        what_came = await self.storage.get("came", [])
        await self.storage.put("came", [*what_came, what])

    async def came(self) -> list[Any]:
        return await self.storage.get("came", [])

    async def when(self) -> float:
        return time.monotonic()


class Sender(DurableObject):
    async def send_all(self, target: str, count: int) -> None:
        """Calls through one stub, of which none is awaited before the last has been made."""
        stub = self.stub(Witnessing, target)
        await asyncio.gather(*(stub.note(number) for number in range(count)))

    async def send_all_and_write(self, target: str, count: int) -> None:
        """The same, with a write before every other call, so that some must wait for the disk and others need not."""
        stub = self.stub(Witnessing, target)
        sent = []
        for number in range(count):
            if number % 2:
                self.storage.put("n", number)
            else:
                await self.storage.sync()
            sent.append(asyncio.ensure_future(stub.note(number)))
        await asyncio.gather(*sent)


class Ping(DurableObject):
    async def chain(self, names: list[str]) -> list[str]:
        """Goes on to the first of the names with the rest. Tells which objects were on the way, the last one first."""
        await self.storage.put("seen", await self.storage.get("seen", 0) + 1)
        rest = await self.stub(Ping, names[0]).chain(names[1:]) if names else []
        return [*rest, self.id.name]

    async def chain_in(self, kind: str, names: list[str]) -> list[str]:
        """The same, in a critical section or a transaction of this object."""
        async with self.block_concurrency() if kind == "section" else self.storage.transaction():
            return await self.chain(names)

    async def seen(self) -> int:
        return await self.storage.get("seen", 0)

    async def raise_there(self, name: str) -> str:
        try:
            await self.stub(Ping, name).fail("no")
        except ValueError as exc:
            return f"{type(exc).__name__}: {exc}"
        return "nothing raised"

    async def fail(self, text: str) -> None:
        raise ValueError(text)


class Teller(DurableObject):
    """Writes, and then tells somebody outside. Returns when it wrote, and when that was durable."""

    async def tell(self, way: str, place: Any, text: str, unconfirmed: bool) -> list[float]:
        wrote_s = time.monotonic()
        self.storage.put("text", text, allow_unconfirmed=unconfirmed)
        durable = asyncio.ensure_future(self._durable())
        arrived_s = await getattr(self, f"_tell_{way}")(place, text)
        return [wrote_s, await durable, arrived_s]

    async def _durable(self) -> float:
        await self.storage.sync()
        return time.monotonic()

    async def _tell_object(self, place: str, text: str) -> float:
        return await self.stub(Witnessing, place).when()

    async def _tell_http(self, place: str, text: str) -> float:
        async with self.fetch.post(place, data=text) as answer:
            await answer.text()
        return 0.0

    async def _tell_socket(self, place: int, text: str) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", place)
        writer.write(f"{text}\n".encode())
        await reader.readline()
        writer.close()
        return 0.0

    async def put_ten(self) -> None:
        for number in range(10):
            await self.storage.put(f"k{number}", time.monotonic())

    async def put(self, value: Any) -> None:
        await self.storage.put("text", value)

    async def text(self) -> Any:
        return await self.storage.get("text")
