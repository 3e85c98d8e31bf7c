#!/usr/bin/env bash
# uvloop 0.23.0: `call_at` and `call_later` return a TimerHandle, as asyncio does, unless the time has come already: then what
# they return is a plain Handle, which has no `when()`. asyncio's own loop returns a TimerHandle in both cases. A program that
# asks its timer when it was due works until the first deadline that has passed when it is set.
#
# Seen on 2026-11-28, Python 3.11.7:
#   asyncio: in 1 s TimerHandle True, now TimerHandle True
#   uvloop:  in 1 s TimerHandle True, now Handle False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvloop==0.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys

import uvloop


async def look() -> tuple[str, bool, str, bool]:
    loop = asyncio.get_running_loop()
    later, now = loop.call_later(1, print), loop.call_at(loop.time(), int)
    later.cancel()
    return type(later).__name__, hasattr(later, "when"), type(now).__name__, hasattr(now, "when")


def show(name: str, found: tuple[str, bool, str, bool]) -> None:
    print(f"{name:8} in 1 s {found[0]} {found[1]}, now {found[2]} {found[3]}")


plain = asyncio.run(look())
show("asyncio:", plain)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    fast = runner.run(look())
show("uvloop:", fast)
sys.exit(0 if plain[3] and fast[1] and not fast[3] else "this has changed")
PYTHON
