from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tidegate.benchmarks.load.generator import run_job
from tidegate.benchmarks.load.job import Door, Job
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import Topology

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


def job(*servers: Server, concurrency: int = 4, **more: Any) -> Job:
    door = Door(tuple(server.endpoint for server in servers), tuple(range(len(servers))))
    return Job(door, "unique", concurrency=concurrency, requests=40, objects=10, prefix="x", **more)


def test_a_load_counts_the_measured_calls_and_not_the_first_one_to_each_object(serve: Callable[[Answer], Server]) -> None:
    server = serve(counting())
    load = run_job(job(server))
    assert load.requests == 40
    assert sum(server.batches) == 50
    assert load.elapsed_s > 0
    assert load.histogram.count == 40
    assert load.cpu_s > 0


def test_never_more_calls_than_the_concurrency_are_in_flight(serve: Callable[[Answer], Server]) -> None:
    server = serve(counting())
    run_job(job(server, concurrency=3))
    assert max(server.batches[1:]) <= 3  # The first batch is the first call to each object.


def test_calls_go_to_the_worker_that_owns_the_object(serve: Callable[[Answer], Server]) -> None:
    servers = [serve(counting()), serve(counting())]
    run_job(job(*servers))
    assert all(server.batches for server in servers)
    topology = Topology(epoch=1, owners=(0, 1, 1, 0), endpoints=("a", "b"))
    door, table = Door(("a", "b"), topology.owners), SlotTable(topology)
    for name in map(str, range(100)):
        assert door.endpoints[door.endpoint_of("Counter", name)] == topology.endpoints[table.worker_of("Counter", name)]


def test_a_port_of_several_routers_gets_a_connection_to_each(serve: Callable[[Answer], Server]) -> None:
    answer, routers = counting(), iter(["router 1", "router 1", "router 1", "router 0"])

    def of_a_router(call: list[Any]) -> list[Any]:
        return [0, 0, {"router": {"name": next(routers)}}] if call[1:] == ["", "", "status"] else answer(call)

    server = serve(of_a_router)
    door = Door((server.endpoint,) * 2, (0, 1), front=server.endpoint)
    assert not door.is_direct
    load = run_job(Job(door, "unique", concurrency=8, requests=40, objects=10, prefix="x"))
    assert load.requests == 40
    assert next(routers, None) is None
    assert len(server.batches) > 4 + 2, "calls went over both connections"


def test_a_number_given_twice_fails_the_run(serve: Callable[[Answer], Server]) -> None:
    with pytest.raises(BenchmarkFailed, match="unique"):
        run_job(job(serve(lambda call: [call[0], 0, 0])))


def test_an_error_fails_the_run_and_is_shown(serve: Callable[[Answer], Server]) -> None:
    with pytest.raises(BenchmarkFailed, match="overloaded"):
        run_job(job(serve(lambda call: [call[0], 1, {"code": "overloaded"}])))


def test_latency_in_an_open_loop_counts_from_the_instant_at_which_a_call_was_due(serve: Callable[[Answer], Server]) -> None:
    answer, stalled = counting(), threading.Event()
    seen: list[int] = []

    def slow(call: list[Any]) -> list[Any]:
        seen.append(call[0])
        if len(seen) == 11:
            stalled.wait(0.1)  # One stall of the server, at the first measured call.
        return answer(call)

    load = run_job(job(serve(slow), concurrency=0, rate=2_000.0))
    late = sum(count for bucket, count in load.histogram.counts.items() if 1e-6 * 2 ** (bucket / 64) > 0.05)
    assert late > 20, "the stall is seen by every call that was due meanwhile, not by one"


def test_calls_are_repeated_until_the_time_is_over(serve: Callable[[Answer], Server]) -> None:
    load = run_job(job(serve(counting()), seconds=0.1))
    assert load.requests >= 80
    assert load.requests % 40 == 0
    assert load.elapsed_s >= 0.1


def test_an_object_that_others_call_too_must_still_answer_in_rising_order(serve: Callable[[Answer], Server]) -> None:
    answer = counting()

    def skipping(call: list[Any]) -> list[Any]:
        number, status, value = answer(call)
        return [number, status, 2 * value]

    shared = msgspec.structs.replace(job(serve(skipping)), objects=1, shared=True)
    load = run_job(shared)
    assert list(memoryview(load.numbers).cast("q")) == [2 * number for number in range(41)]
