#!/usr/bin/env bash
# nats-py 2.16.0: a task that is cancelled while `publish` waits for a server that reads nothing is not cancelled. `publish` returns
# as if it had succeeded, and the task goes on with whatever comes next: `_flush_pending` catches CancelledError and passes. So a
# timeout around it (`asyncio.timeout`, `wait_for`) does not end it either, and a program that cancels its tasks once and waits
# for them waits for ever. It happens when more than `pending_size` bytes are waiting.
#
# Seen on 2026-11-29, Python 3.11.7:
#   publish returned after the cancellation: True, the task was cancelled: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nats-py==2.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import os

from nats.aio.client import Client

INFO = b'INFO {"server_id":"x","version":"2.15.1","max_payload":8388608,"headers":true}\r\n'


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greets, and then reads nothing, as a server that was stopped."""
    writer.write(INFO)
    while not (await reader.readline()).startswith(b"PING"):
        pass
    writer.write(b"PONG\r\n")
    await asyncio.Event().wait()


async def look() -> tuple[bool, bool]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client()
    port = server.sockets[0].getsockname()[1]
    await client.connect(f"nats://127.0.0.1:{port}", pending_size=1 << 20, allow_reconnect=False)
    returned = False

    async def publish() -> None:
        nonlocal returned
        await client.publish("subject", bytes(4 << 20))
        await client.publish("subject", bytes(4 << 20))
        returned = True
        await asyncio.Event().wait()

    task = asyncio.create_task(publish())
    await asyncio.sleep(1)
    assert not task.done()
    assert not returned, "the server has read it all"
    task.cancel()
    await asyncio.wait({task}, timeout=2)
    if not task.done():
        task.cancel()  # Once for each publish.
        await asyncio.sleep(0.5)
    return returned, task.done() and task.cancelled()


returned, cancelled = asyncio.new_event_loop().run_until_complete(look())
print(f"publish returned after the cancellation: {returned}, the task was cancelled: {cancelled}", flush=True)
os._exit(0 if returned and not cancelled else 1)
PYTHON
