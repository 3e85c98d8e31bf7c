"""An endpoint that answers, on real sockets and a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import uvloop
import zmq

from tests.support.waiting import WITHIN_S, wait_until
from tidegate.runtime.sockets.endpoint import Endpoint, EndpointStatistics
from tidegate.runtime.sockets.outbox import Outbox
from tidegate.runtime.sockets.slices import Slices
from tidegate.runtime.wire.protocol import OK, Message


class Server:
    """An endpoint on a loop in a thread. `handle` may be replaced; at first every call is answered with its arguments."""

    def __init__(
        self,
        outbox: Outbox | None = None,
        address: str | None = None,
        *,
        slices: Slices | None = None,
        stream: Path | None = None,
    ) -> None:
        """`stream`: where it takes streams, too."""
        self.context: zmq.Context[Any] = zmq.Context()
        self.loop = uvloop.new_event_loop()
        self.handle: Callable[[Message], None] = self.echo
        self.errors: list[Any] = []
        self.turns: list[list[int]] = [[]]
        """For each turn, the number of requests of each message."""
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context.get("exception")))
        self.endpoint = Endpoint(
            self.context, self._handle, self._end_turn, message_bytes_max=1 << 20, outbox=outbox, slices=slices
        )
        self.address = self.endpoint.bind(address or "tcp://127.0.0.1:0")
        if stream is not None:
            self.endpoint.bind_stream(str(stream))
        self._thread = threading.Thread(target=self.loop.run_forever)
        self.endpoint.start(self.loop)
        self._thread.start()

    def _handle(self, message: Message) -> None:
        self.turns[-1].append(len(message.requests))
        self.handle(message)

    def _end_turn(self) -> None:
        self.turns.append([])
        self.endpoint.flush()

    def echo(self, message: Message) -> None:
        for request in message.requests:
            self.endpoint.reply(message.origin, request.id, OK, request.args)

    def client(
        self, kind: int = zmq.DEALER, identity: bytes | None = None, address: str | None = None, **options: int
    ) -> zmq.Socket[Any]:
        client = self.context.socket(kind)
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.SNDHWM, 0)
        client.setsockopt(zmq.RCVHWM, 0)
        client.setsockopt(zmq.RCVTIMEO, int(WITHIN_S * 1_000))
        for name, value in options.items():
            client.setsockopt(getattr(zmq, name), value)
        if identity is not None:
            client.setsockopt(zmq.IDENTITY, identity)
        client.connect(address or self.address)
        return client

    def in_loop(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(WITHIN_S)

    def wait_until(self, condition: Callable[[EndpointStatistics], bool]) -> None:
        def statistics() -> EndpointStatistics:
            return cast(EndpointStatistics, self.in_loop(self.endpoint.statistics))

        wait_until(lambda: condition(statistics()), "what the endpoint counts", seen=statistics)

    def stop(self) -> None:
        self.in_loop(self.endpoint.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self.context.destroy(linger=0)
