#!/usr/bin/env bash
# pyzmq 27.1.0 with libzmq 4.3.5: a peer that was refused (its ZAP handler said 400) is told nothing, never connects again, and can
# send once more: whether the message vanishes, or `send` waits for a connection that nobody makes, is a race between two threads of
# the library. What decides is whether the socket's own thread came by twice after the refusal. So a REQ client with a wrong key and
# a timeout for what it receives, as most examples have it, mostly ends after that timeout, and hangs once in a while. It needs
# ZMQ_SNDTIMEO as well, or a monitor.
#
# Seen on 2026-11-30, Python 3.11.7:
#   REQ: after two looks: waits
#   DEALER: after two looks: waits
# and without a look "sends" or "waits", changing from run to run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyzmq==27.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import threading

import zmq
from zmq.utils.monitor import recv_monitor_message


def refuse(zap: zmq.Socket, over: threading.Event) -> None:
    while not over.is_set():
        if zap.poll(50):
            version, number, *_ = zap.recv_multipart()
            zap.send_multipart([version, number, b"400", b"not you", b"", b""])
    zap.close()


def has_sent(kind: int, looks: int) -> bool:
    """By a client that was refused, and whose thread came by so many times since."""
    context, over = zmq.Context(), threading.Event()
    zap = context.socket(zmq.REP)
    zap.bind("inproc://zeromq.zap.01")
    thread = threading.Thread(target=refuse, args=(zap, over))
    thread.start()
    with context.socket(zmq.ROUTER) as router, context.socket(kind) as client:
        router.zap_domain = b"doors"
        client.linger, client.sndtimeo = 0, 2_000
        port = router.bind_to_random_port("tcp://127.0.0.1")
        monitor = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        client.connect(f"tcp://127.0.0.1:{port}")
        event = recv_monitor_message(monitor)
        assert event["value"] == 400, event
        threading.Event().wait(0.5)
        for _ in range(looks):
            client.get(zmq.EVENTS)
            threading.Event().wait(0.2)
        try:
            client.send(b"hello")
            sent = True
        except zmq.Again:
            sent = False
        client.disable_monitor()
        monitor.close()
    over.set()
    thread.join()
    context.term()
    return sent


for kind in (zmq.REQ, zmq.DEALER):
    told = {looks: "sends" if has_sent(kind, looks) else "waits" for looks in (0, 2)}
    print(f"{kind.name}: without a look: {told[0]}; after two looks: {told[2]}")
    assert told[2] == "waits", "who was refused may send"
PYTHON
