from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from benchmarks.load import Door, Job, run_job
from benchmarks.workloads import WORKLOADS, BenchmarkFailed
from runtime.control import Topology
from runtime.slots import SlotTable

Answer = Callable[[list[Any]], list[Any]]


class Server:
    """Answers batches of calls by a function, in a thread, until it is closed."""

    def __init__(self, endpoint: str, answer: Answer) -> None:
        self.endpoint = endpoint
        self.batches: list[int] = []
        self._answer = answer
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(endpoint)
        self._stop, self._stopped = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._stop.bind("inproc://stop")
        self._stopped.connect("inproc://stop")
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stop, zmq.POLLIN)
        while self._stop not in dict(poller.poll()):
            client, body = self._socket.recv_multipart()
            calls = msgspec.msgpack.decode(body)
            self.batches.append(len(calls))
            self._socket.send_multipart([client, msgspec.msgpack.encode([self._answer(call) for call in calls])])

    def close(self) -> None:
        self._stopped.send(b"")
        self._thread.join()
        self._context.destroy(linger=0)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], Server]]:
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(f"ipc://{tmp_path}/{len(servers)}", answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def counting() -> Answer:
    counters: dict[str, int] = {}

    def answer(call: list[Any]) -> list[Any]:
        number, _, name, _, _ = call
        counters[name] = counters.get(name, -1) + 1
        return [number, 0, counters[name]]

    return answer


def job(*servers: Server, concurrency: int = 4) -> Job:
    door = Door(tuple(server.endpoint for server in servers), tuple(range(len(servers))))
    return Job(door, WORKLOADS["unique"], concurrency=concurrency, requests=40, objects=10, prefix="x")


def test_a_load_counts_the_measured_calls_and_not_the_first_one_to_each_object(serve: Callable[[Answer], Server]) -> None:
    server = serve(counting())
    load = run_job(job(server))
    assert load.requests == 40
    assert sum(server.batches) == 50
    assert load.elapsed_s > 0
    assert set(load.percentiles_ms) == {"p50", "p90", "p99", "p99.9", "max"}
    assert load.cpu_us["load"] > 0


def test_never_more_calls_than_the_concurrency_are_in_flight(serve: Callable[[Answer], Server]) -> None:
    server = serve(counting())
    run_job(job(server, concurrency=3))
    assert max(server.batches[1:]) <= 3  # The first batch is the first call to each object.


def test_calls_go_to_the_worker_that_owns_the_object(serve: Callable[[Answer], Server]) -> None:
    servers = [serve(counting()), serve(counting())]
    run_job(job(*servers))
    assert all(server.batches for server in servers)
    topology = Topology(epoch=1, owners=(0, 1, 1, 0), endpoints=("a", "b"))
    door = Door(("a", "b"), topology.owners)
    for name in map(str, range(100)):
        assert door.endpoints[door.endpoint_of("Counter", name)] == SlotTable(topology).endpoint_of("Counter", name)


def test_a_number_given_twice_fails_the_run(serve: Callable[[Answer], Server]) -> None:
    with pytest.raises(BenchmarkFailed, match="unique"):
        run_job(job(serve(lambda call: [call[0], 0, 0])))


def test_an_error_fails_the_run_and_is_shown(serve: Callable[[Answer], Server]) -> None:
    with pytest.raises(BenchmarkFailed, match="overloaded"):
        run_job(job(serve(lambda call: [call[0], 1, {"code": "overloaded"}])))
