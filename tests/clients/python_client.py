"""The Python clients as programs like the examples of other languages: WHICH ENDPOINT NAME. They print a number."""

from __future__ import annotations

import asyncio
import sys

import tidegate
from tidegate.runtime.cli.cli import main

WAIT_S = 8.0


async def count(endpoint: str, name: str) -> int:
    async with tidegate.connect(endpoint, connect_timeout=WAIT_S) as client:
        number: int = await client.call("Counter", name, "get_unique_number")
        return number


def count_sync(endpoint: str, name: str) -> int:
    with tidegate.connect_sync(endpoint, connect_timeout=WAIT_S) as client:
        number: int = client.call("Counter", name, "get_unique_number")
        return number


def run(which: str, endpoint: str, name: str) -> int:
    if which == "command":
        return main(["call", "--connect", endpoint, "Counter", name, "get_unique_number"])
    try:
        print(count_sync(endpoint, name) if which == "sync" else asyncio.run(count(endpoint, name)))
    except tidegate.CallError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
