#!/usr/bin/env bash
# pyzmq 27.1.0 with libzmq 4.3.5: a peer ends a process that has a ROUTER by SIGABRT: `Assertion failed: !_io_error`. It sends more
# messages than the receiver's high-water mark, and among them a heartbeat (PING), and resets the connection. The library notes
# the error while it does not read, goes on with what it had read when there is room again, and answers the PING on a connection
# that it has given up. So does any peer with ZMQ_HEARTBEAT_IVL that dies while its receiver is busy. Without the PING nothing
# happens. (libzmq issues 3937 and 4364.)
#
# Seen on 2026-11-30, Python 3.11.7:
#   with a PING: ended by signal 6
#   without: read 200 messages
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyzmq==27.1.0
cd "$folder"
ulimit -c 0
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import struct
import subprocess
import sys

RECEIVER = """
import sys, zmq
router = zmq.Context().socket(zmq.ROUTER)
router.rcvhwm, router.linger = 16, 0
print(router.bind_to_random_port("tcp://127.0.0.1"), flush=True)
sys.stdin.readline()  # The peer has sent all, and gone.
count = 0
while router.poll(500):
    router.recv_multipart()
    count += 1
print(f"read {count} messages", flush=True)
"""


def frame(flags: int, content: bytes) -> bytes:
    return bytes([flags, len(content)]) + content


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = frame(4, b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER")
MESSAGE, PING = frame(0, b"hello"), frame(4, b"\x04PING\0\0")


def receive(connection: socket.socket, count: int) -> None:
    while count > 0:
        count -= len(connection.recv(count))


def outcome(sent: bytes) -> str:
    receiver = subprocess.Popen([sys.executable, "-c", RECEIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    connection = socket.create_connection(("127.0.0.1", int(receiver.stdout.readline())))
    connection.sendall(GREETING)
    receive(connection, len(GREETING))
    connection.sendall(READY)
    receive(connection, len(READY))
    connection.sendall(sent)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # To be closed by a reset.
    try:
        receiver.wait(0.5)  # It takes in what it may, and then the reset.
    except subprocess.TimeoutExpired:
        connection.close()
    try:
        receiver.wait(0.5)
    except subprocess.TimeoutExpired:
        pass
    said, _ = receiver.communicate(b"\n")
    return f"ended by signal {-receiver.returncode}" if receiver.returncode < 0 else said.decode().strip()


bad, good = outcome(MESSAGE * 100 + PING + MESSAGE * 100), outcome(MESSAGE * 200)
print(f"with a PING: {bad}\nwithout: {good}")
sys.exit(0 if bad == "ended by signal 6" and good.startswith("read ") else "this has changed")
PYTHON
