"""Calls a durable counter and prints the number, with nothing but a socket:  python client.py [HOST:PORT [NAME]]

What a language without a ZeroMQ library needs of ZMTP 3: a greeting, one command, and frames. A frame is a byte of flags
(1: more follow, 2: long, 4: a command), its length in one byte or eight, and as many bytes."""

import json
import socket
import sys

host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7711").removeprefix("tcp://").rpartition(":")
name = sys.argv[2] if len(sys.argv) > 2 else "alice"
stream = socket.create_connection((host, int(port)), timeout=10).makefile("rwb")


def send(flags: int, data: bytes) -> None:
    length = len(data).to_bytes(1) if len(data) < 256 else len(data).to_bytes(8)
    stream.write(bytes([flags | 2 * (len(data) > 255)]) + length + data)
    stream.flush()


def receive(commands: bool) -> bytes:
    while True:
        flags = stream.read(1)[0]
        data = stream.read(int.from_bytes(stream.read(8 if flags & 2 else 1)))
        if bool(flags & 4) == commands:  # Later commands are heartbeats, which nobody sends to who does not.
            return data


stream.write(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48))
stream.flush()
stream.read(64)
send(4, b"\x05READY\x0bSocket-Type" + (6).to_bytes(4) + b"DEALER")
receive(commands=True)
send(0, json.dumps([1, "Counter", name, "get_unique_number"]).encode())
_, status, result = json.loads(receive(commands=False))
print(result if status == 0 else sys.exit(f"{result['code']}: {result['message']} ({result['outcome']})"))
