"""Three nats-servers that one module of tests shares, and what their cluster says of a stream."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from tests.support.waiting import wait_until
from tidegate.runtime.cluster.nats_servers import NatsServers


async def _noted(error: Exception) -> None:
    """Not printed."""


def ask(servers: NatsServers, what: str, request: Any = None) -> dict[str, Any]:
    """One request to the API of JetStream, at whichever server answers."""

    async def once() -> dict[str, Any]:
        client = Client()
        await client.connect(servers.urls, error_cb=_noted, allow_reconnect=False, connect_timeout=2)
        try:
            payload = b"" if request is None else msgspec.json.encode(request)
            answer: dict[str, Any] = msgspec.json.decode((await client.request(f"$JS.API.{what}", payload, timeout=2)).data)
            return answer
        finally:
            await client.close()

    async def soon() -> dict[str, Any]:
        return await asyncio.wait_for(once(), 10)

    try:
        return asyncio.run(soon())
    except (nats.errors.Error, OSError) as error:
        return {"error": repr(error)}


def leader_of(servers: NatsServers, stream: str) -> str:
    found = wait_until(lambda: ask(servers, f"STREAM.INFO.{stream}").get("cluster", {}).get("leader"), "a leader")
    assert isinstance(found, str)
    return found


def end_of(servers: NatsServers, stream: str) -> int:
    """The sequence of its last message."""
    state = wait_until(lambda: ask(servers, f"STREAM.INFO.{stream}").get("state", {}), "the state")
    return int(state["last_seq"])
