"""The small HTTP server: who asks is answered, and who does anything else is got rid of."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest

import tidegate.runtime.supervisor.operators.http_door
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import HTTP_CONNECTIONS_MAX, HTTP_REQUEST_BYTES_MAX
from tidegate.runtime.supervisor.operators.http_door import HttpDoor, Page, open_listening, text_page

LARGE = 32 << 20
"""More than the kernel keeps for a connection."""


def answer(path: str, accept: str) -> Page:
    if path == "/raises":
        raise RuntimeError("a fault of ours")
    if path == "/large":
        return Page(http.HTTPStatus.OK, bytes(LARGE))
    if path == "/missing":
        return text_page(http.HTTPStatus.NOT_FOUND, "no")
    return Page(http.HTTPStatus.OK, f"{path} {accept}".encode(), "text/x")


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **keywords: Any) -> None:
        asyncio.run(test(*args, **keywords))

    return run


@asynccontextmanager
async def door() -> AsyncIterator[int]:
    with open_listening("127.0.0.1:0") as listening:
        served = HttpDoor(listening, answer)
        await served.start()
        try:
            yield listening.getsockname()[1]
        finally:
            served.close()


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


@on_a_loop
async def test_a_path_is_answered_without_its_query_with_what_is_accepted() -> None:
    async with door() as port:
        said = await ask(port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\naccept: text/y\r\n\r\n")
        head, _, body = said.partition(b"\r\n\r\n")
        assert body == b"/metrics text/y"
        assert head.split(b"\r\n")[0] == b"HTTP/1.1 200 OK"
        assert b"Content-Type: text/x" in head
        assert b"Content-Length: 15" in head


@on_a_loop
async def test_a_head_request_gets_the_same_without_the_body() -> None:
    async with door() as port:
        said = await ask(port, b"HEAD / HTTP/1.0\r\n\r\n")
        assert b"Content-Length: 2" in said
        assert said.endswith(b"\r\n\r\n")


@on_a_loop
async def test_other_methods_and_paths_are_refused_and_a_fault_of_ours_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with door() as port:
        assert (await ask(port, b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        assert (await ask(port, b"GET /missing HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert (await ask(port, b"GET /raises HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 500 ")
        assert "a fault of ours" in caplog.text
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 7_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"GET / HTTP/1.1\r\n\xff\xfe: \xff\r\n\r\n",
    ],
)
@on_a_loop
async def test_garbage_is_answered_or_closed_and_the_next_one_is_served(garbage: bytes) -> None:
    async with door() as port:
        await ask(port, garbage)
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@on_a_loop
async def test_a_head_that_is_too_long_is_not_read_to_its_end() -> None:
    async with door() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"x" * 4 * HTTP_REQUEST_BYTES_MAX)
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()


@on_a_loop
async def test_who_says_nothing_is_closed_after_a_while() -> None:
    with mock.patch.object(tidegate.runtime.supervisor.operators.http_door, "HTTP_REQUEST_S", 0.2):
        async with door() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTT")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


@on_a_loop
async def test_who_does_not_read_the_answer_is_closed_after_a_while() -> None:
    with mock.patch.object(tidegate.runtime.supervisor.operators.http_door, "HTTP_REQUEST_S", 0.2), socket.socket() as late:
        async with door() as port:
            late.setblocking(False)
            await asyncio.get_running_loop().sock_connect(late, ("127.0.0.1", port))
            late.send(b"GET /large HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.5)
            read = 0
            with contextlib.suppress(ConnectionResetError):  # Or what the kernel has of it still comes.
                while part := await asyncio.get_running_loop().sock_recv(late, 1 << 20):
                    read += len(part)
            assert read < LARGE


@on_a_loop
async def test_beyond_the_bound_connections_are_closed_at_once_and_then_others_are_served() -> None:
    async with door() as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(HTTP_CONNECTIONS_MAX)]
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(ask(port, b""), 5) == b""
        for _, writer in silent:
            writer.close()
        await asyncio.sleep(0.05)
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


def test_a_port_that_is_taken_says_which_option_names_it() -> None:
    with open_listening("127.0.0.1:0") as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(OperatorError, match=r"\[metrics\] listen 127.0.0.1:\d+: Address already in use"):
            open_listening(address)


@pytest.mark.parametrize(("address", "family"), [("localhost:0", None), ("[::1]:0", socket.AF_INET6)])
def test_names_and_addresses_of_both_families_can_be_listened_on(address: str, family: socket.AddressFamily | None) -> None:
    with open_listening(address) as listening:
        assert family is None or listening.family is family


@on_a_loop
async def test_an_address_that_others_reach_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    for address, level in (("127.0.0.1:0", "INFO"), (f"{'.'.join('0000')}:0", "WARNING")):
        caplog.clear()
        with caplog.at_level("INFO", "tidegate"), open_listening(address) as listening:
            served = HttpDoor(listening, answer)
            await served.start()
            served.close()
        assert [record.levelname for record in caplog.records] == [level]
