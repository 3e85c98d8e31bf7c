"""The load generator: a process of its own that keeps a fixed number of calls in flight (a closed loop).

`python -m benchmarks.load` reads a `Job` from its input, makes the calls, checks every answer and writes a `Load`. The
generator is lean: raw DEALER sockets, all calls that may be sent now to one endpoint in one message. What it costs is
reported beside what the service costs, because on a small machine both share the cores.
"""

from __future__ import annotations

import random
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, cast

import msgspec
import zmq
from zmq.backend import Socket as BackendSocket

from benchmarks.cpu import cpu_s_by_layer, machine_cpu_s
from benchmarks.workloads import UNANSWERED, BenchmarkFailed, Workload, check_answers
from runtime.ids import shard_of_slot, slot_of

_send = BackendSocket.send
_recv = BackendSocket.recv
_get = cast("Callable[[Any, int], int]", BackendSocket.get)
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_SILENCE_MS_MAX = 20_000
_WARM_UP_CONCURRENCY = 64

Generator = Literal["lean", "client"]


class Door(msgspec.Struct, frozen=True):
    """Where the calls go: the router, or the workers that own the shards."""

    endpoints: tuple[str, ...]
    owners: tuple[int, ...] = (0,)
    """Index of the endpoint by shard."""
    front: str = ""
    """The router, for a client that finds the workers by itself."""

    @property
    def is_direct(self) -> bool:
        return self.endpoints != (self.front,)

    def endpoint_of(self, class_name: str, name: str) -> int:
        return self.owners[shard_of_slot(slot_of(class_name, name), len(self.owners))]


class Job(msgspec.Struct, frozen=True):
    """One measured run."""

    door: Door
    workload: Workload
    concurrency: int
    requests: int
    objects: int
    prefix: str
    """Makes the objects' names fresh: every run starts with objects that do not exist."""
    generator: Generator = "lean"
    pids: dict[str, list[int]] = {}
    """Whose CPU time to report, by layer."""


class Load(msgspec.Struct, frozen=True):
    """What one run measured. Times are those of the measured calls only, after every object was called once."""

    requests: int
    elapsed_s: float
    percentiles_ms: dict[str, float]
    cpu_us: dict[str, float]
    """CPU time per call, by layer; `load` is the generator itself."""
    others_cores: float
    """How many cores everybody else kept busy meanwhile, the kernel's own threads included. Much of it spoils the run."""


class _Answer(msgspec.Struct, array_like=True, gc=False):
    id: int
    status: int
    result: Any


class LeanGenerator:
    """Keeps `concurrency` calls in flight over one socket per endpoint."""

    def __init__(self, job: Job) -> None:
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._sockets = [self._connect(endpoint) for endpoint in job.door.endpoints]
        self._poller = zmq.Poller()
        for socket in self._sockets:
            self._poller.register(socket, zmq.POLLIN)
        workload = job.workload
        self._class_name, self._method = workload.class_name, workload.method
        self._names = object_names(job)
        self._groups = [job.door.endpoint_of(workload.class_name, name) for name in self._names]

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option in (zmq.RCVHWM, zmq.SNDHWM, zmq.LINGER):
            socket.setsockopt(option, 0)
        socket.connect(endpoint)
        return socket

    def close(self) -> None:
        self._context.destroy(linger=0)

    def call(self, first: int, last: int, concurrency: int, results: list[Any]) -> array[float]:
        names, groups, class_name, method = self._names, self._groups, self._class_name, self._method
        objects, clock, poll = len(names), time.perf_counter, self._poller.poll
        encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[_Answer]).decode
        sent_at, latencies = array("d", bytes(8 * (last - first))), array("d")
        sent, room, waiting = first, concurrency, last - first
        while waiting:
            bound = min(sent + room, last)
            if sent < bound:
                batches: list[list[Any]] = [[] for _ in self._sockets]
                now = clock()
                for number in range(sent, bound):
                    index = number % objects
                    sent_at[number - first] = now
                    batches[groups[index]].append((number, class_name, names[index], method, ()))
                room, sent = room - (bound - sent), bound
                for socket, batch in zip(self._sockets, batches, strict=True):
                    if batch:
                        _send(socket, encode(batch), _NOBLOCK)
            ready = poll(_SILENCE_MS_MAX)
            if not ready:
                raise BenchmarkFailed(f"no answer for {_SILENCE_MS_MAX // 1000} s with {waiting} calls to go")
            for socket, _ in ready:
                while _get(socket, _EVENTS) & _POLLIN:
                    body = _recv(socket, _NOBLOCK)
                    now = clock()
                    answers = decode(body)
                    for answer in answers:
                        if answer.status:
                            raise BenchmarkFailed(f"a call was answered by an error: {answer.result}")
                        number = answer.id
                        latencies.append(now - sent_at[number - first])
                        results[number] = answer.result
                    room += len(answers)
                    waiting -= len(answers)
        return latencies


def object_names(job: Job) -> list[str]:
    """Names whose placement has no pattern: those of plain numbers alternate between workers as CRC-32 is linear, and one
    call at a time is up to a sixth slower or faster by how."""
    letters = random.Random(job.prefix)
    return [f"{job.prefix}{index}-{letters.getrandbits(32):08x}" for index in range(job.objects)]


def percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(latencies_s)
    count = len(ordered)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    result = {name: round(ordered[min(int(count * share), count - 1)] * 1e3, 3) for name, share in at.items()}
    return {**result, "max": round(ordered[-1] * 1e3, 3)}


def run_job(job: Job) -> Load:
    """Raises BenchmarkFailed."""
    generator = make_generator(job)
    try:
        total = job.objects + job.requests
        results: list[Any] = [UNANSWERED] * total
        generator.call(0, job.objects, _WARM_UP_CONCURRENCY, results)
        cpu_before, own_before, machine_before_s = cpu_s_by_layer(job.pids), time.process_time(), machine_cpu_s()
        started = time.perf_counter()
        latencies = generator.call(job.objects, total, job.concurrency, results)
        elapsed_s, own = time.perf_counter() - started, time.process_time() - own_before
        cpu_after, machine_s = cpu_s_by_layer(job.pids), machine_cpu_s() - machine_before_s
    finally:
        generator.close()
    check_answers(job.workload.answers, results, job.objects)
    spent_s = {"load": own, **{layer: cpu_after[layer] - before for layer, before in cpu_before.items()}}
    return Load(
        requests=job.requests,
        elapsed_s=elapsed_s,
        percentiles_ms=percentiles_ms(latencies),
        cpu_us={layer: round(spent / job.requests * 1e6, 2) for layer, spent in spent_s.items()},
        others_cores=round(max(0.0, machine_s - sum(spent_s.values())) / elapsed_s, 2),
    )


class LoadGenerator(Protocol):
    def call(self, first: int, last: int, concurrency: int, results: list[Any]) -> array[float]:
        """Makes calls `first` to `last - 1`, puts each answer at its number into `results`, and returns the latencies."""

    def close(self) -> None: ...


def make_generator(job: Job) -> LoadGenerator:
    if job.generator == "lean":
        return LeanGenerator(job)
    from benchmarks.client_load import ClientGenerator  # Here, because it imports this file.

    return ClientGenerator(job)


class Outcome(msgspec.Struct, frozen=True):
    """What the process writes: the measurement, or why there is none."""

    load: Load | None = None
    failed: str = ""


def main() -> int:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        outcome = Outcome(load=run_job(job))
    except BenchmarkFailed as error:
        outcome = Outcome(failed=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    return 0 if outcome.load else 1


if __name__ == "__main__":
    sys.exit(main())
