"""A service that runs out of file descriptors: who is connected is served, and when the crowd has gone everybody is again."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from tests.support.service import Serve, Service, ask
from tests.support.waiting import wait_until

LIMIT = 256
HOARDER = str(Path(__file__).parent / "apps" / "hoarder.py")
FULL = "file descriptors are in use; nobody else is let in"


@pytest.fixture
def many() -> Iterator[zmq.Context[Any]]:
    """A context for many sockets, in a process that may have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4_000)
    yield context
    context.destroy(linger=0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def dealer(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[Any]:
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.rcvtimeo = 10_000
    socket.connect(endpoint)
    return socket


def number_from(socket: zmq.Socket[Any]) -> Any:
    socket.send(msgspec.msgpack.encode([1, "Counter", "polite", "get_unique_number"]))
    return msgspec.msgpack.decode(socket.recv())[1:]


def statistics_of(service: Service, role: str) -> dict[str, Any]:
    status = service.status()
    return dict(status["router"] if role == "router" else status["processes"][2]["statistics"])


@pytest.mark.parametrize("role", ["router", "worker"])
def test_a_crowd_that_takes_all_descriptors_shuts_out_only_itself(
    serve: Serve, many: zmq.Context[Any], role: str, tmp_path: Path
) -> None:
    service = serve(1, wrapper=("prlimit", f"--nofile={LIMIT // 2}:{LIMIT}"))
    service.expect(FULL)
    pids = service.pids()
    worker = next(each["endpoint"] for each in service.status()["processes"] if each["name"] == "worker 0")
    endpoint = service.endpoint if role == "router" else worker
    polite = dealer(many, endpoint)
    assert number_from(polite) == [0, 0]
    crowd = [dealer(many, endpoint) for _ in range(2 * LIMIT)]
    service.wait_for_output(FULL)
    for number in range(1, 20):
        assert number_from(polite) == [0, number]
        time.sleep(0.02)
    for each in crowd:
        each.close()
    service.wait_for_output("clients are let in again")
    assert number_from(dealer(many, endpoint)) == [0, 20]
    assert ask(service.endpoint, "Counter", "polite", "get_unique_number") == 21
    assert service.pids() == pids, "nobody has died of it"
    wait_until(lambda: statistics_of(service, role).get("times_full", 0) >= 1, "counted")
    wait_until(lambda: not statistics_of(service, role)["refuses_connections"], "let in again")


def test_a_crowd_that_comes_while_the_router_is_busy_takes_no_last_descriptor_and_leaves_nothing_behind(
    serve: Serve, many: zmq.Context[Any]
) -> None:
    """Before it can be noticed that they are too many, all of them have been accepted."""
    service = serve(1, wrapper=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))
    service.expect(FULL)
    router = psutil.Process(service.router_pid())
    polite, busy = dealer(many, service.endpoint), dealer(many, service.endpoint)
    assert number_from(polite) == [0, 0]
    batch = msgspec.msgpack.encode([[number, "Counter", "busy", "nothing"] for number in range(50_000)])
    for _ in range(4):
        busy.send(batch)
    time.sleep(0.1)
    crowd = [dealer(many, service.endpoint) for _ in range(2 * LIMIT)]
    service.wait_for_output(FULL)
    for number in range(1, 20):
        assert number_from(polite) == [0, number]
    wait_until(lambda: router.num_fds() < LIMIT - 10, "some descriptors that are left")
    used_s = sum(router.cpu_times()[:2])
    time.sleep(1.0)
    assert sum(router.cpu_times()[:2]) - used_s < 0.5, "it spins"
    for each in crowd:
        each.close()
    service.wait_for_output("clients are let in again")
    assert number_from(dealer(many, service.endpoint)) == [0, 20]


def test_what_the_app_opens_counts_too_and_clients_are_let_in_when_it_lets_go(serve: Serve, many: zmq.Context[Any]) -> None:
    service = serve(1, app=HOARDER, wrapper=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))
    service.expect(FULL)
    pids = service.pids()
    worker = next(each["endpoint"] for each in service.status()["processes"] if each["name"] == "worker 0")
    assert service.call("Hoarder", "a", "hoard", 20) > LIMIT // 2
    service.wait_for_output(FULL)
    crowd = [dealer(many, worker) for _ in range(40)]
    time.sleep(0.5)
    assert service.call("Hoarder", "a", "ping") == "pong"
    service.call("Hoarder", "a", "let_go")
    service.wait_for_output("clients are let in again")
    crowd[0].send(msgspec.msgpack.encode([1, "", "", "ping"]))
    assert msgspec.msgpack.decode(crowd[0].recv()) == [1, 0, "pong"]
    assert service.pids() == pids, "nobody has died of it"


def test_a_router_that_is_started_again_reaches_a_worker_that_is_full_of_clients(serve: Serve, many: zmq.Context[Any]) -> None:
    service = serve(1, wrapper=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))
    service.expect(FULL, "killed by SIGKILL", "is ready again")
    worker = next(each["endpoint"] for each in service.status()["processes"] if each["name"] == "worker 0")
    crowd = []
    for _ in range(LIMIT):
        crowd.append(dealer(many, worker))
        time.sleep(0.001)
    service.wait_for_output(FULL)
    router = service.router_pid()
    os.kill(router, signal.SIGKILL)
    wait_until(lambda: service.pids_of("router") not in ([], [router]), "another router")
    assert ask(service.endpoint, "Counter", "a", "get_unique_number") == 0
