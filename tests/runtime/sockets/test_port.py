"""Real sockets of this machine: who gets the connections, and who may have the port."""

import contextlib
import errno
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.sockets.port import KeptPort, Port, SharedPort, is_at, keep_port, open_port, start_listening, systemd_port

_ANOTHER_USER = 65_534


@pytest.fixture
def port() -> Iterator[SharedPort]:
    shared = SharedPort("tcp://127.0.0.1:0")
    yield shared
    shared.close()


def number_of(port: Port) -> int:
    return int(port.endpoint.rpartition(":")[2])


def connect(port: Port) -> socket.socket:
    return socket.create_connection(("127.0.0.1", number_of(port)), timeout=10)


def listening(port: Port) -> socket.socket:
    """What a router has in the end."""
    [opened] = port.open()
    start_listening(opened.fileno())
    return opened


def accepted(listener: socket.socket) -> list[socket.socket]:
    """Everything that waits to be accepted."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(listener.accept()[0])
    return found


def close(*sockets: socket.socket) -> None:
    for one in sockets:
        one.close()


def test_connections_are_dealt_to_all_who_listen(port: SharedPort) -> None:
    listeners = [listening(port) for _ in range(3)]
    clients = [connect(port) for _ in range(90)]
    dealt = [accepted(listener) for listener in listeners]
    assert sum(map(len, dealt)) == 90
    assert all(len(some) >= 10 for some in dealt)
    close(*listeners, *clients, *(one for some in dealt for one in some))


def test_a_socket_that_is_open_and_does_not_listen_yet_swallows_no_connection(port: SharedPort) -> None:
    first, [not_yet] = listening(port), port.open()
    clients = [connect(port) for _ in range(50)]
    got = accepted(first)
    assert len(got) == 50
    close(first, not_yet, *clients, *got)


def test_who_has_gone_gets_no_more_connections_and_his_successor_does(port: SharedPort) -> None:
    first, second = listening(port), listening(port)
    first.close()
    clients = [connect(port) for _ in range(50)]
    got = accepted(second)
    assert len(got) == 50
    second.close()
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    third = listening(port)  # While connections of the others live.
    clients.append(connect(port))
    got += accepted(third)
    assert len(got) == 51
    close(third, *clients, *got)


def test_a_port_of_zero_is_chosen_once() -> None:
    port = SharedPort("tcp://127.0.0.1:0")
    assert number_of(port) > 0
    opened = [port.open()[0] for _ in range(3)]
    assert {one.getsockname() for one in opened} == {("127.0.0.1", number_of(port))}
    close(*opened)
    port.close()


def test_nobody_else_can_have_the_port_whether_a_router_listens_or_all_are_down(port: SharedPort) -> None:
    message = f"listen {port.endpoint}: Address already in use \\(stop the process that uses it"
    with pytest.raises(OperatorError, match=message):
        SharedPort(port.endpoint)
    listener = listening(port)
    with pytest.raises(OperatorError, match=message):
        SharedPort(port.endpoint)
    listener.close()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", number_of(port)))


def test_connections_of_an_earlier_service_that_the_kernel_remembers_do_not_stop_the_next_one() -> None:
    earlier = SharedPort("tcp://127.0.0.1:0")
    listener = listening(earlier)
    client = connect(earlier)
    close(*accepted(listener), listener, client)  # Closed by the server first, whose end then lingers in TIME_WAIT.
    earlier.close()
    later = SharedPort(earlier.endpoint)
    close(listening(later))
    later.close()


@pytest.mark.parametrize(
    ("endpoint", "pattern", "reached_at"),
    [
        ("tcp://127.0.0.1:0", r"tcp://127\.0\.0\.1:\d+", ["127.0.0.1"]),
        ("tcp://lo:0", r"tcp://127\.0\.0\.1:\d+", ["127.0.0.1"]),
        ("tcp://[::1]:0", r"tcp://\[::1\]:\d+", ["::1"]),
        ("tcp://*:0", r"tcp://\[::\]:\d+", ["::1", "127.0.0.1"]),
    ],
)
def test_addresses_may_be_written_as_for_a_single_router(endpoint: str, pattern: str, reached_at: list[str]) -> None:
    port = SharedPort(endpoint)
    assert re.fullmatch(pattern, port.endpoint)
    listener = listening(port)
    for host in reached_at:
        socket.create_connection((host, number_of(port)), timeout=10).close()
    close(*accepted(listener), listener)
    port.close()


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [("tcp://nowhere:1", "No such device"), ("tcp://192.0.2.1:1", "Cannot assign requested address")],
)
def test_an_address_that_is_none_of_this_machine_is_refused_with_the_next_step(endpoint: str, problem: str) -> None:
    for routers in (1, 2):
        with pytest.raises(OperatorError, match=f"listen {endpoint}: {problem} \\("):
            open_port(endpoint, routers, {}, 5)


def test_a_path_that_cannot_be_is_refused_with_the_next_step() -> None:
    with pytest.raises(OperatorError, match=r"listen ipc:///no/such/directory/socket: No such file or directory \("):
        open_port("ipc:///no/such/directory/socket", 1, {}, 5)


def test_a_kept_port_takes_connections_before_any_router_is_there_and_while_one_is_replaced() -> None:
    port = keep_port("tcp://127.0.0.1:0")
    clients = [connect(port)]
    first = listening(port)
    second = listening(port)
    clients.append(connect(port))
    first.close()
    clients.append(connect(port))
    got = accepted(second)
    second.close()
    assert len(got) == 3
    clients.append(connect(port))
    third = listening(port)
    got += accepted(third)
    assert len(got) == 4
    close(third, *clients, *got)
    port.close()


def test_a_kept_port_is_nobody_elses() -> None:
    port = keep_port("tcp://127.0.0.1:0")
    with pytest.raises(OperatorError, match=f"listen {port.endpoint}: Address already in use \\(stop the process that uses it"):
        keep_port(port.endpoint)
    port.close()
    keep_port(port.endpoint).close()


def test_a_kept_port_listens_on_every_address_of_a_name_under_one_number() -> None:
    port = keep_port("tcp://localhost:0")
    hosts = {each.getsockname()[0] for each in port.open()}
    assert "127.0.0.1" in hosts
    for host in hosts:
        socket.create_connection((host, number_of(port)), timeout=10).close()
    assert port.endpoint.startswith("tcp://localhost:" if len(hosts) > 1 else "tcp://127.0.0.1:")
    port.close()


def test_a_unix_socket_is_kept_for_all_routers_and_its_file_goes_in_the_end(tmp_path: Path) -> None:
    door = f"ipc://{tmp_path}/door"
    port = open_port(door, 2, {"LISTEN_FDS": "1", "LISTEN_PID": "6"}, 5)  # Those are meant for another process.
    assert isinstance(port, KeptPort)
    assert port.endpoint == door
    routers = [listening(port), listening(port)]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/door")
        got = accepted(routers[1])
        assert len(got) == 1
    with pytest.raises(OperatorError, match=r"listen ipc://.*/door: Address already in use"):
        keep_port(door)
    close(*routers, *got)
    port.close()
    assert not list(tmp_path.iterdir())


def test_nobody_else_can_connect_to_a_unix_socket_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept = keep_port(f"ipc://{tmp_path}/door")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "door").stat().st_mode) == 0o600
    kept.close()


def test_what_an_earlier_service_has_left_at_the_path_of_a_unix_socket_is_taken_over_and_a_file_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/door")
    keep_port(f"ipc://{tmp_path}/door").close()
    (tmp_path / "door").write_text("mine")
    with pytest.raises(OperatorError, match="Address already in use"):
        keep_port(f"ipc://{tmp_path}/door")
    assert (tmp_path / "door").read_text() == "mine"


def test_who_listens_at_the_path_of_a_unix_socket_and_accepts_nobody_keeps_it_and_is_not_waited_for(tmp_path: Path) -> None:
    path = f"{tmp_path}/door"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as clients:
        busy.bind(path)
        busy.listen(0)
        while True:
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path) == errno.EAGAIN:
                break
        with pytest.raises(OperatorError, match="Address already in use"):
            keep_port(f"ipc://{path}")
    assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_a_unix_socket_that_takes_other_than_streams_keeps_its_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(f"{tmp_path}/door")
        with pytest.raises(OperatorError, match="Address already in use"):
            keep_port(f"ipc://{tmp_path}/door")
        assert (tmp_path / "door").exists()


@pytest.mark.root
def test_a_unix_socket_of_which_this_user_cannot_tell_whether_somebody_listens_is_left_alone() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as other:
        path = f"{folder}/door"
        other.bind(path)
        other.listen()
        os.chmod(path, 0o600)
        os.chmod(folder, 0o777)
        os.seteuid(_ANOTHER_USER)
        try:
            with pytest.raises(OperatorError, match="Address already in use"):
                keep_port(f"ipc://{path}")
        finally:
            os.seteuid(0)
        assert os.path.exists(path)


def test_a_unix_socket_that_somebody_else_has_made_since_is_left_alone(tmp_path: Path) -> None:
    port = keep_port(f"ipc://{tmp_path}/door")
    (tmp_path / "door").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/door")
        port.close()
        assert (tmp_path / "door").exists()


def test_a_unix_socket_without_a_file_is_kept_too() -> None:
    port = keep_port("ipc://@tidegate-test-of-ports")
    with pytest.raises(OperatorError, match="Address already in use"):
        keep_port("ipc://@tidegate-test-of-ports")
    port.close()
    keep_port("ipc://@tidegate-test-of-ports").close()


def test_sockets_of_systemd_that_are_not_exactly_one_are_refused() -> None:
    with pytest.raises(OperatorError, match="systemd passed 2 sockets, not 1"):
        open_port("tcp://127.0.0.1:0", 1, {"LISTEN_FDS": "2", "LISTEN_PID": "5"}, 5)


def test_every_router_accepts_from_the_one_socket_of_systemd() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unit = systemd_port(os.dup(listener.fileno()))
        assert unit.endpoint == f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        routers = [*unit.open(), *unit.open()]
        for router in routers:
            start_listening(router.fileno())
        clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        got = [router.accept()[0] for router in routers]
        with pytest.raises(BlockingIOError):
            routers[0].accept()
        close(*clients, *got, *routers)
        unit.close()


@pytest.mark.parametrize(
    ("endpoint", "bound", "same"),
    [
        ("tcp://127.0.0.1:7711", "tcp://127.0.0.1:7711", True),
        ("tcp://localhost:7711", "tcp://127.0.0.1:7711", True),
        ("tcp://lo:7711", "tcp://127.0.0.1:7711", True),
        ("tcp://*:7711", "tcp://[::]:7711", True),
        ("tcp://0.0.0.0:7711", "tcp://[::]:7711", True),
        ("tcp://no.such.name.invalid:7711", "tcp://127.0.0.1:7711", True),
        ("ipc:///run/shop.sock", "ipc:///run/shop.sock", True),
        ("tcp://127.0.0.1:7712", "tcp://127.0.0.1:7711", False),
        ("tcp://0.0.0.0:7711", "tcp://127.0.0.1:7711", False),
        ("tcp://[::1]:7711", "tcp://127.0.0.1:7711", False),
        ("ipc:///run/shop.sock", "tcp://127.0.0.1:7711", False),
        ("tcp://127.0.0.1:7711", "ipc:///run/shop.sock", False),
    ],
)
def test_a_socket_of_systemd_that_is_elsewhere_than_one_is_told_to_listen_is_noticed(
    endpoint: str, bound: str, same: bool
) -> None:
    assert is_at(endpoint, bound) is same


def test_a_unix_socket_of_systemd_is_named_by_its_path(tmp_path: os.PathLike[str]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/door")
        listener.listen()
        unit = systemd_port(os.dup(listener.fileno()))
        assert unit.endpoint == f"ipc://{tmp_path}/door"
        unit.close()


def test_what_systemd_passes_must_be_a_socket_that_listens() -> None:
    with socket.socket() as idle, pytest.raises(OperatorError, match="no socket of TCP or unix that listens"):
        systemd_port(os.dup(idle.fileno()))
    file = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OperatorError, match="no socket of TCP or unix that listens"):
        systemd_port(file)
    os.close(file)
