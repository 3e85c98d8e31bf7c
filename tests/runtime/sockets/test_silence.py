"""Connections whose other end falls silent. With a network of its own, in a process of its own: who leaves a network is out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
import zmq

from tidegate.runtime.addresses import free_port
from tidegate.runtime.chaos.calls.watched_dealer import watched_dealer
from tidegate.runtime.chaos.stage.network import may_have_network
from tidegate.runtime.sockets.backend import Backend
from tidegate.runtime.sockets.dealer import Dealer

CUT = """
import subprocess, sys
import zmq
from tidegate.runtime.chaos.stage.network import CALLERS, MachineNetwork, leave_network
from tidegate.runtime.sockets.silence import notice_silence
ROUTER = '''
import sys, zmq
router = zmq.Context().socket(zmq.ROUTER)
router.bind("tcp://0.0.0.0:7")
print("ready", flush=True)
while True:
    router.send_multipart(router.recv_multipart())
'''
leave_network()
with MachineNetwork(["other"]) as network:
    place = network.place("other")
    router = subprocess.Popen([*place.enter, sys.executable, "-c", ROUTER], stdout=subprocess.PIPE, text=True)
    assert router.stdout.readline() == "ready\\n"
    context = zmq.Context()
    idle, busy = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    monitors = []
    for dealer in (idle, busy):
        dealer.linger = 0
        notice_silence(dealer, 2)
        monitors.append(dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED))
        dealer.connect(f"tcp://{place.address}:7")
        dealer.send(b"hello")
        assert dealer.poll(30_000)
        dealer.recv()
    assert not any(monitor.poll(3_000) for monitor in monitors), "the other kernel answers"
    network.cut([(CALLERS, "other"), ("other", CALLERS)])
    busy.send(b"lost")
    for monitor in monitors:
        assert monitor.poll(30_000), "nobody has noticed"
    router.kill()
    context.destroy(linger=0)
"""


@pytest.mark.root
def test_a_connection_whose_way_is_cut_is_lost_whether_something_was_sent_or_not() -> None:
    if why := may_have_network():
        pytest.skip(f"needs a network of its own: {why}")
    done = subprocess.run([sys.executable, "-c", CUT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_socket_of_ours_asks_by_heartbeats_of_zmtp() -> None:
    async def main(context: zmq.Context[Any]) -> None:
        secret = zmq.curve_keypair()[1].decode()
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        backend = Backend(context, endpoint, asyncio.get_running_loop(), lambda _: None, lambda: None, secret=secret)
        link = Dealer(context, [endpoint], reconnect=True)
        with watched_dealer(context, endpoint) as watched:
            for socket in (backend._socket, link.socket, watched._dealer):
                assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
                assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
                assert socket.getsockopt(zmq.TCP_MAXRT) not in (-1, 0), (
                    "else what was sent keeps a dead connection for a quarter of an hour"
                )
        link.close()
        backend.close()

    with zmq.Context() as context:
        asyncio.run(main(context))
        context.destroy(linger=0)
