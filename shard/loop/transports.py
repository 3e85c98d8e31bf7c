"""Transports whose bytes pass the output gate of the object that writes them.

Guarantee: bytes that object code writes to a stream or datagram transport leave only when every write that the object had made by
then is durable, and in the order in which they were written. If such a write fails, the bytes are dropped and the connection is
aborted: half a message must not be followed by the rest of another.

Whose bytes they are is known by the context variable of the writing code, so that connections may be shared between objects
(a pool, a module-wide session). Handshakes of TLS are not held: they reveal nothing that an object has stored.
"""

from __future__ import annotations

import asyncio
import collections
import ssl
from collections.abc import Callable
from typing import Any, cast

from tidegate.shard.loop.context import CURRENT, note_sent


class Outflow:
    """What leaves through one transport, in order: what must not leave yet is kept."""

    __slots__ = ("_broken", "_held", "held_bytes")

    def __init__(self) -> None:
        self._held: collections.deque[list[Any]] = collections.deque()
        """`[may leave, action, size]`."""
        self._broken = False
        self.held_bytes = 0

    def pass_or_keep(self, act: Callable[[], object], size: int, abort: Callable[[], object]) -> None:
        """Acts at once when nothing holds this context's messages back, else when it may."""
        owner = CURRENT.get(None)
        if self._broken:
            return
        note_sent()
        if owner is None or owner.may_reveal:
            if self._held:
                self._held.append([True, act, size])
                self.held_bytes += size
            else:
                act()
            return
        entry = [False, act, size]
        self._held.append(entry)
        self.held_bytes += size

        def release() -> None:
            entry[0] = True
            self._advance()

        def discard(_: Exception) -> None:
            self._broken = True
            self._held.clear()
            abort()

        owner.hold(release, discard)

    @property
    def is_clear(self) -> bool:
        return not self._held

    def _advance(self) -> None:
        while self._held and self._held[0][0]:
            _, act, size = self._held.popleft()
            self.held_bytes -= size
            act()


class GatedTransport(asyncio.Transport):
    """A stream transport whose writes pass the output gate. Everything else is the transport below."""

    def __init__(self, below: Any) -> None:
        super().__init__()
        self._below = below
        self._outflow = Outflow()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._outflow.is_clear and CURRENT.get(None) is None:
            self._below.write(data)
            return
        kept = bytes(data)  # The caller may use its buffer again.
        self._outflow.pass_or_keep(lambda: self._below.write(kept), len(kept), self._below.abort)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self._outflow.pass_or_keep(self._below.write_eof, 0, self._below.abort)

    def close(self) -> None:
        if self._outflow.is_clear:
            self._below.close()
        else:  # After what was written before, as a transport does with its buffer.
            self._outflow.pass_or_keep(self._below.close, 0, self._below.abort)

    def abort(self) -> None:
        self._below.abort()

    def can_write_eof(self) -> bool:
        return bool(self._below.can_write_eof())

    def is_closing(self) -> bool:
        return bool(self._below.is_closing())

    def get_write_buffer_size(self) -> int:
        return int(self._below.get_write_buffer_size()) + self._outflow.held_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return cast("tuple[int, int]", self._below.get_write_buffer_limits())

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)

    def is_reading(self) -> bool:
        return bool(self._below.is_reading())

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol = self._below.get_protocol()
        return cast("asyncio.BaseProtocol", protocol.inner if isinstance(protocol, Shim) else protocol)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._below.set_protocol(protocol)


class GatedDatagramTransport(asyncio.DatagramTransport):
    """A datagram transport whose sends pass the output gate."""

    def __init__(self, below: Any) -> None:
        super().__init__()
        self._below = below
        self._outflow = Outflow()

    def sendto(self, data: Any, addr: Any = None) -> None:
        kept = bytes(data)
        self._outflow.pass_or_keep(lambda: self._below.sendto(kept, addr), len(kept), self._below.abort)

    def close(self) -> None:
        self._outflow.pass_or_keep(self._below.close, 0, self._below.abort)

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return bool(self._below.is_closing())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)


class Shim:
    """Stands before a protocol until it has been given the gated transport; then its callbacks are the protocol's own."""

    def __init__(self, inner: Any, gated: type[Any]) -> None:
        self.inner = inner
        self.transport: Any = None
        self._outflow = gated
        for name in (
            "data_received",
            "eof_received",
            "connection_lost",
            "pause_writing",
            "resume_writing",
            "get_buffer",
            "buffer_updated",
            "datagram_received",
            "error_received",
        ):
            callback = getattr(inner, name, None)
            if callback is not None:
                setattr(self, name, callback)

    def connection_made(self, transport: Any) -> None:
        self.transport = self._outflow(transport)
        self.inner.connection_made(self.transport)


class _StreamShim(Shim, asyncio.Protocol):
    pass


class _BufferedShim(Shim, asyncio.BufferedProtocol):
    pass


class DatagramShim(Shim, asyncio.DatagramProtocol):
    pass


def stream_shim(inner: Any) -> Shim:
    buffered = isinstance(inner, asyncio.BufferedProtocol)
    return _BufferedShim(inner, GatedTransport) if buffered else _StreamShim(inner, GatedTransport)


def with_gated_transports(loop_class: Any) -> Any:
    """A class of loops on which what object code sends passes the output gate."""

    class LoopWithGatedTransports(loop_class):  # type: ignore[misc]  # of any class
        async def create_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            _, shim = await super().create_connection(lambda: stream_shim(protocol_factory()), *args, **kwargs)
            return shim.transport, shim.inner

        async def create_unix_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            _, shim = await super().create_unix_connection(lambda: stream_shim(protocol_factory()), *args, **kwargs)
            return shim.transport, shim.inner

        async def create_datagram_endpoint(
            self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any
        ) -> tuple[Any, Any]:
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

    return LoopWithGatedTransports
