"""Ordinary callers of both Python clients, who never look at an error: the first one that they see ends them, and the test.

Each of them calls objects of its own and of all, one call at a time, and notes the numbers that it got. Several of them share a
client, so that calls to one object are in flight together.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable

from tidegate.runtime.client.asynchronous import Client, connect
from tidegate.runtime.client.synchronous import connect_sync

ASYNC_CALLERS = 16
SYNC_CALLERS = 3
SHARED = [f"shared-{number}" for number in range(8)]


class PatientCallers:
    """Started by `start`, told to end by `finish`, which raises the first error that one of them saw."""

    def __init__(self, endpoint: str, *, direct: bool = True, timeout: float = 60.0) -> None:
        self._endpoint, self._direct, self._timeout = endpoint, direct, timeout
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.numbers: Counter[tuple[str, int]] = Counter()
        """How often each number of each object was given."""
        self.errors: list[BaseException] = []
        self.slowest_s = 0.0
        self._threads = [threading.Thread(target=self._run, args=(self._asynchronous,))]
        self._threads += [threading.Thread(target=self._run, args=(self._synchronous, index)) for index in range(SYNC_CALLERS)]

    def start(self) -> PatientCallers:
        for thread in self._threads:
            thread.start()
        return self

    @property
    def answered(self) -> int:
        return self.numbers.total()

    def finish(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(self._timeout + 30)
        if self.errors:
            raise self.errors[0]

    def _run(self, body: Callable[..., None], *args: int) -> None:
        try:
            body(*args)
        except BaseException as error:
            self.errors.append(error)
            self._stopped.set()

    def _note(self, name: str, number: int) -> None:
        with self._lock:
            self.numbers[name, number] += 1

    def _synchronous(self, index: int) -> None:
        chance = random.Random(index)
        with connect_sync(self._endpoint, direct=self._direct, timeout=self._timeout) as client:
            while not self._stopped.is_set():
                name = chance.choice([*SHARED, f"sync-{index}"])
                self._note(name, client.stub("Counter", name).get_unique_number())

    def _asynchronous(self) -> None:
        async def caller(client: Client, index: int) -> None:
            chance = random.Random(1_000 + index)
            while not self._stopped.is_set():
                name = chance.choice([*SHARED, f"async-{index}"])
                self._note(name, await client.stub("Counter", name).get_unique_number())

        async def main() -> None:
            async with (
                connect(self._endpoint, direct=self._direct, timeout=self._timeout) as client,
                asyncio.TaskGroup() as group,
            ):
                for index in range(ASYNC_CALLERS):
                    group.create_task(caller(client, index))

        asyncio.run(main())

    def judge(self) -> None:
        """Every number was given once, and none is missing."""
        names = {name for name, _ in self.numbers}
        for name in names:
            numbers = sorted(number for other, number in self.numbers if other == name)
            twice = [number for (other, number), times in self.numbers.items() if other == name and times > 1]
            assert not twice, f"{name}: given twice: {twice[:5]}"
            assert numbers == list(range(len(numbers))), f"{name}: {len(numbers)} numbers up to {numbers[-1]}"
