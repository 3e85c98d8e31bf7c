"""A thread that does not come to it in time writes down its own stack, whatever keeps the interpreter."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tidegate.shard.worker.stack_timer import StackTimer

KEEPS_THE_INTERPRETER = """
import ctypes, sys
from tidegate.shard.worker.stack_timer import StackTimer

def keeps():
    ctypes.PyDLL(None).usleep(500_000)

timer = StackTimer(1)
timer.set(0.05)
keeps()
timer.close()
"""

REFUSED = """
try:
    timer = StackTimer(1)
except OSError as error:
    print(error)
    sys.exit()
"""

CHANGES_ALL_THE_TIME = """
import os, sys, threading, time
from tidegate.shard.worker.stack_timer import StackTimer

theirs, ours = os.pipe()
os.set_blocking(ours, False)
taken = []

def take():
    while said := os.read(theirs, 1 << 16):
        taken.append(len(said))

threading.Thread(target=take, daemon=True).start()
timer = StackTimer(ours)
ends_at = time.monotonic() + 2

def set_again():
    while time.monotonic() < ends_at:
        timer.set(0.0002)
        time.sleep(0.0015)

def deep(depth):
    if depth:
        source = chr(10) * depth * 7 + "def down(deep, depth): return [deep(depth - 1) for _ in (1,)]"
        names = {}
        exec(compile(source, "x" * depth * 11, "exec"), names)
        names.pop("down")(deep, depth)

sys.setswitchinterval(0.0001)
setting = threading.Thread(target=set_again)
setting.start()
depth = 0
while setting.is_alive():
    depth = (depth + 1) % 30
    deep(depth)
timer.close()
print(sum(taken) > 100_000)
"""


def run(program: str) -> str:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
    return ended.stdout


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    theirs, ours = os.pipe2(os.O_NONBLOCK)
    yield theirs, ours
    os.close(theirs)
    os.close(ours)


def test_the_stack_is_written_while_a_call_into_c_keeps_the_interpreter() -> None:
    heading, innermost, *_ = run(KEEPS_THE_INTERPRETER).splitlines()
    assert (heading, innermost.split(" in ")[1]) == ("Stack (most recent call first):", "keeps")


def test_a_stack_that_changes_all_the_time_is_written_often_and_the_process_lives() -> None:
    """One that was walked by another thread ended the process within a second."""
    assert run(CHANGES_ALL_THE_TIME) == "True\n"


def test_it_is_written_once_and_by_no_timer_that_is_set_again_in_time_or_closed(pipe: tuple[int, int]) -> None:
    theirs, ours = pipe
    timer = StackTimer(ours)
    timer.set(60.0)
    timer.set(0.001)
    wait_until(lambda: select.select([theirs], [], [], 0)[0], "a stack")
    assert os.read(theirs, 1 << 16).count(b"Stack (") == 1
    timer.set(60.0)
    timer.close()
    assert not select.select([theirs], [], [], 0)[0]


def test_a_timer_that_the_kernel_refuses_is_an_error() -> None:
    lines = "import resource", "resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))"
    assert "Resource temporarily unavailable" in run(
        "\n".join((*lines, KEEPS_THE_INTERPRETER.replace("timer = StackTimer(1)", REFUSED)))
    )
