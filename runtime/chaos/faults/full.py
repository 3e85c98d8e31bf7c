"""The log of a shard has no room left for a while: its stream may have no more bytes than it has."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.stage.cluster import CLUSTER
from tidegate.runtime.chaos.verdict.report import NOT_DONE
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.servers import ask_patiently, connect

SECONDS = 0.2, 5.0


class FillStream:
    def strike(self, stage: Stage, chance: Random) -> str:
        streams = sorted(name for name in stage.hosts.leaders() if name.startswith(f"{CLUSTER}-"))
        if not streams:
            return f"{NOT_DONE}: there is no stream"
        stream = chance.choice(streams)
        seconds = chance.uniform(*SECONDS)
        servers = stage.hosts.servers.urls
        try:
            asyncio.run(_bound(servers, stream, bytes_max=None))
        except OperatorError as error:
            return f"{NOT_DONE}: {error.problem}"
        try:
            stage.pause(seconds)
        finally:
            asyncio.run(_bound(servers, stream, bytes_max=-1))
        return "a stream"


async def _bound(servers: list[str], stream: str, bytes_max: int | None) -> None:
    """None: what it has. Raises OperatorError."""
    client = await connect(servers)
    try:
        found = await ask_patiently(client, f"STREAM.INFO.{stream}", {})
        config: dict[str, Any] = {**found.config, "max_bytes": found.state.bytes if bytes_max is None else bytes_max}
        await ask_patiently(client, f"STREAM.UPDATE.{stream}", config)
    finally:
        await client.close()
