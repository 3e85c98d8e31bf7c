"""A service whose routers share one port: the kernel deals its clients to them, and the loss of one is a matter for its own
clients only."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

import tidegate
from tests.support.crowd import Crowd
from tests.support.load import (
    CONNECTION_LOST,
    REFUSED_CODES,
    UNKNOWN_CODES,
    assert_only,
    errors_of,
    finish,
    judge,
    start_clients,
    total,
    under_load,
    wait_for_answers,
    wait_for_new_answers,
)
from tests.support.service import COUNTER, KILLED_BY_TEST, STOP_WITHIN_S, TIDEGATE, Serve, Service, ask, exchange
from tests.support.waiting import wait_until
from tidegate import CallError

NAMES = [f"c{number}" for number in range(300)]
ROUTERS = ("router 0", "router 1")
CLIENTS = 16
"""So many connections are all at one router once in 30,000 runs."""
ALLOWED = {**UNKNOWN_CODES, **REFUSED_CODES, CONNECTION_LOST[0]: CONNECTION_LOST[1]}


def two_routers(serve: Serve, *options: str, **more: Any) -> Service:
    return serve(3, "--routers", "2", *options, **more)


def processes(service: Service) -> dict[str, Any]:
    return {process["name"]: process for process in service.status()["processes"]}


def messages_in(service: Service) -> list[int]:
    """What each router had read when it was asked last."""
    known = processes(service)
    return [known[name]["statistics"].get("messages_in", 0) for name in ROUTERS]


def wait_until_both_answer_new_connections(service: Service) -> None:
    """Each call of `status` is a connection of its own."""
    wait_until(lambda: service.status()["router"]["name"] == "router 0", "a connection to router 0")
    wait_until(lambda: service.status()["router"]["name"] == "router 1", "a connection to router 1")


def listening_sockets(service: Service, pid: int) -> int:
    port = int(service.endpoint.rpartition(":")[2])
    connections = psutil.Process(pid).net_connections("tcp")
    return sum(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


class PythonCallers:
    """Threads with a Python client each, all through the routers; every call is answered, one way or another, in time."""

    def __init__(self, endpoint: str, count: int) -> None:
        self.numbers: list[tuple[str, int]] = []
        self.outcomes: list[str] = []
        self.wrong: list[BaseException] = []
        self._endpoint = endpoint
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self, caller: int) -> None:
        try:
            with tidegate.connect_sync(self._endpoint, timeout=20, direct=False) as client:
                name = f"python{caller % 4}"
                while not self._stopped.is_set():
                    try:
                        self.numbers.append((name, client.call("Counter", name, "get_unique_number")))
                    except CallError as error:
                        self.outcomes.append(f"{error.code} {error.outcome}")
        except BaseException as error:  # To be told by the test's own thread.
            self.wrong.append(error)

    def finish(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a call was never answered"
        assert self.wrong == []
        assert len(set(self.numbers)) == len(self.numbers), "a number was given twice"


# Both serve


def test_clients_of_every_kind_are_dealt_to_both_routers_and_all_get_right_answers(serve: Serve) -> None:
    service = two_routers(serve)
    assert "2 routers, 3 workers" in service.output
    before = messages_in(service)
    crowd = Crowd(service.endpoint, 16, 20, ["TransactionCounter"], NAMES[:20])
    crowd.start()
    callers = PythonCallers(service.endpoint, CLIENTS)
    clients = start_clients(service, CLIENTS, NAMES, calls=300, window=16, batch=4)
    finish(clients)
    crowd.finish(60)
    callers.finish()
    assert errors_of(clients) == {}
    assert judge(service.endpoint, clients) == []
    assert sorted(number for member in crowd.members for name, number in member.confirmed if name == NAMES[0]) == list(range(16))
    assert callers.outcomes == []
    for name in {name for name, _ in callers.numbers}:
        given = sorted(number for of, number in callers.numbers if of == name)
        assert given == list(range(len(given)))
    wait_until(lambda: sum(messages_in(service)) >= sum(before) + CLIENTS * 75 + 16 * 20, "the numbers of both routers")
    after = messages_in(service)
    print(f"messages in: {before} before, {after} after")
    assert all(now > then + 100 for now, then in zip(after, before, strict=True))


def test_a_client_stays_with_its_router_and_its_calls_arrive_in_order(serve: Serve) -> None:
    service = two_routers(serve)
    with zmq.Context() as context:
        for _ in range(8):
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 0
                dealer.rcvtimeo = 20_000
                dealer.connect(service.endpoint)
                name = f"ordered{random.randrange(1 << 60)}"
                for first in range(0, 400, 4):
                    batch = [(n, "Counter", name, "get_unique_number") for n in range(first, first + 4)]
                    dealer.send(msgspec.msgpack.encode(batch))
                got: dict[int, int] = {}
                while len(got) < 400:
                    got |= {call: result for call, _, result in msgspec.msgpack.decode(dealer.recv())}
                assert got == {n: n for n in range(400)}
                seen = set()
                for _ in range(20):
                    dealer.send(msgspec.msgpack.encode([1, "", "", "status"]))
                    seen.add(msgspec.msgpack.decode(dealer.recv())[2]["router"]["name"])
                assert len(seen) == 1


# One is lost


@pytest.mark.parametrize("lost", ROUTERS)
def test_a_killed_router_costs_its_own_clients_a_reconnect_and_the_others_nothing(serve: Serve, lost: str) -> None:
    service = two_routers(serve)
    service.expect(KILLED_BY_TEST)
    pid = processes(service)[lost]["pid"]
    callers = PythonCallers(service.endpoint, 8)
    with under_load(service, CLIENTS, NAMES, window=32, batch=8) as clients:
        os.kill(pid, signal.SIGKILL)
        for number in range(30):  # New connections find somebody at once, whether the lost one is back or not.
            assert exchange(service.endpoint, "Counter", f"new{number}", "get_unique_number", timeout_s=5.0) == (0, 0)
        wait_for_new_answers(clients)
        service.wait_for_output(f"{lost} is ready again")
        wait_for_new_answers(clients)
    callers.finish()
    print(f"errors {errors_of(clients)}, of Python clients {callers.outcomes}")
    assert_only(clients, {CONNECTION_LOST[0]: CONNECTION_LOST[1]})
    assert set(callers.outcomes) <= {"shard_lost unknown"}
    unharmed = [client for client in clients if not +client.errors]
    assert 0 < len(unharmed) < CLIENTS
    assert all(len(client.confirmed) == client.sent for client in unharmed)
    assert judge(service.endpoint, clients) == []
    wait_until(lambda: processes(service)[lost]["restarts"] == 1, "the restart in the status")
    assert processes(service)[lost]["last_problem"] == "was killed by SIGKILL"
    wait_until_both_answer_new_connections(service)


def test_the_supervisor_keeps_no_socket_that_listens_and_each_router_has_one(serve: Serve) -> None:
    service = two_routers(serve)
    service.expect(KILLED_BY_TEST)
    for name in ROUTERS:
        os.kill(processes(service)[name]["pid"], signal.SIGKILL)
        service.wait_for_output(f"{name} is ready again")
        wait_until(lambda name=name: processes(service)[name]["restarts"] == 1, "the restart in the status")  # type: ignore[misc]  # its default
    assert [listening_sockets(service, pid) for pid in service.pids_of("router")] == [1, 1]
    assert listening_sockets(service, service.supervisor_pid) == 0
    assert sum(listening_sockets(service, pid) for pid in service.worker_pids()) == 0


def test_a_chosen_port_stays_when_every_router_is_lost_at_once(serve: Serve) -> None:
    service = two_routers(serve, "--listen", "tcp://127.0.0.1:0")
    service.expect(KILLED_BY_TEST)
    service.endpoint = service.wait_for_output(r"is ready on (\S+)")[1]
    with under_load(service, 8, NAMES, window=16, batch=4) as clients:
        for pid in service.pids_of("router"):
            os.kill(pid, signal.SIGKILL)
        wait_for_new_answers(clients)
    assert_only(clients, {CONNECTION_LOST[0]: CONNECTION_LOST[1]})
    assert judge(service.endpoint, clients) == []
    assert service.status()["listen"] == service.endpoint
    wait_until_both_answer_new_connections(service)


def test_a_router_that_hangs_is_killed_and_meanwhile_the_clients_of_the_other_are_served(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("[service]\nliveness_s = 1\n")
    service = two_routers(serve, "--config", str(tmp_path / "t.toml"))
    service.expect(r"had not answered for \d s", "is ready again")
    pid = processes(service)["router 1"]["pid"]
    with under_load(service, CLIENTS, NAMES, window=8, batch=2) as clients:
        os.kill(pid, signal.SIGSTOP)
        before = [client.answered for client in clients]
        service.wait_for_output(r"router 1 had not answered for \d s and was killed; starting it again")
        went_on = sum(client.answered > count + 100 for client, count in zip(clients, before, strict=True))
        wait_for_new_answers(clients)
    assert 0 < went_on < CLIENTS
    assert_only(clients, {CONNECTION_LOST[0]: CONNECTION_LOST[1]})
    assert judge(service.endpoint, clients) == []


def test_routers_and_workers_killed_at_random_lose_nothing_confirmed(serve: Serve) -> None:
    service = two_routers(serve)
    service.expect(KILLED_BY_TEST, "keeps failing")
    chance = random.Random(int(os.environ.get("SEED", "3")))
    with under_load(service, 8, NAMES, window=16, batch=4) as clients:
        for _ in range(5):
            for role in ("router", "shard"):
                if pids := service.pids_of(role):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chance.choice(pids), signal.SIGKILL)
            wait_for_new_answers(clients)
    print(f"errors {errors_of(clients)}")
    assert_only(clients, ALLOWED)
    assert judge(service.endpoint, clients) == []


# The end


@pytest.mark.alone
def test_a_stop_under_load_is_answered_by_both_routers(serve: Serve) -> None:
    service = two_routers(serve)
    clients = start_clients(service, CLIENTS, NAMES, until_refused=True)
    wait_for_answers(clients, 101)
    assert service.stop(STOP_WITHIN_S) == 0
    finish(clients)
    print(f"errors {errors_of(clients)}")
    assert_only(clients, {"unavailable": "not_executed"})
    assert total(clients, lambda client: client.answered) == total(clients, lambda client: client.sent)
    service.start(2)
    assert judge(service.endpoint, clients) == []


def test_a_service_of_two_routers_is_followed_on_its_port_by_one_of_one_router_and_back(serve: Serve) -> None:
    service = two_routers(serve)
    for routers in ("1", "2"):
        with under_load(service, 4, NAMES, window=8, batch=2) as clients:
            service.kill_everything()
            service.start(3, "--routers", routers)
            wait_for_new_answers(clients)
        assert_only(clients, ALLOWED)
        assert service.call("Counter", f"after {routers}", "get_unique_number") == 0


def test_a_second_service_cannot_take_half_of_the_clients_of_the_first(serve: Serve, tmp_path: Path) -> None:
    service = two_routers(serve)
    command = [*TIDEGATE, "serve", COUNTER, "--data", str(tmp_path / "other"), "--listen", service.endpoint, "--routers", "2"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert second.stderr.startswith(f"tidegate: listen {service.endpoint}: Address already in use (stop the process")
    for number in range(20):
        assert service.call("Counter", "a", "get_unique_number") == number


# Strangers


def test_garbage_on_both_routers_disturbs_nobody(serve: Serve) -> None:
    service = two_routers(serve)
    service.expect("did not speak ZMTP 3")
    pids, port = service.pids(), int(service.endpoint.rpartition(":")[2])
    chance = random.Random(1)
    with under_load(service, 4, NAMES, window=8, batch=2) as clients, zmq.Context() as context:
        context.linger = 0
        strangers = [context.socket(zmq.DEALER) for _ in range(CLIENTS)]
        raw = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(CLIENTS)]
        for dealer in strangers:
            dealer.connect(service.endpoint)
            for _ in range(100):  # An odd first byte can be no request by chance.
                dealer.send(b"\xc1" + chance.randbytes(chance.choice([0, 1, 100, 5_000])))
        for connection in raw:
            with contextlib.suppress(OSError):  # Closed by the router after the first wrong bytes.
                connection.sendall(chance.randbytes(10_000))
        for dealer in strangers:  # Who says something proper in the end is answered.
            dealer.rcvtimeo = 20_000
            dealer.send(msgspec.msgpack.encode([0, "Counter", "stranger", "current"]))
            assert msgspec.msgpack.decode(dealer.recv()) == [0, 0, 0]
            dealer.close()
        for connection in raw:
            connection.close()
        wait_for_new_answers(clients)
    assert errors_of(clients) == {}
    assert service.pids() == pids

    def malformed() -> list[int]:
        known = processes(service)
        return [known[name]["statistics"].get("malformed", 0) for name in ROUTERS]

    wait_until(lambda: sum(malformed()) == CLIENTS * 100, "the count of what was malformed")
    print(f"malformed: {malformed()}")
    assert all(malformed())


# Sockets of systemd

ACTIVATE = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def activated(serve: Serve) -> Callable[[int], Service]:
    """A service that is given its socket as a socket unit gives it; what it was told to listen on is not used."""

    def start(routers: int) -> Service:
        service = serve(2, start=False)
        port = service.endpoint.rpartition(":")[2]
        wrapper = [sys.executable, "-c", ACTIVATE, port]
        return service.start(2, "--routers", str(routers), "--listen", "tcp://127.0.0.1:1", wrapper=wrapper)

    return start


@pytest.mark.parametrize("routers", [1, 2])
def test_the_socket_of_a_socket_unit_is_served_and_keeps_connections_while_routers_are_down(
    activated: Callable[[int], Service], routers: int
) -> None:
    service = activated(routers)
    elsewhere = f"listens on {service.endpoint}, which systemd has opened, and not on tcp://127.0.0.1:1 of the configuration"
    service.expect(KILLED_BY_TEST, elsewhere)
    assert f"is ready on {service.endpoint}" in service.output
    assert elsewhere in service.output
    with under_load(service, 8, NAMES, window=8, batch=2) as clients:
        for pid in service.pids_of("router"):
            os.kill(pid, signal.SIGKILL)
        port = int(service.endpoint.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=5).close()  # Not refused, though nobody may be there.
        assert ask(service.endpoint, "Counter", "early", "get_unique_number") == 0
        wait_for_new_answers(clients)
    assert_only(clients, {CONNECTION_LOST[0]: CONNECTION_LOST[1]})
    assert judge(service.endpoint, clients) == []
