"""The wire of ZeroMQ by hand, for what its library never says."""

from __future__ import annotations

import socket
import struct

from tests.support.waiting import WITHIN_S

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def greeted(address: str) -> socket.socket:
    """A connection to `tcp://…` that has completed the greeting, as a DEALER."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=WITHIN_S)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    connection.sendall(_GREETING + b"\x04" + bytes([len(ready)]) + ready)
    answered = b""
    while b"ROUTER" not in answered:
        answered += connection.recv(4_096)
    return connection


def frame(body: bytes, *, more: bool) -> bytes:
    """With the long form of the length."""
    return bytes([2 + more]) + struct.pack(">Q", len(body)) + body
