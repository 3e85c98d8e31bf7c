"""The worker's event loop: uvloop, with transports that pass the output gate and callbacks that pass the input gate.

Guarantee: what object code sends, through a transport or with `sock_sendall`, leaves as `transports` says. Callbacks that it
schedules are delivered as `callbacks` says.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import uvloop

from tidegate.shard.loop.callbacks import with_gated_callbacks
from tidegate.shard.loop.task import object_task_factory
from tidegate.shard.loop.transports import with_gated_transports

_UvLoop: Any = uvloop.Loop  # Its stubs tie the transport to the protocol that a caller gave; here a shim is between them.


class GatedLoop(with_gated_transports(with_gated_callbacks(_UvLoop))):  # type: ignore[misc]  # for the reason above
    """What asyncio code inside objects runs on."""

    serves_objects = True
    """What would block it refuses: see `connect_sync`."""


def new_worker_loop() -> asyncio.AbstractEventLoop:
    """For the thread that asks for it."""
    loop = GatedLoop()
    loop.set_task_factory(object_task_factory)
    return cast("asyncio.AbstractEventLoop", loop)
