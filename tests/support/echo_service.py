"""A service with real sockets and no objects: a router and workers that speak wire protocol 1 in one loop.

Every call is answered by one of a few methods:
`echo(x)` its arguments · `where()` the door that ran it · `hold()` nothing until `release` · `error(map)` that error.
The router does not forward: whatever reaches it, it runs itself, so that the tests see which way a call went.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tidegate.runtime.errors import Moved
from tidegate.runtime.sockets.endpoint import Endpoint
from tidegate.runtime.wire.protocol import ERROR, OK, Message, Origin, Request
from tidegate.runtime.wire.sessions import give_keys, is_head
from tidegate.runtime.wire.slots import SlotTable, topology_reply
from tidegate.runtime.wire.supervisor_messages import Topology

decode = msgspec.msgpack.decode


class Door:
    """One endpoint of the service. `seen` has every request that it ran, in order."""

    def __init__(self, service: EchoService, name: str, endpoint: str) -> None:
        self.service = service
        self.name = name
        self.seen: list[Request] = []
        self.messages = 0
        self.moved = False
        """Owns nothing: every call is answered `moved`."""
        self._held: list[tuple[Origin, Request]] = []
        self._endpoint = Endpoint(service.context, self._handle, lambda: self._endpoint.flush())
        self.endpoint = self._endpoint.bind(endpoint)
        self._endpoint.start(asyncio.get_running_loop())

    def _handle(self, message: Message) -> None:
        self.messages += 1
        if len(message.requests) > 1 and is_head(message.requests[0]):
            assert not give_keys(message)
        for request in message.requests:
            if request.cls == "":
                self._endpoint.reply(message.origin, request.id, OK, self.service.system(request.method))
            elif self.moved and request.method != "hold":
                self._endpoint.reply_error(message.origin, request.id, Moved("not here"))
            else:
                self.seen.append(request)
                self._run(message.origin, request)

    def _run(self, origin: Origin, request: Request) -> None:
        if request.method == "hold":
            self._held.append((origin, request))
        elif request.method == "error":
            self._endpoint.reply(origin, request.id, ERROR, decode(request.args)[0])
        elif request.method == "where":
            self._endpoint.reply(origin, request.id, OK, self.name)
        elif request.method == "get_unique_number":
            self._endpoint.reply(origin, request.id, OK, len(self.seen) - 1)
        else:
            self._endpoint.reply(origin, request.id, OK, decode(request.args))

    def release(self) -> None:
        """Answers what is held."""
        held, self._held = self._held, []
        for origin, request in held:
            self._endpoint.reply(origin, request.id, OK, self.name)
        self._endpoint.flush()

    def close(self) -> None:
        self._endpoint.close()


class EchoService:
    """To be made inside a running loop. Worker endpoints have an incarnation in their names, like the real ones."""

    def __init__(self, directory: Path, *, workers: int = 2, listen: str | None = None, epoch: int = 1) -> None:
        self.context = zmq.Context()
        self.directory = directory
        self.epoch = epoch
        self.router = Door(self, "router", listen or f"ipc://{directory}/router")
        self.workers: list[Door | None] = []
        self.owners = tuple(shard % max(workers, 1) for shard in range(4))
        self._incarnations = 0
        for index in range(workers):
            self.workers.append(None)
            self.start_worker(index)

    @property
    def endpoint(self) -> str:
        return self.router.endpoint

    def worker(self, index: int) -> Door:
        door = self.workers[index]
        assert door is not None
        return door

    def start_worker(self, index: int) -> None:
        self._incarnations += 1
        self.workers[index] = Door(self, f"worker {index}", f"ipc://{self.directory}/worker-{index}.{self._incarnations}")
        self.epoch += 1

    def lose_worker(self, index: int) -> None:
        """Its socket is gone; the topology says so."""
        self.worker(index).close()
        self.workers[index] = None
        self.epoch += 1

    def system(self, method: str) -> Any:
        if method == "ping":
            return "pong"
        endpoints = tuple(door.endpoint if door is not None else None for door in self.workers) or (None,)
        return topology_reply(SlotTable(Topology(self.epoch, self.owners, endpoints)))

    def close(self) -> None:
        for door in (self.router, *self.workers):
            if door is not None:
                door.close()
        self.context.destroy(linger=0)


class EchoThread:
    """The service in a thread of its own, for clients that block. `do` runs a function where the sockets are."""

    def __init__(self, directory: Path, workers: int, listen: str | None) -> None:
        self._directory, self._workers, self._listen = directory, workers, listen
        self._started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self.thread.start()
        assert self._started.wait(10)

    async def _main(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        self.service = EchoService(self._directory, workers=self._workers, listen=self._listen)
        self._started.set()
        await self.stop.wait()
        self.service.close()

    def do(self, function: Any, *args: Any) -> Any:
        async def run() -> Any:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)


@contextmanager
def echo_thread(directory: Path, *, workers: int = 2, listen: str | None = None) -> Iterator[EchoThread]:
    running = EchoThread(directory, workers, listen)
    try:
        yield running
    finally:
        running.loop.call_soon_threadsafe(running.stop.set)
        running.thread.join(10)
