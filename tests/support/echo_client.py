"""An `EchoService` and an asynchronous client of it, for as long as a test takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.echo_service import EchoService
from tests.support.waiting import WITHIN_S
from tidegate.runtime.client.asynchronous import Client, connect

Body = Callable[[EchoService, Client], Awaitable[None]]


def run(directory: Path, body: Body, *, workers: int = 2, **options: Any) -> None:
    """A service, a client of it, and at the end the machine's counts recomputed."""

    async def main() -> None:
        service = EchoService(directory, workers=workers)
        try:
            async with connect(service.endpoint, **options) as client, asyncio.timeout(WITHIN_S):
                await body(service, client)
                client._machine.check_invariants()
        finally:
            service.close()

    asyncio.run(main())
