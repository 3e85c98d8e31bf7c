"""File descriptors: how many there may be, and what is said when there are none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from tidegate.runtime.descriptors import in_use, kept
from tidegate.runtime.sockets.context import new_context

ROOT = Path(__file__).parents[2]

RAISED = """
import resource
from tidegate.runtime.descriptors import limit, raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE), limit())
"""

POOR = """
import asyncio, os, resource, tidegate
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + {left}, 4_000))
async def main():
    clients = []
    while True:
        client = tidegate.connect("tcp://127.0.0.1:7829", direct=False)
        await client.__aenter__()
        clients.append(client)
def main_sync():
    clients = []
    while True:
        client = tidegate.connect_sync("tcp://127.0.0.1:7829", direct=False)
        clients.append(client)
        client._take_lines(5.0)
try:
    {call}
except tidegate.Unavailable as error:
    print(error)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_limit_is_raised_as_far_as_the_system_allows() -> None:
    assert run(RAISED) == "(300, 300) 300"


def test_a_quarter_is_kept_between_bounds() -> None:
    assert [kept(limit) for limit in (64, 256, 1_024, 20_000, 1 << 20)] == [32, 64, 256, 4_096, 4_096]


def test_what_is_in_use_is_counted() -> None:
    before = in_use()
    with open("/dev/null"):
        assert in_use() == before + 1


def test_a_context_has_no_bound_of_its_own_on_sockets() -> None:
    with new_context() as context:
        assert context.get(zmq.MAX_SOCKETS) > 60_000


@pytest.mark.parametrize("call", ["asyncio.run(main())", "main_sync()"])
@pytest.mark.parametrize("left", [5, 15, 20, 27, 34, 41])
def test_a_client_that_can_have_no_descriptor_says_what_to_do(left: int, call: str) -> None:
    said = run(POOR.format(left=left, call=call))
    assert re.match(r"connect.*: this process has hardly a file descriptor left \(its limit is \d+\); raise the limit", said)
    assert "ulimit -n" in said


CROWD = """
import resource, tidegate
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
client = tidegate.connect_sync("tcp://127.0.0.1:7829", direct=False)
lines = [client._take_lines(5.0) for _ in range(600)]
for each in lines:
    each.close()
print(len(lines))
"""


def test_as_many_threads_may_share_a_client_as_there_are_descriptors() -> None:
    assert run(CROWD) == "600"


NONE_LEFT = """
import os, resource
from tidegate.runtime import descriptors
descriptors.in_use_if_cheap = lambda: 0  # As before Linux 6.2.
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 4_000))
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
except OSError:
    print(descriptors.in_use(), descriptors.limit())
"""


def test_also_where_the_names_have_to_be_read_and_no_descriptor_is_left_for_that() -> None:
    assert run(NONE_LEFT) == "50 50"
