"""Connections to other hosts, with real sockets at the other end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from tidegate.runtime.addresses import free_port
from tidegate.runtime.chaos.stage.network import may_have_network
from tidegate.runtime.sockets.host_links import HostLinks
from tidegate.runtime.wire.protocol import Reply, encode
from tidegate.runtime.wire.supervisor_messages import Topology

ROOT = Path(__file__).resolve().parents[3]
SECRET = zmq.curve_keypair()[1].decode()
OTHER_SECRET = zmq.curve_keypair()[1].decode()
WORKER = "ipc:///run/0"


class World:
    def __init__(self, context: zmq.Context[Any], secret: str = SECRET) -> None:
        self.context = context
        self.changes = asyncio.Queue[None]()
        self.replies: list[tuple[int, int | str | None]] = []
        loop = asyncio.get_running_loop()
        self.links = HostLinks(context, loop, secret, self._replied, lambda: None, lambda: self.changes.put_nowait(None))

    def _replied(self, index: int, replies: list[Reply]) -> None:
        self.replies += [(index, reply.id) for reply in replies]

    def host(self, port: int) -> zmq.Socket[Any]:
        socket = self.context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, SECRET.encode())
        socket.bind(f"tcp://127.0.0.1:{port}")
        return socket

    async def changed(self) -> None:
        await asyncio.wait_for(self.changes.get(), 30)


def topology(*hosts: str | None) -> Topology:
    return Topology(1, (0, 1), (WORKER, None, *hosts), nobody=1)


def run(main: Callable[[zmq.Context[Any]], Any]) -> None:
    with zmq.Context() as context:
        asyncio.run(main(context))
        context.destroy(linger=0)


def test_a_host_listens_when_it_has_greeted_and_another_one_does_when_it_is_back() -> None:
    async def main(context: zmq.Context[Any]) -> None:
        world, port = World(context), free_port()
        wanted = topology(f"tcp://127.0.0.1:{port}#1.1")
        assert world.links.reachable(wanted).endpoints == (WORKER, None, None)
        door = world.host(port)
        await world.changed()
        first = world.links.reachable(wanted).endpoints[2]
        assert first is not None
        world.links.backend(2).send([b"call"])
        client, body = await asyncio.get_running_loop().run_in_executor(None, door.recv_multipart)
        assert body == b"call"
        door.send_multipart([client, encode([7, 0, None])])
        door.close(linger=1_000)
        await world.changed()
        assert world.links.reachable(wanted).endpoints == (WORKER, None, None)
        assert world.replies == [(2, 7)], "what it had managed to send is good"
        again = world.host(port)
        await world.changed()
        assert world.links.reachable(wanted).endpoints[2] not in (None, first)
        again.close()
        world.links.close()

    run(main)


def test_who_has_another_secret_is_never_reached() -> None:
    async def main(context: zmq.Context[Any]) -> None:
        world, port = World(context, OTHER_SECRET), free_port()
        door = world.host(port)
        refused = context.socket(zmq.PAIR)
        door.monitor("inproc://refused", zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        refused.connect("inproc://refused")
        wanted = topology(f"tcp://127.0.0.1:{port}#1.1")
        world.links.reachable(wanted)
        await asyncio.get_running_loop().run_in_executor(None, refused.recv_multipart)
        assert world.links.reachable(wanted).endpoints[2] is None
        refused.close()
        door.close()
        world.links.close()

    run(main)


def test_a_connection_ends_with_the_place_that_it_leads_to() -> None:
    async def main(context: zmq.Context[Any]) -> None:
        world, port = World(context), free_port()
        door = world.host(port)
        world.links.reachable(topology(f"tcp://127.0.0.1:{port}#1.1"))
        await world.changed()
        backend = world.links.backend(2)
        assert world.links.reachable(topology(f"tcp://127.0.0.1:{port}#1.2")).endpoints[2] is None, "another process is there now"
        await world.changed()
        assert world.links.backend(2) is not backend
        assert world.links.reachable(topology(None)).endpoints[2] is None
        door.close()
        world.links.close()

    run(main)


def test_a_service_without_a_cluster_has_none() -> None:
    async def main(context: zmq.Context[Any]) -> None:
        world, plain = World(context), Topology(1, (0, 1), (WORKER, "ipc:///run/1"))
        assert world.links.reachable(plain) is plain
        world.links.close()

    run(main)


CUT = """
import asyncio, subprocess, sys
import zmq
from tests.runtime.sockets.test_host_links import SECRET, World, topology
from tidegate.runtime.chaos.stage.network import CALLERS, MachineNetwork, leave_network
DOOR = '''
import sys, zmq
door = zmq.Context().socket(zmq.ROUTER)
door.curve_server, door.curve_secretkey = 1, sys.argv[1].encode()
door.bind("tcp://0.0.0.0:7")
print("ready", flush=True)
while True:
    door.recv_multipart()
'''
async def main(context, network, place):
    world, wanted = World(context), topology(f"tcp://{place.address}:7#1.1")
    world.links.reachable(wanted)
    await world.changed()
    assert world.links.reachable(wanted).endpoints[2] is not None
    network.cut([(CALLERS, "other"), ("other", CALLERS)])
    await world.changed()
    assert world.links.reachable(wanted).endpoints[2] is None
    world.links.close()
leave_network()
with MachineNetwork(["other"]) as network, zmq.Context() as context:
    place = network.place("other")
    door = subprocess.Popen([*place.enter, sys.executable, "-c", DOOR, SECRET], stdout=subprocess.PIPE, text=True)
    assert door.stdout.readline() == "ready\\n"
    asyncio.run(main(context, network, place))
    door.kill()
    context.destroy(linger=0)
"""


@pytest.mark.root
def test_a_path_that_is_cut_and_says_nothing_is_a_connection_that_is_lost() -> None:
    """As by a cable: neither end hears that the other one is not heard any longer."""
    if why := may_have_network():
        pytest.skip(f"needs a network of its own: {why}")
    done = subprocess.run([sys.executable, "-c", CUT], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
