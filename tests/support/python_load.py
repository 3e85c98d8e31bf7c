"""Load by the asynchronous Python client as its users have it: what its callers see, who make one call after the other."""

from __future__ import annotations

import asyncio
import threading
import time

import tidegate
from tests.support.service import Service

NAMES = [f"c{number}" for number in range(40)]


class PythonLoad(threading.Thread):
    """Each caller asks one `Counter` for its next number; every fifth asks by way of another (`pass_on`), if the app has that."""

    def __init__(self, service: Service, callers: int, *, direct: bool, passes_on: bool = True) -> None:
        super().__init__(daemon=True)
        self.passes_on = passes_on
        self.endpoint, self.callers, self.direct = service.endpoint, callers, direct
        self.stopped = threading.Event()
        self.answered = 0
        self.errors: list[str] = []
        self.latencies_s: list[float] = []
        self.numbers: dict[str, list[int]] = {name: [] for name in NAMES}

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with tidegate.connect(self.endpoint, direct=self.direct, timeout=30) as client:
            await asyncio.gather(*(self._call(client, number) for number in range(self.callers)))

    async def _call(self, client: tidegate.Client, number: int) -> None:
        name, other = NAMES[number % len(NAMES)], NAMES[(number + 7) % len(NAMES)]
        while not self.stopped.is_set():
            began_s = time.monotonic()
            try:
                if number % 5 or not self.passes_on:
                    self.numbers[name].append(await client.call("Counter", name, "get_unique_number"))
                else:
                    self.numbers[other].append(await client.call("Counter", name, "pass_on", ([other],)))
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.01)
            self.latencies_s.append(time.monotonic() - began_s)
            self.answered += 1

    def finish(self) -> None:
        self.stopped.set()
        self.join(60)
        assert not self.is_alive(), "a call is not answered"
        numbers = [(name, number) for name, numbers in self.numbers.items() for number in numbers]
        assert len(numbers) == len(set(numbers)), "a number came twice"
