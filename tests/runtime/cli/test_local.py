"""A service on this machine is found and asked past its routers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import WITHIN_S
from tidegate.runtime.cli.local import (
    _NAME,
    STATUS_BYTES_MAX,
    TOLD_BYTES_MAX,
    _answers,
    _inodes_of,
    _listens,
    ask_supervisor,
    connect,
    is_same,
    is_trusted,
)
from tidegate.runtime.wire.commands import Command


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


ANOTHER_USER = """
import socket, sys
here = socket.socket(socket.AF_UNIX)
here.bind("")
here.listen()
def at(host, port):
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if listening.family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.bind((host, int(port)))
    listening.listen()
    return listening
listening = [at(*address.rsplit("/", 1)) for address in sys.argv[1:]]
print(here.getsockname()[1:].decode(), *(each.getsockname()[1] for each in listening), flush=True)
input()
"""


@contextlib.contextmanager
def another_user(*addresses: str) -> Iterator[tuple[socket.socket, list[str]]]:
    """Listens at them, `HOST/PORT`, and on a unix socket, to which one is connected. Its ports."""
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    command = [python, "-c", ANOTHER_USER, *addresses]
    other = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, user=65534, cwd="/")
    assert other.stdout is not None
    name, *ports = other.stdout.readline().split()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(f"\0{name}")
        yield asking, ports
    other.communicate("")


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.mark.root
@only_root
def test_another_user_who_listens_under_such_a_name_is_not_believed_unless_it_is_his_service() -> None:
    with another_user("127.0.0.1/0", "0.0.0.0/0") as (asking, (port, everywhere)), socket.create_server(("127.0.0.1", 0)) as ours:
        assert is_trusted(asking, f"tcp://127.0.0.1:{port}")
        assert is_trusted(asking, f"tcp://127.0.0.3:{everywhere}")
        assert not is_trusted(asking, f"tcp://127.0.0.1:{ours.getsockname()[1]}")
        assert not is_trusted(asking, f"tcp://127.0.0.2:{port}")
        assert not is_trusted(asking, "ipc:///run/somewhere")


@pytest.mark.root
@only_root
@pytest.mark.parametrize("his", ["127.0.0.2", "::1", "::"])
def test_another_user_who_listens_on_the_port_of_a_service_at_another_address_is_not_believed(his: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        with another_user(f"{his}/{port}") as (asking, _):
            assert not is_trusted(asking, f"tcp://127.0.0.1:{port}")
            assert not is_trusted(asking, f"tcp://localhost:{port}")


@pytest.mark.root
@only_root
def test_of_two_unix_sockets_of_one_name_neither_is_taken_for_the_service(tmp_path: Path) -> None:
    path = tmp_path / "router"
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(str(path))
        first.listen()
        assert _listens(os.getpid(), _inodes_of(f"ipc://{path}"))
        path.unlink()  # As it would be in a root of somebody else's.
        second.bind(str(path))
        second.listen()
        assert not _listens(os.getpid(), _inodes_of(f"ipc://{path}"))


def test_this_user_is_believed() -> None:
    with socket.socket(socket.AF_UNIX) as here, socket.socket(socket.AF_UNIX) as asking:
        here.bind("")
        here.listen()
        asking.connect(here.getsockname())
        assert is_trusted(asking, "tcp://127.0.0.1:1")


def test_where_all_who_may_wait_do_nobody_waits_longer_than_he_wants() -> None:
    with socket.socket(socket.AF_UNIX) as here, socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as late:
        here.bind("")
        here.listen(0)
        path = f"@{here.getsockname()[1:].decode()}"
        connect(first, path, 10.0)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
            connect(late, path, 0.2)
        assert 0.1 < time.monotonic() - began_s < 10


NOWHERE = "tcp://127.0.0.1:1"


SAYS = (b"", b"[" * 1_000_000, b'{"type":"status","status":{"a":' * 100_000, b"\xff", b'{"type":"status","status":7}')


@pytest.mark.parametrize("says", SAYS)
def test_what_cannot_be_read_is_no_answer(says: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(f"\0tidegate/supervisor.{os.urandom(4).hex()}")
        here.listen()

        def answer() -> None:
            asking, _ = here.accept()
            with asking:
                asking.recv(1 << 16)
                with contextlib.suppress(OSError):
                    asking.sendall(says)

        answering = threading.Thread(target=answer)
        answering.start()
        assert ask_supervisor(NOWHERE) is None
        answering.join(WITHIN_S)
        assert not answering.is_alive()


@pytest.mark.parametrize("bytes_max", [STATUS_BYTES_MAX, TOLD_BYTES_MAX])
def test_who_says_more_than_anybody_has_to_say_is_heard_no_longer(bytes_max: int) -> None:
    said = 0
    with socket.socket(socket.AF_UNIX) as here:
        here.bind("")
        here.listen()

        def talk() -> None:
            nonlocal said
            asking, _ = here.accept()
            with asking, contextlib.suppress(OSError):
                while True:
                    said += asking.send(bytes(1 << 16))

        talking = threading.Thread(target=talk)
        talking.start()
        path = f"@{here.getsockname()[1:].decode()}"
        assert list(_answers(Command("status"), [path], bytes_max=bytes_max)) == []
        talking.join(WITHIN_S)
        assert not talking.is_alive()
    assert said < bytes_max + (4 << 20), "what the socket holds, and one read more"


STRANGER = """
import os, socket
with socket.socket(socket.AF_UNIX) as here:
    here.bind("\\0tidegate/supervisor." + os.urandom(4).hex())
    here.listen()
    print(flush=True)
    asking, _ = here.accept()
    print(asking.recv(1 << 16))
"""


@pytest.mark.root
@only_root
def test_who_is_not_believed_is_not_asked() -> None:
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    stranger = subprocess.Popen([python, "-c", STRANGER], stdout=-1, text=True, user=65534, cwd="/")
    assert stranger.stdout is not None
    stranger.stdout.readline()
    assert ask_supervisor(NOWHERE) is None
    assert stranger.communicate(timeout=WITHIN_S)[0] == "b''\n"


def test_without_descriptors_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("tidegate.runtime.cli.local.supervisors", lambda: ["@tidegate/supervisor.00000000"])
    monkeypatch.setattr("tidegate.runtime.cli.local.socket.socket", none_left)
    assert ask_supervisor(NOWHERE) is None
