"""What a load generator does, and how its process is given that and answers: a job in, a line to begin, an outcome out."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import zmq

from tidegate.benchmarks.load.workloads import WORKLOADS, BenchmarkFailed, Block
from tidegate.benchmarks.plan import Generator, Load
from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.runtime.wire.access import ClientKey


class Door(msgspec.Struct, frozen=True):
    """Where the calls go: the routers, or the workers that own the shards."""

    endpoints: tuple[str, ...]
    """One that is given several times is the port of so many routers."""
    owners: tuple[int, ...] = (0,)
    """Index of the endpoint by shard."""
    front: str = ""
    """The router, for a client that finds the workers by itself."""
    key: ClientKey | None = None
    """Where access keys are asked for."""

    @property
    def is_direct(self) -> bool:
        return set(self.endpoints) != {self.front}

    def endpoint_of(self, class_name: str, name: str) -> int:
        return self.owners[shard_of_slot(slot_of(class_name, name), len(self.owners))]


def show(socket: zmq.Socket[Any], key: ClientKey | None) -> None:
    """Before it connects."""
    if key is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, key.server.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())


class Job(msgspec.Struct, frozen=True):
    """What one generator does."""

    door: Door
    workload: str
    concurrency: int
    requests: int
    objects: int
    prefix: str
    """Makes the objects' names fresh: every run starts with objects that do not exist."""
    generator: Generator = "lean"
    rate: float = 0.0
    zipf: float | None = None
    seconds: float = 0.0
    shared: bool = False
    """Others call the same objects."""
    class_name: str = ""
    """Where the app's class is not named as the workload's."""


def class_of(job: Job) -> str:
    return job.class_name or WORKLOADS[job.workload].class_name


def object_names(job: Job) -> list[str]:
    """Names whose placement has no pattern: those of plain numbers alternate between workers as CRC-32 is linear, and one
    call at a time is up to a sixth slower or faster by how."""
    letters = random.Random(job.prefix)
    return [f"{job.prefix}{index}-{letters.getrandbits(32):08x}" for index in range(job.objects)]


class LoadGenerator(Protocol):
    """Both calls fill `results` by index of the call and return the latencies. They raise BenchmarkFailed."""

    def call(self, block: Block, concurrency: int, results: list[Any]) -> array[float]: ...

    def call_at(self, block: Block, due_s: Sequence[float], results: list[Any]) -> array[float]:
        """`due_s`: when to send each call, in seconds from now."""

    def close(self) -> None: ...


class Outcome(msgspec.Struct, frozen=True):
    """What the process writes: the measurement, or why there is none."""

    load: Load | None = None
    failed: str = ""


WARM = b"warm\n"


def serve_job(run: Callable[[bytes, Callable[[], None]], Load]) -> int:
    """One job over standard input and output: the job, `WARM`, a line to begin, the outcome. Returns the exit code."""

    def warm() -> None:
        sys.stdout.buffer.write(WARM)
        sys.stdout.buffer.flush()
        sys.stdin.buffer.readline()

    try:
        outcome = Outcome(load=run(sys.stdin.buffer.readline(), warm))
    except BenchmarkFailed as error:
        outcome = Outcome(failed=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    return 0 if outcome.load else 1
