"""What a run is to do, and what it measured: the nouns that everything else here passes around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.workloads import Workload

Route = Literal["router", "direct"]
Sync = Literal["inline", "thread", "none"]
Generator = Literal["lean", "lean-keyed", "client", "keyed", "bulk", "bulk-keyed"]
"""`lean-keyed`: raw sockets, every call with the key of a session. `client`: the Python client with `retry=False`; `keyed`: the
same as users get it, every call with a key. `bulk`, `bulk-keyed`: the same two by `map`."""


@dataclass(frozen=True)
class Plan:
    """What to call and how hard, whoever is called."""

    workload: Workload
    route: Route
    concurrency: int
    """Calls kept in flight. In an open loop: 0."""
    requests: int
    objects: int
    generator: Generator = "lean"
    """Used where the peer knows it."""
    generators: int = 1
    """Load processes."""
    rate: int = 0
    """Open loop: calls per second, at random instants, whether earlier ones have been answered or not. 0: closed loop."""
    zipf: float | None = None
    """Skew of the choice of objects (0: uniform). None: in turn."""
    seconds: float = 0.0
    """If not 0, blocks of `requests` calls are repeated until this time is over."""

    def __str__(self) -> str:
        return f"{self.workload.name}, {self.route}, " + (f"{self.rate:,}/s" if self.rate else f"{self.concurrency} at once")


class Load(msgspec.Struct, frozen=True):
    """What load generators measured, of the calls after the first one to each object."""

    requests: int
    started_s: float
    ended_s: float
    """On the monotonic clock, which all processes of a machine share."""
    histogram: Histogram
    cpu_s: float
    """Of the generators."""
    generator: str
    numbers: bytes = b""
    """What a shared object answered, as native 64-bit integers."""

    @property
    def elapsed_s(self) -> float:
        return self.ended_s - self.started_s


class Measurement(msgspec.Struct, frozen=True):
    """One run of one peer."""

    peer: str
    workload: str
    route: Route
    generator: str
    concurrency: int
    requests: int
    objects: int
    rate: float
    """Calls answered per second."""
    percentiles_ms: dict[str, float]
    cpu_us: dict[str, float]
    """CPU time per call, by layer; `load` is the generators."""
    others_cores: float
    """Cores that everybody else kept busy meanwhile, the kernel's own threads included. Much of it spoils the run."""
    offered: int = 0
    """Calls per second of an open loop."""
    generators: int = 1
    zipf: float | None = None
