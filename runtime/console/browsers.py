"""Connections of browsers to the console: a bounded number, and none for long that asks nothing.

Guarantee: at most `CONNECTIONS_MAX` are open. One that asks nothing for `IDLE_S`, also a new one, is closed: so who holds many
without the secret holds them for that time.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web

CONNECTIONS_MAX = 64
"""A browser has six with a site, however many tabs there are."""
IDLE_S = 15.0
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Browsers:
    def __init__(self, server: web.Server) -> None:
        """`server` is made with `keepalive_timeout=IDLE_S`, which it counts from its first answer on."""
        self._server = server
        self._open: dict[asyncio.BaseProtocol, _Connection] = {}

    def make(self) -> asyncio.Protocol:
        """The protocol of a new one."""
        return _Connection(self._open, self._server())

    def asks(self, request: web.Request) -> None:
        """A whole head of a request has come."""
        if (connection := self._open.get(request.protocol)) is not None:
            connection.asked()


class _Connection(asyncio.Protocol):
    """Between a transport and what aiohttp has made for it."""

    def __init__(self, others: dict[asyncio.BaseProtocol, _Connection], handler: asyncio.Protocol) -> None:
        self._others = others
        self._handler = handler
        self._is_let_in = False
        self._closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        to_browser = cast("asyncio.Transport", transport)
        if len(self._others) >= CONNECTIONS_MAX:
            to_browser.write(_FULL)
            to_browser.close()
            return
        self._is_let_in = True
        self._others[self._handler] = self
        self._closing = asyncio.get_running_loop().call_later(IDLE_S, to_browser.abort)
        self._handler.connection_made(transport)

    def asked(self) -> None:
        if self._closing is not None:
            self._closing.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.asked()
        if self._is_let_in:
            del self._others[self._handler]
            self._handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_let_in:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self._is_let_in else None

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()
