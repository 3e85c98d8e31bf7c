"""Customers of the shop: most come to one cart, some pay with a bad card, and invoices wait for each other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from random import Random

import tidegate
from tests.support.waiting import WITHIN_S


class Customers:
    """A thread of callers, until the end of the `with`."""

    def __init__(self, endpoint: str, pause_s: float) -> None:
        """`pause_s`: of each between two calls."""
        self._pause_s = pause_s
        self._endpoint = endpoint
        self._random = Random(7)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began = threading.Event()

    def __enter__(self) -> Customers:
        self._thread.start()
        assert self._began.wait(WITHIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with tidegate.connect(self._endpoint) as client:
            for number in range(24):
                await client.call("Invoice", f"2026-10/{number:04}", "remind_in", (1 + self._random.random() * 20,))
            await client.call(
                "Cart", "alice", "remember", ("address", {"street": "12 Harbour Lane", "city": "Bristol", "floor": 2})
            )
            await client.call("Cart", "alice", "remember", ("coupons", ["SPRING-10", "FREE-SHIPPING"]))
            work = [self._shop(client), self._shop(client), self._shop(client), self._pay(client), self._print(client)]
            self._began.set()
            await asyncio.gather(*work)

    async def _shop(self, client: tidegate.Client) -> None:
        while not self._stop.is_set():
            name = "alice" if self._random.random() < 0.55 else f"customer-{self._random.randint(1, 40)}"
            await client.call("Cart", name, "add", (self._random.choice(["bread", "lamp", "tea"]),))
            await asyncio.sleep(self._pause_s)

    async def _pay(self, client: tidegate.Client) -> None:
        while not self._stop.is_set():
            name, card = self._random.choice([("alice", "4711"), ("bob", "1234"), ("customer-3", "9002")])
            with contextlib.suppress(tidegate.CallError):
                await client.call("Cart", name, "check_out", (card,))
            await asyncio.sleep(0.9)

    async def _print(self, client: tidegate.Client) -> None:
        while not self._stop.is_set():
            pages = [self._random.randint(2, 9) for _ in range(2)]
            await asyncio.gather(*(client.call("Invoice", "2026-11", "render", (each,)) for each in pages))
            await asyncio.sleep(1.5)
