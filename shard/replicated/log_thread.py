"""A thread with a loop of its own that speaks with the servers for somebody who blocks meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvloop

PAUSE_S = 0.02
T = TypeVar("T")


class LogThread:
    def __init__(self, closed: Callable[[], Exception], name: str = "tidegate-replicated") -> None:
        """`closed`: what whoever waits is told once it is closed."""
        self._closed = closed
        self._closing = threading.Lock()
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self, what: Coroutine[Any, Any, T]) -> T:
        """Blocks until it has run there."""
        with self._closing:
            if self.loop.is_closed():
                what.close()
                raise self._closed()
            future = asyncio.run_coroutine_threadsafe(what, self.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._closed() from None

    def close(self, end: Callable[[], Awaitable[None]]) -> None:
        """Ends what runs there, after `end`; whoever waits for it is told so. May be called in any other thread, and again."""
        with self._closing:
            if self.loop.is_closed():
                return
            asyncio.run_coroutine_threadsafe(self._end(end), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _end(self, end: Callable[[], Awaitable[None]]) -> None:
        await end()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=PAUSE_S)  # The client swallows a cancellation that meets it while it writes.
