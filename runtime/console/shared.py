"""One answer for all who ask the same at the same time: however many pages are open, a service is asked once.

Guarantee: an answer is at most `kept_s` old when it is given, and while one is fetched nobody else fetches it. An error is given
to those who waited for it, and is not kept. Who goes away takes the answer from nobody.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

Fetch = Callable[[], Awaitable[dict[str, Any]]]
Fetching = asyncio.Task[dict[str, Any]]


class Shared:
    """One question."""

    def __init__(self, fetch: Fetch, kept_s: float) -> None:
        self._fetch = fetch
        self._kept_s = kept_s
        self._task: Fetching | None = None
        self._began_s = -math.inf

    async def get(self) -> dict[str, Any]:
        """Raises what fetching raises."""
        task = self._task
        if task is None or (task.done() and (self._is_old() or task.cancelled() or task.exception() is not None)):
            self._began_s = time.monotonic()
            task = self._task = _begun(self._fetch)
        return await asyncio.shield(task)

    def forget(self) -> None:
        """Something was changed: who asks from now on does not get what was read before."""
        self._task = None

    def _is_old(self) -> bool:
        return time.monotonic() - self._began_s > self._kept_s


class UnderWay:
    """Many questions, of which nothing is kept: each is fetched once at a time. So there are as many as `fetch` lets be."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, Fetching] = {}

    async def get(self, key: Hashable, fetch: Fetch) -> dict[str, Any]:
        """Raises what fetching raises. `key`: equal ones ask the same."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = _begun(fetch)
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def forget(self) -> None:
        """As above."""
        self._tasks.clear()

    def _end(self, key: Hashable, done: Fetching) -> None:
        if self._tasks.get(key) is done:
            del self._tasks[key]


def _begun(fetch: Fetch) -> Fetching:
    task: Fetching = asyncio.ensure_future(fetch())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # Retrieved, also if nobody waits any more.
    return task
