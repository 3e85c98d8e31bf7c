#!/usr/bin/env bash
# pyzmq 27.1.0 with libzmq 4.3.5: ZMQ_RECONNECT_IVL_MAX lets the pauses between tries grow only where nobody listens. Where the
# connection stands and the other side ends the greeting, as for a client of CURVE that has the public key of another service, each
# try begins with ZMQ_RECONNECT_IVL anew: seven times a second for ever, whatever the maximum is. Only ZMQ_RECONNECT_IVL itself
# helps, which also counts where a service is away for a moment; or another socket in the place of the one that was turned away.
#
# Seen on 2026-11-30, Python 3.11.7, tries in eight seconds:
#   as it is: 53
#   maximum of 1,000 ms: 78
#   pause of 1,000 ms: 6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyzmq==27.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import time

import zmq


def tries(seconds: float, **options: int) -> int:
    """Of a client that knows the service by a wrong key."""
    context = zmq.Context()
    with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as client:
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = zmq.curve_keypair()
        port = router.bind_to_random_port("tcp://127.0.0.1")
        client.linger = 0
        client.curve_serverkey = zmq.curve_keypair()[0]
        client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
        for name, value in options.items():
            setattr(client, name, value)
        monitor = client.get_monitor_socket(zmq.EVENT_CONNECTED)
        client.connect(f"tcp://127.0.0.1:{port}")
        count, until = 0, time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if monitor.poll(int(left * 1000) + 1):
                monitor.recv_multipart()
                count += 1
        client.disable_monitor()
        monitor.close()
    context.term()
    return count


found = {
    "as it is": tries(8),
    "maximum of 1,000 ms": tries(8, reconnect_ivl_max=1_000),
    "pause of 1,000 ms": tries(8, reconnect_ivl=1_000),
}
for what, count in found.items():
    print(f"{what}: {count}")
assert found["maximum of 1,000 ms"] > 3 * found["pause of 1,000 ms"], found
PYTHON
