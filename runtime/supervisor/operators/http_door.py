"""Where Prometheus and those who look after containers ask: a small HTTP server on the supervisor's loop.

Guarantee: whoever asks often, slowly or nothing at all takes a bounded number of connections for a bounded time, and keeps nobody
else of the supervisor from anything.

Rule: it knows paths and bytes; what is answered is a function that it is given. One request a connection, GET or HEAD; nothing
that is asked changes anything.
"""

from __future__ import annotations

import asyncio
import http
import http.client
import io
import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import HTTP_CONNECTIONS_MAX, HTTP_REQUEST_BYTES_MAX, HTTP_REQUEST_S
from tidegate.runtime.lookup import addresses_of

TEXT = "text/plain; charset=utf-8"
OPTION = "[metrics] listen"

log = logging.getLogger("tidegate")


class Page(NamedTuple):
    status: http.HTTPStatus
    body: bytes
    content_type: str = TEXT


def text_page(status: http.HTTPStatus, text: str) -> Page:
    return Page(status, f"{text}\n".encode())


Answer = Callable[[str, str], Page]
"""To a path, for somebody who accepts those types."""


def open_listening(address: str, option: str = OPTION) -> socket.socket:
    """`option`: where the address comes from. Raises OperatorError."""
    host, _, port = address.rpartition(":")
    try:
        found = addresses_of(host.strip("[]"), int(port), flags=socket.AI_PASSIVE)
        family, _, _, _, at = found[0]
        return socket.create_server((str(at[0]), int(at[1])), family=family, backlog=HTTP_CONNECTIONS_MAX)
    except OSError as error:
        hint = "choose another address or port, or stop what uses it"
        problem = str(error) if isinstance(error, socket.gaierror) or not error.errno else os.strerror(error.errno)
        raise OperatorError("listen", f"{option} {address}", problem, hint) from error


class HttpDoor:
    def __init__(self, listening: socket.socket, answer: Answer) -> None:
        self._listening = listening
        self._answer = answer
        self._open = 0
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        host, port = self._listening.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._on_connection, sock=self._listening, limit=HTTP_REQUEST_BYTES_MAX)
        if ipaddress.ip_address(self._listening.getsockname()[0]).is_loopback:
            log.info("metrics: http://%s/metrics", self.address)
        else:
            log.warning("metrics: http://%s/metrics, for whoever reaches this address ([metrics] listen)", self.address)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(HTTP_REQUEST_S):
                if self._open <= HTTP_CONNECTIONS_MAX:
                    writer.write(self._reply(await reader.readuntil(b"\r\n\r\n")))
                    writer.close()
                    await writer.wait_closed()  # What was not taken by then is thrown away: it would be kept for ever.
        except asyncio.CancelledError:  # A stop. Let through, it would be logged by Python 3.11 as an error.
            pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # Whoever that is says nothing that can be answered, or does not listen.
        finally:
            self._open -= 1
            writer.transport.abort()

    def _reply(self, head: bytes) -> bytes:
        line, _, rest = head.partition(b"\r\n")
        method, _, target = line.decode("latin-1").partition(" ")
        path = target.rpartition(" ")[0].partition("?")[0]
        try:
            accept = http.client.parse_headers(io.BytesIO(rest)).get("Accept", "")
            if method in ("GET", "HEAD"):
                page = self._answer(path, accept)
            else:
                page = text_page(http.HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        except http.client.HTTPException:
            page = text_page(http.HTTPStatus.BAD_REQUEST, "not a request of HTTP")
        except Exception:  # A fault of ours; the service goes on.
            log.exception("%s could not be answered", path)
            page = text_page(http.HTTPStatus.INTERNAL_SERVER_ERROR, "the log of the service says why")
        lines = (
            f"HTTP/1.1 {page.status.value} {page.status.phrase}",
            f"Content-Type: {page.content_type}",
            f"Content-Length: {len(page.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            *(("Allow: GET, HEAD",) if page.status is http.HTTPStatus.METHOD_NOT_ALLOWED else ()),
            "Connection: close",
        )
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (b"" if method == "HEAD" else page.body)
