"""Real sockets of this machine: who gets the connections, and who may have the port."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.sockets.port import SharedPort, SystemdSocket, open_port, start_listening


@pytest.fixture
def port() -> Iterator[SharedPort]:
    shared = SharedPort("tcp://127.0.0.1:0")
    yield shared
    shared.close()


def number_of(port: SharedPort) -> int:
    return int(port.endpoint.rpartition(":")[2])


def connect(port: SharedPort) -> socket.socket:
    return socket.create_connection(("127.0.0.1", number_of(port)), timeout=10)


def listening(port: SharedPort) -> socket.socket:
    """What a router has in the end."""
    opened = port.open()
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
    first, not_yet = listening(port), port.open()
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
    opened = [port.open() for _ in range(3)]
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
    with pytest.raises(OperatorError, match=f"listen {endpoint}: {problem} \\("):
        SharedPort(endpoint)


def test_one_router_makes_its_own_socket_and_several_need_a_port_of_tcp() -> None:
    assert open_port("tcp://127.0.0.1:0", 1, {}, 5) is None
    assert open_port("ipc:///run/t.sock", 1, {"LISTEN_FDS": "1", "LISTEN_PID": "6"}, 5) is None, "meant for another process"
    with pytest.raises(OperatorError, match=r"listen ipc:///run/t.sock: 2 routers cannot share a unix socket"):
        open_port("ipc:///run/t.sock", 2, {}, 5)


def test_sockets_of_systemd_that_are_not_exactly_one_are_refused() -> None:
    with pytest.raises(OperatorError, match="systemd passed 2 sockets, not 1"):
        open_port("tcp://127.0.0.1:0", 1, {"LISTEN_FDS": "2", "LISTEN_PID": "5"}, 5)


def test_every_router_accepts_from_the_one_socket_of_systemd() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unit = SystemdSocket(os.dup(listener.fileno()))
        assert unit.endpoint == f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        routers = [unit.open(), unit.open()]
        for router in routers:
            start_listening(router.fileno())
        clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        got = [router.accept()[0] for router in routers]
        with pytest.raises(BlockingIOError):
            routers[0].accept()
        close(*clients, *got, *routers)
        unit.close()


def test_a_unix_socket_of_systemd_is_named_by_its_path(tmp_path: os.PathLike[str]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/door")
        listener.listen()
        unit = SystemdSocket(os.dup(listener.fileno()))
        assert unit.endpoint == f"ipc://{tmp_path}/door"
        unit.close()


def test_what_systemd_passes_must_be_a_socket_that_listens() -> None:
    with socket.socket() as idle, pytest.raises(OperatorError, match="no socket of TCP or unix that listens"):
        SystemdSocket(os.dup(idle.fileno()))
    file = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OperatorError, match="no socket of TCP or unix that listens"):
        SystemdSocket(file)
    os.close(file)
