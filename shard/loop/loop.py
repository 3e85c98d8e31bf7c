"""The worker's event loop: uvloop, with transports that pass the output gate and callbacks that pass the input gate.

Guarantee: what object code sends, through a transport or with `sock_sendall`, leaves as `transports` says. Callbacks that it
schedules are delivered as `callbacks` says.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import uvloop

from tidegate.shard.loop.callbacks import with_gated_callbacks
from tidegate.shard.loop.context import CURRENT, note_sent
from tidegate.shard.loop.task import object_task_factory
from tidegate.shard.loop.transports import DatagramShim, GatedDatagramTransport, GatedTransport, Shim, stream_shim

_UvLoop: Any = uvloop.Loop  # Its stubs tie the transport to the protocol that a caller gave; here a shim is between them.


class GatedLoop(with_gated_callbacks(_UvLoop)):  # type: ignore[misc]  # for the reason above
    """What asyncio code inside objects runs on."""

    serves_objects = True
    """What would block it refuses: see `connect_sync`."""

    async def create_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        _, shim = await super().create_connection(lambda: stream_shim(protocol_factory()), *args, **kwargs)
        return shim.transport, shim.inner

    async def create_unix_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        _, shim = await super().create_unix_connection(lambda: stream_shim(protocol_factory()), *args, **kwargs)
        return shim.transport, shim.inner

    async def create_datagram_endpoint(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        def shim() -> Shim:
            return DatagramShim(protocol_factory(), GatedDatagramTransport)

        _, made = await super().create_datagram_endpoint(shim, *args, **kwargs)
        return made.transport, made.inner

    async def start_tls(
        self, transport: Any, protocol: Any, sslcontext: ssl.SSLContext, *args: Any, **kwargs: Any
    ) -> GatedTransport | None:
        below = transport._below if isinstance(transport, GatedTransport) else transport
        secured = await super().start_tls(below, protocol, sslcontext, *args, **kwargs)
        return None if secured is None else GatedTransport(secured)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        owner = CURRENT.get(None)
        if owner is not None:
            note_sent()
            await owner.wait_confirmed()
        await super().sock_sendall(sock, data)


def new_worker_loop() -> asyncio.AbstractEventLoop:
    """For the thread that asks for it."""
    loop = GatedLoop()
    loop.set_task_factory(object_task_factory)
    return cast("asyncio.AbstractEventLoop", loop)
