"""A service on this machine is found and asked past its routers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.runtime.cli.local import _NAME, is_same, is_trusted


@pytest.mark.parametrize(
    ("asked", "listens", "same"),
    [
        ("tcp://127.0.0.1:7711", "tcp://127.0.0.1:7711", True),
        ("tcp://localhost:7711", "tcp://127.0.0.1:7711", True),
        ("tcp://127.0.0.1:7711", "tcp://0.0.0.0:7711", True),
        ("tcp://[::1]:7711", "tcp://*:7711", True),
        ("tcp://127.0.0.1:7711", "tcp://127.0.0.1:7712", False),
        ("tcp://far.example:7711", "tcp://127.0.0.1:7711", False),
        ("tcp://far.example:7711", "tcp://0.0.0.0:7711", False),
        ("ipc:///run/a", "ipc:///run/a", True),
        ("ipc:///run/a", "ipc:///run/b", False),
        ("ipc:///run/a", "tcp://127.0.0.1:7711", False),
        ("tcp://127.0.0.1:7711", "ipc:///run/a", False),
    ],
)
def test_an_endpoint_that_is_asked_for_is_that_of_a_service_or_not(asked: str, listens: str, same: bool) -> None:
    assert is_same(asked, listens) is same


def test_sockets_of_supervisors_are_told_from_all_others_by_their_names() -> None:
    listed = (
        "ffff: 00000002 00000000 00010000 0001 01 1 /var/lib/tidegate/run/supervisor.0a1b2c3d\n"
        "ffff: 00000002 00000000 00010000 0001 01 2 /tmp/a b/supervisor.00000000\n"
        "ffff: 00000002 00000000 00010000 0001 01 3 @tidegate/supervisor.ffffffff\n"
        "ffff: 00000002 00000000 00010000 0001 01 4 /run/0.1.0a1b2c3d\n"
        "ffff: 00000002 00000000 00010000 0001 01 5\n"
        "ffff: 00000002 00000000 00010000 0001 01 6 /run/supervisor.sock\n"
    )
    assert _NAME.findall(listed) == [
        "/var/lib/tidegate/run/supervisor.0a1b2c3d", "/tmp/a b/supervisor.00000000", "@tidegate/supervisor.ffffffff",
    ]  # fmt: skip


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_who_listens_under_such_a_name_is_not_believed_unless_it_is_his_service() -> None:
    script = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
here = socket.socket(socket.AF_UNIX)
here.bind("")
here.listen()
print(here.getsockname()[1:].decode(), listening.getsockname()[1], flush=True)
input()
"""
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    other = subprocess.Popen([python, "-c", script], stdin=-1, stdout=-1, text=True, user=65534, cwd="/")
    assert other.stdout is not None
    name, port = other.stdout.readline().split()
    with socket.socket(socket.AF_UNIX) as asking, socket.create_server(("127.0.0.1", 0)) as ours:
        asking.connect(f"\0{name}")
        assert is_trusted(asking, f"tcp://127.0.0.1:{port}")
        assert not is_trusted(asking, f"tcp://127.0.0.1:{ours.getsockname()[1]}")
        assert not is_trusted(asking, "ipc:///run/somewhere")
    other.communicate("")


def test_this_user_is_believed() -> None:
    with socket.socket(socket.AF_UNIX) as here, socket.socket(socket.AF_UNIX) as asking:
        here.bind("")
        here.listen()
        asking.connect(here.getsockname())
        assert is_trusted(asking, "tcp://127.0.0.1:1")
