"""Programs that speak something else reach the doors of router and worker: nothing is run, all is closed and counted."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from tidegate.runtime.client.synchronous import SyncClient, connect_sync

if TYPE_CHECKING:
    from tests.clients.conftest import RealService

HELLOS = {
    "HTTP": b'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n[1,"Counter","web","get_unique_number"]\r\n',
    "TLS": b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
}


def connect(address: str) -> socket.socket:
    kind, _, place = address.partition("://")
    stranger = socket.socket(socket.AF_UNIX if kind == "ipc" else socket.AF_INET)
    stranger.settimeout(10)
    host, _, port = place.rpartition(":")
    stranger.connect(place if kind == "ipc" else (host, int(port)))
    return stranger


def foreign_peers(client: SyncClient) -> dict[str, int]:
    status = client.status()
    workers = [process for process in status.processes if process.name.startswith("worker")]
    return {
        "router": status.router["foreign_peers"],
        "workers": sum(process.statistics.get("foreign_peers", 0) for process in workers),
    }


@pytest.mark.parametrize("door", ["router", "workers"])
@pytest.mark.parametrize("hello", HELLOS)
def test_another_protocol_at_a_door_runs_nothing_and_is_closed_and_counted(service: RealService, door: str, hello: str) -> None:
    with connect_sync(service.endpoint) as client:
        stub: Any = client.stub("Counter", "web")
        number = stub.get_unique_number()
        before = foreign_peers(client)
        worker = client.topology().shards[0].endpoint
        assert worker is not None
        for _ in range(5):
            stranger = connect(service.endpoint if door == "router" else worker)
            stranger.sendall(HELLOS[hello])
            with contextlib.suppress(ConnectionResetError):  # What it sent was not read.
                while stranger.recv(4_096):
                    pass
            stranger.close()
        counted = {**before, door: before[door] + 5}  # Numbers of workers are asked for every few seconds.
        wait_until(lambda: foreign_peers(client) == counted, "five more strangers", seen=lambda: (before, foreign_peers(client)))
        assert stub.get_unique_number() == number + 1, "nothing was run in between"
