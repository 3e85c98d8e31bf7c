"""Contexts of clients that nobody has closed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.echo_service import echo_thread
from tests.support.waiting import wait_until
from tidegate.runtime.client.synchronous import connect_sync

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = {
    "calls that were refused": """
def ask():
    client = tidegate.connect_sync(endpoint)
    return client.stub("Echo", "").echo()
for _ in range(5):
    try:
        ask()
    except tidegate.BadRequest:
        pass
""",
    "a client that is not entered": """
client = tidegate.connect_sync(endpoint)
client.itself = client
assert client.ping() == "pong"
del client
""",
    "a loop that has ended": """
async def ask():
    client = tidegate.connect(endpoint)
    client.itself = client
    await client.__aenter__()
    assert await client.ping() == "pong"
asyncio.run(ask())
""",
}


def test_a_client_in_a_ring_that_nobody_has_closed_says_nothing_at_the_end_of_its_process(tmp_path: Path) -> None:
    program = """
import sys, threading, tidegate
client = tidegate.connect_sync(sys.argv[1])
threads = [threading.Thread(target=client.ping) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
client.ring = client
print("over")
"""
    with echo_thread(tmp_path) as running:
        command = [sys.executable, "-c", program, running.service.endpoint]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (result.stdout, result.stderr) == ("over\n", "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_that_is_dropped_unclosed_keeps_nobody_waiting_when_it_is_collected(tmp_path: Path, name: str) -> None:
    program = f"import asyncio, gc, sys, tidegate\nendpoint = sys.argv[1]\n{PROGRAMS[name]}\ngc.collect()\nprint('over')"
    with echo_thread(tmp_path) as running:
        command = [sys.executable, "-c", program, running.service.endpoint]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (result.stdout, result.stderr) == ("over\n", "")


def test_a_synchronous_client_that_is_dropped_gives_its_descriptors_back_at_once(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running:

        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        def ask() -> None:
            assert connect_sync(running.service.endpoint).ping() == "pong"

        ask()
        gc.disable()
        try:
            before = descriptors()
            for _ in range(5):
                ask()
            # Both ends are in this process, and the other one closes its own a moment later.
            wait_until(lambda: descriptors() <= before, f"{before} descriptors", seen=descriptors)
        finally:
            gc.enable()
