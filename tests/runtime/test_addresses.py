"""Endpoints and names: what is one, and that every address of a name is tried."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.echo_service import EchoService, echo_thread
from tests.support.waiting import wait_until_in_loop
from tidegate.runtime import addresses, descriptors
from tidegate.runtime.addresses import (
    check_address,
    check_cluster,
    check_door,
    check_endpoint,
    cluster_of,
    cluster_shown,
    has_name,
    is_of_this_machine,
    look_up,
)
from tidegate.runtime.client.asynchronous import connect
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.errors import OperatorError, Unavailable
from tidegate.runtime.sockets.port import SharedPort, keep_port

GETADDRINFO = socket.getaddrinfo


class Names:
    """What the names of these tests stand for; the rest the system knows."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}

    def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in self.hosts:
            return GETADDRINFO(host, port, *args, **kwargs)
        if kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        return [found for address in self.hosts[host] for found in GETADDRINFO(address, port, *args, **kwargs)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(addresses, "LOOK_UP_AGAIN_S", 0.02)
    monkeypatch.setattr("tidegate.runtime.client.shell.LOOK_UP_AGAIN_S", 0.02)
    return made


def port_of(endpoint: str) -> str:
    return endpoint.rpartition(":")[2]


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://*:1", "ipc:///tmp/x", "tcp://1.2.3.4:0;5.6.7.8:1"]
)
def test_what_is_an_address_already_is_left_to_zeromq(endpoint: str) -> None:
    assert check_endpoint(endpoint) is None
    assert not has_name(endpoint)


def test_a_name_stands_for_all_of_its_addresses_in_order_and_once(names: Names) -> None:
    names.hosts["two"] = ["::1", "127.0.0.1", "::1"]
    assert has_name("tcp://two:7")
    assert look_up("tcp://two:7") == ["tcp://[::1]:7", "tcp://127.0.0.1:7"]


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "no-such-host.invalid"])
def test_a_name_that_nobody_has_is_an_error_of_the_system(host: str) -> None:
    assert has_name(f"tcp://{host}:7")
    with pytest.raises(OSError, match=r"."):
        look_up(f"tcp://{host}:7")


@pytest.mark.parametrize("hosts", [["::1", "127.0.0.1"], ["127.0.0.1", "::1"], ["127.0.0.2", "::1", "127.0.0.1"]])
@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "tcp://[::1]:0"])
def test_the_client_finds_the_service_at_whichever_address_of_the_name_it_listens(
    tmp_path: Path, names: Names, hosts: list[str], listen: str
) -> None:
    names.hosts["service"] = hosts

    async def main() -> None:
        service = EchoService(tmp_path, listen=listen)
        async with asyncio.timeout(10), connect(f"tcp://service:{port_of(service.endpoint)}") as client:
            assert await client.stub("Echo", "a").echo(1) == [1]
        service.close()

    asyncio.run(main())


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "tcp://[::1]:0"])
def test_the_client_without_asyncio_finds_it_too(tmp_path: Path, names: Names, listen: str) -> None:
    names.hosts["service"] = ["::1", "127.0.0.1"]
    with (
        echo_thread(tmp_path, listen=listen) as running,
        connect_sync(f"tcp://service:{port_of(running.service.endpoint)}", timeout=5) as client,
    ):
        assert client.stub("Echo", "a").echo(1) == [1]


def test_a_name_is_looked_up_again_until_the_service_is_found_and_after_it_was_lost(tmp_path: Path, names: Names) -> None:
    names.hosts["service"] = ["127.0.0.2"]

    async def main() -> None:
        service = EchoService(tmp_path, workers=0, listen="tcp://127.0.0.3:0")
        port = port_of(service.endpoint)
        async with asyncio.timeout(10), connect(f"tcp://service:{port}", timeout=5) as client:
            early = client.stub("Echo", "a").echo(1)
            await asyncio.sleep(0.05)
            assert not early.done()
            names.hosts["service"] = ["127.0.0.3"]
            assert await early == [1]
            service.close()
            await wait_until_in_loop(lambda: client.statistics().links_connected == 0, "the loss of the link")
            names.hosts["service"] = ["127.0.0.4"]
            service = EchoService(tmp_path, workers=0, listen=f"tcp://127.0.0.4:{port}")
            assert await client.stub("Echo", "a").echo(2) == [2]
        service.close()

    asyncio.run(main())


def test_a_name_to_which_no_socket_could_be_had_is_tried_again(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.hosts["service"] = ["127.0.0.1"]
    refusals = iter([Unavailable("hardly a file descriptor left")] * 3)

    def require(operation: str) -> None:
        if operation.startswith("connect tcp:") and (refusal := next(refusals, None)) is not None:
            raise refusal

    async def main() -> None:
        service = EchoService(tmp_path, workers=0, listen="tcp://127.0.0.1:0")
        monkeypatch.setattr(descriptors, "require", require)
        async with asyncio.timeout(10), connect(f"tcp://service:{port_of(service.endpoint)}", direct=False) as client:
            assert await client.stub("Echo", "a").echo(1) == [1]
        service.close()

    asyncio.run(main())


def test_the_loop_goes_on_while_a_name_is_looked_up(tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        service = EchoService(tmp_path, listen="tcp://127.0.0.1:0")
        loop, asked, answer = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def slow(*args: Any, **kwargs: Any) -> Any:
            if args[0] == "slow" and not kwargs.get("flags"):
                loop.call_soon_threadsafe(asked.set)
                answer.wait(5)
                args = ("127.0.0.1", *args[1:])
            return names.getaddrinfo(*args, **kwargs)

        names.hosts["slow"] = []
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        async with asyncio.timeout(10), connect(f"tcp://slow:{port_of(service.endpoint)}") as client:
            call = client.stub("Echo", "a").echo(1)
            await asked.wait()
            answer.set()
            assert await call == [1]
        service.close()

    asyncio.run(main())


def answers(host: str, port: str) -> bool:
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_name_is_listened_on_at_every_address_that_this_machine_has(names: Names) -> None:
    names.hosts["here"] = ["::1", "203.0.113.1", "127.0.0.1"]
    port = keep_port("tcp://here:0")
    assert port.endpoint.startswith("tcp://here:")
    assert answers("127.0.0.1", port_of(port.endpoint))
    assert answers("::1", port_of(port.endpoint))
    port.close()


def test_a_name_of_which_one_address_is_taken_is_refused(names: Names) -> None:
    names.hosts["here"] = ["127.0.0.1", "::1"]
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other, pytest.raises(OperatorError, match="in use"):
        keep_port(f"tcp://here:{other.getsockname()[1]}")


@pytest.mark.parametrize("hosts", [["203.0.113.1"], ["203.0.113.1", "203.0.113.2"]])
def test_a_name_of_another_machine_is_refused(names: Names, hosts: list[str]) -> None:
    names.hosts["there"] = hosts
    with pytest.raises(OperatorError, match="Cannot assign"):
        keep_port("tcp://there:0")


def test_routers_that_share_a_port_listen_on_the_first_address_of_a_name_that_this_machine_has(names: Names) -> None:
    names.hosts["here"] = ["::1", "203.0.113.1", "127.0.0.1"]
    port = SharedPort("tcp://here:0")
    assert port.endpoint.startswith("tcp://127.0.0.1:")
    port.close()
    names.hosts["here"] = ["203.0.113.1", "::1"]
    port = SharedPort("tcp://here:0")
    assert port.endpoint.startswith("tcp://[::1]:")
    port.close()


@pytest.mark.parametrize("address", ["", "127.0.0.1:9464", "localhost:0", "[::1]:9464", "metrics.example.org:80"])
def test_an_address_for_http_has_a_host_and_a_port_or_is_empty(address: str) -> None:
    assert check_address(address) is None


@pytest.mark.parametrize(
    "address", [None, 9464, "9464", ":9464", "*:9464", "tcp://127.0.0.1:9464", "::1:9464", "a:70000", "a b:1"]
)
def test_what_is_no_address_for_http_is_told_an_example(address: object) -> None:
    assert "127.0.0.1:9464" in (check_address(address) or "")


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.9.9.9:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://[::ffff:127.0.0.1]:1", True),
        ("tcp://localhost:1", True),
        ("ipc:///run/x", True),
        ("ipc://@x", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://*:1", False),
        ("tcp://[::]:1", False),
        ("tcp://[::ffff:192.0.2.1]:1", False),
        ("tcp://192.0.2.1:1", False),
        ("tcp://eth0:1", False),
        ("tcp://no-such-host.invalid:1", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_of_this_machine_alone(endpoint: str, expected: bool) -> None:
    assert is_of_this_machine(endpoint) == expected


def test_a_cluster_is_three_servers_and_a_name() -> None:
    assert cluster_of("nats://a:1,nats://b:2,nats://c:3") == (("nats://a:1", "nats://b:2", "nats://c:3"), "tidegate")
    assert cluster_of("nats://a:1, b:2,[::1]:3/shop") == (("nats://a:1", "nats://b:2", "nats://[::1]:3"), "shop")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nats://a:1", "at least 3 servers"),
        ("a:1,a:1,a:1", "at least 3 servers"),
        ("a:1,b:2,c", "with their ports"),
        ("a:1,b:2,c:99999", "with their ports"),
        ("a:1,b:2,:3", "with their ports"),
        ("u:1,w@a:1,u:w@b:2,u:w@c:3", "each has its user"),
        ("a:1,b:2,c:3/", "perhaps a name of"),
        ("a:1,b:2,c:3/a b", "perhaps a name of"),
    ],
)
def test_what_names_no_cluster_is_refused(text: str, problem: str) -> None:
    assert problem in str(check_cluster(text))
    assert check_cluster("") is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a:1,b:2,c:3", "a:1,b:2,c:3"),
        ("nats://u:pass@a:1,u:p@ss@b:2,u:pass@[::1]:3/shop", "nats://***@a:1,nats://***@b:2,nats://***@[::1]:3/shop"),
        ("u:pa,ss@a:1,u:pass@b:2,u:pass@c:3", "***"),
        ("u:pa/ss@a:1,b:2,c:3", "***"),
        ("", ""),
        (7, 7),
    ],
)
def test_who_logs_in_to_a_cluster_is_not_shown(text: object, shown: object) -> None:
    assert cluster_shown(text) == shown


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "tcp://host-a:7712", "tcp://[::1]:7712"])
def test_other_hosts_are_told_an_address_that_they_can_reach(endpoint: str) -> None:
    assert check_door(endpoint) is None


@pytest.mark.parametrize(
    "endpoint", ["", "ipc:///run/door", "tcp://*:1", "tcp://[::]:1", f"tcp://{'.'.join('0000')}:1", "host-a:1", 7]
)
def test_what_other_hosts_cannot_reach_is_no_address_for_them(endpoint: object) -> None:
    assert "must be an address of this machine and a port" in str(check_door(endpoint))
