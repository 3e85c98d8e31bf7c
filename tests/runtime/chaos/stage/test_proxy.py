"""A door that can be broken."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from random import Random

import pytest

from tests.support.waiting import wait_until
from tidegate.runtime.chaos.stage.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of somebody who sends back what comes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionResetError):
                while data := connection.recv(65_536):
                    connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def connect(proxy: Proxy) -> socket.socket:
    host, _, port = proxy.endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def test_every_byte_goes_through_until_the_connection_is_broken(echo: int) -> None:
    proxy = Proxy("127.0.0.1", echo)
    try:
        with connect(proxy) as client, client.makefile("rb") as heard:
            for text in (bytes(1_000_000), b"still there"):
                client.sendall(text)
                assert heard.read(len(text)) == text
                assert proxy.drop(0.0, Random(1)) == 0
            assert proxy.drop(1.0, Random(1)) == 1
            with pytest.raises(ConnectionResetError):
                heard.read(1)
    finally:
        proxy.close()


def test_a_connection_to_nobody_ends_and_the_next_one_to_somebody_works(echo: int) -> None:
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    proxy = Proxy("127.0.0.1", nobody.getsockname()[1])
    try:
        with connect(proxy) as client, pytest.raises(OSError):
            wait_until(lambda: client.recv(1) == b"" and client.send(b"x") == 0, "the end of the connection")
    finally:
        proxy.close()
        nobody.close()
