"""Which worker owns which shard, and which core it runs on.

Pure: cores and quota are arguments (`runtime/supervisor/cores.py` reads them). Shard `s` belongs to worker `s % workers`, so
that the number of workers may change at every start without moving a byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import SHARDS_MAX

SHARDS_PER_CORE = 4
CORES_PER_ROUTER = 16


@dataclass(frozen=True)
class Cores:
    """What this process may use."""

    cpus: tuple[int, ...]
    """Numbers of the cores it may run on, ascending; never empty."""
    quota: float | None
    """How many cores' worth of time the cgroup grants; None: all of them."""

    @property
    def granted(self) -> float:
        """How many cores' worth of time there is."""
        return float(len(self.cpus)) if self.quota is None else min(self.quota, len(self.cpus))

    @property
    def usable(self) -> int:
        """How many processes can really run at once; at least 1. A quota of 1.5 feeds two workers, of 1.2 only one."""
        if self.quota is None:
            return len(self.cpus)
        return max(1, min(len(self.cpus), math.floor(self.quota + 0.5)))


@dataclass(frozen=True)
class WorkerPlace:
    index: int
    cpu: int | None
    """None: unpinned, because the kernel knows better than we do which core has time left."""
    shards: tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    workers: tuple[WorkerPlace, ...]
    owners: tuple[int, ...]
    """Worker index by shard."""


def shards_for(cores: Cores, workers: int | None) -> int:
    """The number of shards of a new data directory: room to grow to four times today's cores, a power of two."""
    wanted = SHARDS_PER_CORE * max(cores.usable, workers or 0)
    return min(SHARDS_MAX, 1 << (wanted - 1).bit_length())


def routers_for(cores: Cores, endpoint: str) -> int:
    """The number of routers when it is left to us. Only a port of TCP is dealt evenly to several."""
    return max(1, cores.usable // CORES_PER_ROUTER) if endpoint.startswith("tcp://") else 1


def place(cores: Cores, shards: int, workers: int | None) -> Placement:
    """`workers`: as many as asked for, None for one per usable core. Raises OperatorError when shards are too few."""
    count = min(cores.usable, shards) if workers is None else workers
    if count > shards:
        raise OperatorError(
            "place", f"{count} workers", f"the data directory has only {shards} shards", f"use --workers {shards} or fewer"
        )
    owners = tuple(shard % count for shard in range(shards))
    places = [WorkerPlace(index, _cpu_of(index, cores, count), tuple(range(index, shards, count))) for index in range(count)]
    return Placement(tuple(places), owners)


def _cpu_of(index: int, cores: Cores, workers: int) -> int | None:
    """Round robin. Under a quota smaller than the set of cores nothing is pinned: the cores are shared with strangers, and
    a pinned worker would wait for its core while others are idle."""
    if cores.quota is not None and cores.quota < len(cores.cpus):
        return None
    return _spread(cores.cpus, workers)[index % min(workers, len(cores.cpus))]


def _spread(cpus: Sequence[int], workers: int) -> Sequence[int]:
    """The cores to use, evenly spread when there are fewer workers than cores (neighbours often share a physical core)."""
    if workers >= len(cpus):
        return cpus
    return [cpus[position * len(cpus) // workers] for position in range(workers)]
