"""Machines that hear each other, or do not, as they are told. Each test is a process of its own: who leaves a network is out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tidegate.runtime.chaos.stage.network import may_have_network

BEGINNING = """
import socket, subprocess, sys
from tidegate.runtime.chaos.stage.network import CALLERS, MachineNetwork, leave_network
LISTEN = '''
import socket
at = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
at.bind(("0.0.0.0", 7))
print("ready", flush=True)
while True:
    print(at.recv(99).decode(), flush=True)
'''
SAY = '''
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 7))
'''
def listener(place):
    process = subprocess.Popen([*place.enter, sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\\n"
    return process
def say(sender, receiver, word):
    subprocess.run([*sender.enter, sys.executable, "-c", SAY, receiver.address, word], check=True)
leave_network()
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    if why := may_have_network():
        pytest.skip(f"needs a network of its own: {why}")
    return subprocess.run([sys.executable, "-c", BEGINNING + script], capture_output=True, text=True, check=False)


@pytest.mark.root
def test_a_cut_has_a_direction_and_an_end() -> None:
    done = run(
        """
with MachineNetwork(["a", "b", "c"]) as network:
    a, b, c, here = (network.place(name) for name in ("a", "b", "c", CALLERS))
    hears = listener(b)
    say(a, b, "before")
    network.cut([("a", "b"), (CALLERS, "b")])
    assert network.cuts
    say(a, b, "lost"), say(here, b, "lost, too")
    say(c, b, "others")
    back = listener(a)
    say(b, a, "the other way")
    assert back.stdout.readline() == "the other way\\n"
    network.heal()
    say(a, b, "after"), say(here, b, "and from here")
    said = [hears.stdout.readline().strip() for _ in range(4)]
    assert said == ["before", "others", "after", "and from here"], said
    hears.kill(), back.kill()
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.root
def test_no_address_outside_is_reached() -> None:
    done = run(
        """
import errno
with MachineNetwork(["a"]) as network:
    for enter in ((), network.place("a").enter):
        looked = subprocess.run([*enter, "ip", "route"], capture_output=True, text=True, check=True).stdout
        assert looked.split()[0] == "192.0.2.0/24" and len(looked.splitlines()) == 1, looked
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.root
def test_nothing_is_left_of_it_when_its_process_is_killed() -> None:
    done = run(
        """
import os, signal
network = MachineNetwork(["a"]).__enter__()
print(network.place("a").enter[1].split("/")[2], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert done.returncode == -9, done.stderr
    holder = int(done.stdout)
    wait_until_gone(holder)


def wait_until_gone(pid: int) -> None:
    import psutil

    from tests.support.waiting import wait_until

    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", "the holder to end")
