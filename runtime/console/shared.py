"""One answer for all who ask the same at the same time: however many pages are open, a service is asked once.

Guarantee: an answer is at most `kept_s` old when it is given, and while one is fetched nobody else fetches it. An error is given
to those who waited for it, and is not kept.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

Fetch = Callable[[], Awaitable[dict[str, Any]]]


class Shared:
    def __init__(self, fetch: Fetch, kept_s: float) -> None:
        self._fetch = fetch
        self._kept_s = kept_s
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._began_s = -math.inf

    async def get(self) -> dict[str, Any]:
        """Raises what fetching raises."""
        task = self._task
        if task is None or (task.done() and (self._is_old() or task.cancelled() or task.exception() is not None)):
            self._began_s = time.monotonic()
            task = self._task = asyncio.ensure_future(self._fetch())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # Retrieved, also if nobody waits any more.
        return await asyncio.shield(task)

    def _is_old(self) -> bool:
        return time.monotonic() - self._began_s > self._kept_s
