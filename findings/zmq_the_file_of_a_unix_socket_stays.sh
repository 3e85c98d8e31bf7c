#!/usr/bin/env bash
# pyzmq 27.1.0 with libzmq 4.3.5: a socket bound to `ipc:///path` leaves its file behind, whether the endpoint is unbound, the
# socket closed or the context terminated. The library removes only files whose names it chose itself (`ipc://*`). Who looks
# whether the file is there in order to know whether somebody listens is misled after every orderly end.
#
# Seen on 2026-11-28, Python 3.11.7:
#   a path of ours: bound True unbound True closed True
#   a path of the library's: bound True closed False
#   libzmq 4.3.5: after the context has ended the file of ours is there: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyzmq==27.1.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import sys
import time

import zmq

WAIT_S = 0.3  # The library closes listeners in a thread of its own.


def look(path: str, when: str) -> bool:
    time.sleep(WAIT_S)
    found = os.path.exists(path)
    print(f" {when} {found}", end="")
    return found


context = zmq.Context()
ours, unbound, chosen = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
print("a path of ours:", end="")
ours.bind("ipc://ours")
stays = [look("ours", "bound")]
unbound.bind("ipc://unbound")
unbound.unbind("ipc://unbound")
stays.append(look("unbound", "unbound"))
ours.close()
stays.append(look("ours", "closed"))
print("\na path of the library's:", end="")
chosen.bind("ipc://*")
path = chosen.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("ipc://")
was = look(path, "bound")
chosen.close()
goes = not look(path, "closed")
unbound.close()
context.term()
print()
stays.append(os.path.exists("ours"))
print(f"libzmq {zmq.zmq_version()}: after the context has ended the file of ours is there: {stays[-1]}")
sys.exit(0 if all(stays) and was and goes else "this has changed")
PYTHON
