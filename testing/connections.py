"""Connections in memory: what a loop in virtual time gives to those who connect.

Guarantee: no byte leaves the process. A connection is a pair of transports whose bytes arrive in order in a later turn; who
listens at its other end is the network's business (`testing.network`). Names are resolved without asking anybody, and where an
address is dialled, whoever it was resolved for is met.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from tidegate.shard.neutral import NEUTRAL

FIRST_ADDRESS = 0x7F01_0000
"""Of the machine itself, so that what would slip out reaches nobody; as many names as a test can ask for have one there."""


class Listeners(Protocol):
    def listener(self, host: str, port: int, *, secure: bool) -> asyncio.BaseProtocol:
        """The protocol at the other end of a connection that is made now. Raises OSError where nobody listens."""
        ...


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._loop = loop
        self._protocol: Any = protocol
        self._peer: MemoryTransport
        self._kept: list[bytes] = []
        """Arrived while reading was paused; an empty one is the end."""
        self._paused = self._closing = self._ended = self._lost = False

    def meet(self, peer: MemoryTransport) -> None:
        self._peer = peer
        self._loop.call_soon(self._protocol.connection_made, self, context=NEUTRAL)

    # What whoever has it calls

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if data and not self._closing and not self._ended:
            self._loop.call_soon(self._peer._arrived, bytes(data), context=NEUTRAL)

    def write_eof(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.call_soon(self._peer._arrived, b"", context=NEUTRAL)

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self.write_eof()
            self.abort()

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._end, None, context=NEUTRAL)
            self._loop.call_soon(self._peer._left, context=NEUTRAL)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        kept, self._kept = self._kept, []
        for data in kept:
            self._arrived(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 1 << 16

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits."""

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._protocol)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    # What the other end does

    def _arrived(self, data: bytes) -> None:
        protocol = self._protocol
        if self._closing:
            return
        if self._paused:
            self._kept.append(data)
        elif not data:
            if not protocol.eof_received():
                self.close()
        elif isinstance(protocol, asyncio.BufferedProtocol):
            while data:
                buffer: Any = protocol.get_buffer(len(data))
                taken = min(len(buffer), len(data))
                buffer[:taken] = data[:taken]
                protocol.buffer_updated(taken)
                data = data[taken:]
        else:
            protocol.data_received(data)

    def _left(self) -> None:
        self._closing = True
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(error)


class MemorySocket:
    """What a transport says of its socket, for libraries that ask."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP

    def __init__(self, mine: tuple[str, int], peer: tuple[str, int]) -> None:
        self._mine = mine
        self._peer = peer

    def getsockname(self) -> tuple[str, int]:
        return self._mine

    def getpeername(self) -> tuple[str, int]:
        return self._peer

    def setsockopt(self, *_: Any) -> None:
        """There is nothing to be set."""

    def fileno(self) -> int:
        return -1


class ConnectedLoop(asyncio.BaseEventLoop):
    """A loop without a selector, whose connections go to `listeners`."""

    listeners: Listeners | None = None

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, str] = {}
        """By address."""
        self._dialled: dict[int, tuple[str, int]] = {}
        """By descriptor: sockets that `sock_connect` was given."""

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        if isinstance(host, bytes):  # As anyio, and so httpx, asks.
            host = host.decode()
        number = FIRST_ADDRESS + 1 + list(self._names.values()).index(host) if host in self._names.values() else 0
        address = socket.inet_ntoa((number or FIRST_ADDRESS + 1 + len(self._names)).to_bytes(4, "big"))
        self._names[address] = str(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, int(port or 0)))]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self._dialled[sock.fileno()] = (address[0], address[1])

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        sock: socket.socket | None = None,
        **_: Any,
    ) -> Any:
        if sock is not None:
            host, port = self._dialled.pop(sock.fileno(), ("a socket", 0))
            sock.close()
        name = self._names.get(host or "", host or "")
        if self.listeners is None:
            raise ConnectionRefusedError(f"nobody listens at {name}:{port}")
        listener = self.listeners.listener(name, int(port or 0), secure=bool(ssl))
        mine = protocol_factory()
        shared = {"sslcontext": ssl or None}
        address, client = (name, int(port or 0)), ("127.0.0.1", 1)
        here = MemoryTransport(self, mine, {"peername": address, "socket": MemorySocket(client, address), **shared})
        there = MemoryTransport(self, listener, {"peername": client, "socket": MemorySocket(address, client), **shared})
        there.meet(here)
        here.meet(there)
        await asyncio.sleep(0)  # Until both have been told.
        return here, mine

    def _refuse(self, what: str) -> Any:
        raise RuntimeError(
            f"{what} is not there in a test, which has no real network, processes or signals: let the test answer HTTP by "
            "objects.http.answer(...), and give the object something in the place of what else it talks to"
        )

    async def create_datagram_endpoint(self, *_: Any, **__: Any) -> Any:
        self._refuse("a datagram socket")

    async def create_server(self, *_: Any, **__: Any) -> Any:
        self._refuse("a listening socket")

    async def create_unix_connection(self, *_: Any, **__: Any) -> Any:
        self._refuse("a Unix socket")

    async def subprocess_exec(self, *_: Any, **__: Any) -> Any:
        self._refuse("a subprocess")

    async def subprocess_shell(self, *_: Any, **__: Any) -> Any:
        self._refuse("a subprocess")

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override]  # one typed by its arguments
        self._refuse("a signal handler")
