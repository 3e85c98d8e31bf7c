"""Objects that keep much and are asked for little of it. With STAYS_COLD data files are what they are where there is more data
than memory: none is looked through at the start or read in because it would fit, and what was found on disk is believed to
stay there. With SLOW_READ_S besides every read takes so long; with KEEPS_WARM files are read in again and again."""

import os
import time
from typing import Any

from tidegate import DurableObject
from tidegate.shard.store.state import data_file, residency
from tidegate.shard.store.state.lmdb_state import LmdbSnapshot

SLOW_READ_S = float(os.environ.get("SLOW_READ_S", "0"))
KEYS = 16


def text(name: str, number: int) -> str:
    return f"{name} {number} ".ljust(2_000, ".")


class Shelf(DurableObject):
    async def fill(self) -> None:
        await self.storage.put_many({f"k{number:02d}": text(self.id.name, number) for number in range(KEYS)})

    async def clear(self) -> None:
        await self.storage.delete_all()

    async def ping(self) -> str:
        return "pong"

    async def get(self, number: int, concurrent: bool = False) -> Any:
        return await self.storage.get(f"k{number:02d}", allow_concurrency=concurrent)

    async def look(self, number: int) -> Any:
        """At the data file, every time."""
        return await self.storage.get(f"k{number:02d}", no_cache=True)

    async def whole(self) -> Any:
        """Everything in every way, and whether it is right."""
        name = self.id.name
        rows = {f"k{number:02d}": text(name, number) for number in range(KEYS)}
        keys = list(rows)
        async with self.storage.transaction() as txn:
            assert await txn.get_many(keys[:5]) == {key: rows[key] for key in keys[:5]}
            txn.put("k00", "mine")
            assert await txn.list(limit=2) == {"k00": "mine", "k01": rows["k01"]}
            assert await txn.delete("k07") is True
            assert await txn.get("k07") is None
            txn.rollback()
        assert await self.storage.list() == rows
        assert await self.storage.list(reverse=True, limit=1) == {keys[-1]: rows[keys[-1]]}
        assert await self.storage.delete_many(["k01", "k99", "k02"]) == 2
        assert await self.storage.delete("k03") is True
        assert await self.storage.delete("k98") is False
        assert list(await self.storage.list()) == [key for key in keys if key not in ("k01", "k02", "k03")]
        await self.storage.put_many({key: rows[key] for key in ("k01", "k02", "k03")})
        return len(rows)

    async def count(self) -> int:
        value: int = await self.storage.get("n", 0)
        await self.storage.put("n", value + 1)
        return value


def slowed(read: Any) -> Any:
    def wait_and_read(*arguments: Any) -> Any:
        time.sleep(SLOW_READ_S)
        return read(*arguments)

    return wait_and_read


if SLOW_READ_S:
    LmdbSnapshot.get = slowed(LmdbSnapshot.get)
    LmdbSnapshot.scan = slowed(LmdbSnapshot.scan)
if SLOW_READ_S or os.environ.get("STAYS_COLD"):
    vars(data_file)["STATE_VERIFY_BYTES_MAX"] = 0  # Imported there from the limits.
    residency.WARM_SHARE = 0.0
    residency.PROBE_INTERVAL_S = 3_600.0
if os.environ.get("KEEPS_WARM"):
    residency.WARM_INTERVAL_S = residency.WARM_INTERVAL_S_MAX = 1.0
