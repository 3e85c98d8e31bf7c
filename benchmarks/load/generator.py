"""The load generator: a process of its own that makes calls and checks every answer.

`python -m tidegate.benchmarks.load.generator` reads a `Job`, calls every object once, says that it is warm, waits for a
line, makes the measured calls and writes an `Outcome`. A *closed loop* keeps a fixed number of calls in flight. An *open loop*
sends at given instants, and latency counts from the instant at which a call was meant to be sent: a service that stalls does not
hide it.

The lean generator has raw DEALER sockets and puts all calls that may be sent now over one socket into one message. What it
costs is reported beside what the service costs, because on a small machine both share the cores.
"""

from __future__ import annotations

import random
import select
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

import msgspec
import zmq
from zmq.backend import Socket as BackendSocket

from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.client import BulkGenerator, ClientGenerator
from tidegate.benchmarks.load.job import Job, LoadGenerator, class_of, object_names, serve_job, show
from tidegate.benchmarks.load.workloads import (
    UNANSWERED,
    WORKLOADS,
    BenchmarkFailed,
    Block,
    check_answers,
    check_ascending,
    targets_by_zipf,
    targets_in_turn,
)
from tidegate.benchmarks.plan import Load

_send = BackendSocket.send
_recv = BackendSocket.recv
_get = cast("Callable[[Any, int], int]", BackendSocket.get)
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_SILENCE_S_MAX = 20.0
_WARM_UP_CONCURRENCY = 64
_MESSAGE_BYTES = 4 << 20
"""Calls with large arguments are sent in several messages of about this size."""
_CONNECTIONS_MAX = 100
"""To be made for each router until every one has been reached."""
_IN_FLIGHT_MAX = 100_000
"""An open loop that is so far behind has shown what it was to show."""


class _Answer(msgspec.Struct, array_like=True, gc=False):
    id: int
    status: int
    result: Any


class LeanGenerator:
    """One socket per endpoint; to a port of several routers one socket for each router."""

    def __init__(self, job: Job) -> None:
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._key = job.door.key
        self._sockets = self._connect_all(job.door.endpoints)
        self._fds = [int(socket.FD) for socket in self._sockets]
        self._poller = zmq.Poller()
        for socket in self._sockets:
            self._poller.register(socket, zmq.POLLIN)
        self._class_name = class_of(job)
        self._names = object_names(job)
        self._groups = [job.door.endpoint_of(self._class_name, name) for name in self._names]
        self._per_message = max(1, _MESSAGE_BYTES // WORKLOADS[job.workload].bytes_per_call)
        self._session = f"{random.SystemRandom().getrandbits(64):x}." if job.generator == "lean-keyed" else ""
        """What the keys of its calls begin with, if they have any."""
        self._calls_before = 0
        """Numbers of the session that earlier blocks have used."""
        self._answered = 0
        """Calls of this block before the first that is not answered."""
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[_Answer]).decode

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option in (zmq.RCVHWM, zmq.SNDHWM, zmq.LINGER):
            socket.setsockopt(option, 0)
        show(socket, self._key)
        socket.connect(endpoint)
        return socket

    def _connect_all(self, endpoints: Sequence[str]) -> list[zmq.Socket[bytes]]:
        """Which router gets a connection is the kernel's choice, so connections are made until every router has one."""
        sockets: list[zmq.Socket[bytes]] = []
        reached: set[tuple[str, str]] = set()
        for _ in range(_CONNECTIONS_MAX * len(endpoints)):
            endpoint = endpoints[len(sockets)]
            socket = self._connect(endpoint)
            if endpoints.count(endpoint) > 1:
                router = (endpoint, _router_of(socket))
                if router in reached:
                    socket.close()
                    continue
                reached.add(router)
            sockets.append(socket)
            if len(sockets) == len(endpoints):
                return sockets
        raise BenchmarkFailed(f"of the {len(endpoints)} routers only {len(sockets)} take connections")

    def close(self) -> None:
        self._context.destroy(linger=0)

    def call(self, block: Block, concurrency: int, results: list[Any]) -> array[float]:
        clock, poll = time.perf_counter, self._poller.poll
        total = len(block.targets)
        sent_at, latencies = array("d", bytes(8 * total)), array("d")
        sent, answered = 0, 0
        while answered < total:
            bound = min(answered + concurrency, total)
            if sent < bound:
                sent_at[sent:bound] = array("d", [clock()]) * (bound - sent)
                self._send(block, sent, bound, results)
                sent = bound
            ready = poll(round(_SILENCE_S_MAX * 1_000))
            if not ready:
                raise BenchmarkFailed(f"no answer for {_SILENCE_S_MAX:.0f} s with {total - answered} calls to go")
            answered += self._receive([socket for socket, _ in ready], sent_at, latencies, results)
        self._calls_before += total
        return latencies

    def call_at(self, block: Block, due_s: Sequence[float], results: list[Any]) -> array[float]:
        """The wait is select's, because that of ZeroMQ counts in whole milliseconds. Latency is from the instant meant."""
        clock, sockets, fds = time.perf_counter, self._sockets, self._fds
        started, total = clock(), len(block.targets)
        due_at, latencies = array("d", (started + due for due in due_s)), array("d")
        sent, answered = 0, 0
        while answered < total:
            now, bound = clock(), sent
            while bound < total and due_at[bound] <= now:
                bound += 1
            if bound > sent:
                self._send(block, sent, bound, results)
                sent = bound
            if sent - answered > _IN_FLIGHT_MAX:
                raise BenchmarkFailed(f"{sent - answered} calls wait for answers: the rate is too high for this service")
            received = self._receive(sockets, due_at, latencies, results)
            answered += received
            if received or (bound < total and due_at[bound] <= clock()):
                continue
            wait_s = due_at[sent] - clock() if sent < total else _SILENCE_S_MAX
            ready, _, _ = select.select(fds, (), (), max(0.0, wait_s))
            if not ready and sent == total:
                raise BenchmarkFailed(f"no answer for {_SILENCE_S_MAX:.0f} s with {total - answered} calls to go")
        self._calls_before += total
        return latencies

    def _send(self, block: Block, first: int, last: int, results: Sequence[Any]) -> None:
        """One message to each endpoint, as long as the calls are small."""
        names, groups, class_name, size = self._names, self._groups, self._class_name, self._per_message
        targets, methods, args = block.targets, block.methods, block.args
        batches: list[list[Any]] = [[] for _ in self._sockets]
        for number in range(first, last):
            target = targets[number]
            batches[groups[target]].append((number, class_name, names[target], methods[number], args[number]))
        if self._session:
            self._add_keys(batches, first, results)
        for socket, batch in zip(self._sockets, batches, strict=True):
            for start in range(0, len(batch), size):
                part = batch if len(batch) <= size else batch[start : start + size]
                _send(socket, self._encode(part), _NOBLOCK)

    def _add_keys(self, batches: list[list[Any]], first: int, results: Sequence[Any]) -> None:
        if not first:
            self._answered = 0
        while self._answered < first and results[self._answered] is not UNANSWERED:
            self._answered += 1
        session, before, answered = self._session, self._calls_before, self._calls_before + self._answered
        for batch in batches:
            batch[:] = [(*row, {"key": f"{session}{before + row[0]}", "answered": answered}) for row in batch]

    def _receive(
        self, sockets: Sequence[zmq.Socket[bytes]], since_s: array[float], latencies: array[float], results: list[Any]
    ) -> int:
        """Everything that has arrived. Returns how many answers that were."""
        clock, decode, count = time.perf_counter, self._decode, 0
        for socket in sockets:
            while _get(socket, _EVENTS) & _POLLIN:
                body = _recv(socket, _NOBLOCK)
                now = clock()
                answers = decode(body)
                for answer in answers:
                    if answer.status:
                        raise BenchmarkFailed(f"a call was answered by an error: {answer.result}")
                    number = answer.id
                    latencies.append(now - since_s[number])
                    results[number] = answer.result
                count += len(answers)
        return count


def _router_of(socket: zmq.Socket[bytes]) -> str:
    """The name of the router to which the kernel has given the connection."""
    socket.send(msgspec.msgpack.encode([[0, "", "", "status"]]))
    if not socket.poll(round(_SILENCE_S_MAX * 1_000)):
        raise BenchmarkFailed(f"no answer to a connection for {_SILENCE_S_MAX:.0f} s")
    [[_, _, status]] = msgspec.msgpack.decode(socket.recv())
    return str(status["router"]["name"])


def run_job(job: Job, warm: Callable[[], None] = lambda: None) -> Load:
    """Calls `warm` when every object has been called once. Raises BenchmarkFailed."""
    calls = WORKLOADS[job.workload].calls(job.objects)
    choice = random.Random(f"{job.prefix} choice")
    targets = targets_in_turn(job.objects) if job.zipf is None else targets_by_zipf(job.objects, job.zipf, choice)
    parts, numbers, requests = [], array("q"), 0
    generator = make_generator(job)
    try:
        _run_block(generator, job, calls.first(), None, numbers, _WARM_UP_CONCURRENCY)
        block = calls.block(list(islice(targets, job.requests)))
        due_s = _instants(job, choice) if job.rate else None
        warm()
        own_s, started = time.process_time(), time.perf_counter()
        while True:
            latencies, ended, spent_s = _run_block(generator, job, block, due_s, numbers, job.concurrency)
            requests += len(latencies)
            parts.append(Histogram.of(latencies))
            if time.perf_counter() - started >= job.seconds:
                break
            block = calls.block(list(islice(targets, job.requests)))
    finally:
        generator.close()
    return Load(
        requests=requests,
        started_s=started,
        ended_s=ended,
        histogram=Histogram.merged(parts),
        cpu_s=spent_s - own_s,
        generator=job.generator,
        numbers=numbers.tobytes() if job.shared else b"",
    )


def _run_block(
    generator: LoadGenerator, job: Job, block: Block, due_s: Sequence[float] | None, numbers: array[int], concurrency: int
) -> tuple[array[float], float, float]:
    """Latencies, the time of the last answer, the CPU time until then. What follows, checking, is not measured."""
    results: list[Any] = [UNANSWERED] * len(block.targets)
    if due_s is None:
        latencies = generator.call(block, concurrency, results)
    else:
        latencies = generator.call_at(block, due_s, results)
    ended, spent_s = time.perf_counter(), time.process_time()
    if job.shared:
        check_ascending(results)
        numbers.extend(results)
    else:
        check_answers(block, results)
    return latencies, ended, spent_s


def _instants(job: Job, choice: random.Random) -> list[float]:
    """Arrivals of a Poisson process: what many callers who do not know of each other look like."""
    now_s, instants = 0.0, []
    for _ in range(job.requests):
        now_s += choice.expovariate(job.rate)
        instants.append(now_s)
    return instants


def make_generator(job: Job) -> LoadGenerator:
    if job.generator in ("lean", "lean-keyed"):
        return LeanGenerator(job)
    if job.generator in ("bulk", "bulk-keyed"):
        return BulkGenerator(job)
    return ClientGenerator(job)


if __name__ == "__main__":
    sys.exit(serve_job(lambda line, warm: run_job(msgspec.json.decode(line, type=Job), warm)))
