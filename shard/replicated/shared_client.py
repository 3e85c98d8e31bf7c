"""One connection to the servers for everybody who asks on one loop.

Guarantee: who asks while it is being made waits for that attempt, and hears of its end, good or ill: nobody waits for the
attempts of others one after the other. One that was given up for good is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from nats.aio.client import Client

from tidegate.shard.replicated.servers import close, connect

Begin = Callable[[Client], Awaitable[None]]


async def _nothing(_: Client) -> None: ...


class SharedClient:
    """But for `newest`, on the loop."""

    def __init__(self, servers: Sequence[str], begin: Begin = _nothing) -> None:
        """`begin` is done with each connection before anybody has it; it may raise OperatorError."""
        self._servers = servers
        self._begin = begin
        self._attempt: asyncio.Task[Client] | None = None
        self.newest: Client | None = None
        """It may be closed, or be none that anybody has yet."""

    async def get(self) -> Client:
        """Raises OperatorError."""
        attempt = self._attempt
        if attempt is None or (attempt.done() and (attempt.cancelled() or attempt.exception() or attempt.result().is_closed)):
            attempt = self._attempt = asyncio.get_running_loop().create_task(self._connect())
        return await asyncio.shield(attempt)

    async def close(self) -> None:
        if self.newest is not None:  # One that is still being made ends with the loop.
            await close(self.newest)

    async def _connect(self) -> Client:
        client = self.newest = await connect(self._servers)
        try:
            await self._begin(client)
        except BaseException:
            await close(client)
            raise
        return client
