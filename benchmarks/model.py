"""How throughput grows with cores, routers and clients, from what one call costs each process. Pure arithmetic.

Five things can be the first to run out:
* `workers`: each has one core, and while it commits it waits for the disk: of c calls that it has in hand, a group takes
  c times the CPU of a call, and one sync.
* `routers`, `clients`: each process can be as busy as its busiest thread allows.
* `cores`: whatever the processes, the CPU time of a call has to come from somewhere.
* `disk`: it makes so many groups durable per second and no more, whoever asks.

One client alone, which keeps a fixed number of calls in flight, goes in lock step with the workers: they wait while it reads
their answers, and it waits for them. Then the times of all who handle its calls add up. Many clients fill each other's gaps.

Assumed: a call costs on many cores what it costs on few. That holds as long as workers share nothing but the disk, and is what
a run on a larger machine has to check.
"""

from __future__ import annotations

import msgspec

CORES = (2, 8, 32, 128)


class Costs(msgspec.Struct, frozen=True):
    """CPU µs of one call, by process, and the disk."""

    client_us: float
    router_us: float
    worker_us: float
    sync_us: float
    """One commit of one worker: append and fdatasync."""
    syncs_per_s: float
    """Of the disk, when many workers ask at once."""
    client_busiest: float = 1.0
    """Share of a client's CPU time that its busiest thread takes; the rest runs beside it."""
    router_busiest: float = 1.0


class Setup(msgspec.Struct, frozen=True):
    cores: int
    workers: int
    clients: int
    routers: int = 0
    """0: the clients call the workers directly."""
    concurrency: int = 256
    """Calls in flight for each worker."""
    clients_share_cores: bool = False
    """The clients run on the machine of the service."""


class Prediction(msgspec.Struct, frozen=True):
    setup: Setup
    rate: float
    """Calls per second."""
    bottleneck: str
    limits: dict[str, float]
    """Calls per second that each resource alone would allow."""


def predict(costs: Costs, setup: Setup) -> Prediction:
    calls = setup.concurrency
    at_work = min(setup.workers, setup.cores)
    group_us = calls * costs.worker_us + costs.sync_us
    limits = {
        "workers": at_work * calls / group_us * 1e6,
        "clients": setup.clients * 1e6 / (costs.client_us * costs.client_busiest),
        "disk": costs.syncs_per_s * calls,
    }
    spent_us = costs.worker_us
    if setup.routers:
        limits["routers"] = setup.routers * 1e6 / (costs.router_us * costs.router_busiest)
        spent_us += costs.router_us
    if setup.clients_share_cores:
        spent_us += costs.client_us
    limits["cores"] = setup.cores * 1e6 / spent_us
    bottleneck = min(limits, key=lambda name: limits[name])
    rate = limits[bottleneck]
    if setup.clients == 1:
        rate = min(rate, _lock_step(costs, setup, at_work))
    return Prediction(setup, round(rate), bottleneck, {name: round(limit) for name, limit in limits.items()})


def _lock_step(costs: Costs, setup: Setup, at_work: int) -> float:
    """All calls of one client go round together: it, the router, the workers side by side, the disk."""
    calls = setup.concurrency * setup.workers
    router_us = costs.router_us / setup.routers if setup.routers else 0.0
    round_us = calls * (costs.client_us + router_us + costs.worker_us / at_work) + costs.sync_us
    return calls / round_us * 1e6


def setups(costs: Costs, cores: int) -> dict[str, Setup]:
    """The ways to use a machine that are worth looking at."""
    enough = max(1, round(2 * cores * costs.client_us / costs.worker_us))
    share = costs.router_us / (costs.router_us + costs.worker_us)
    routers = max(1, round(cores * share))
    return {
        "one client elsewhere, direct": Setup(cores, cores, 1),
        "clients elsewhere, direct": Setup(cores, cores, enough),
        "clients elsewhere, one router": Setup(cores, cores, enough, 1),
        "clients elsewhere, enough routers": Setup(cores, max(1, cores - routers), enough, routers),
        "clients on the same machine, direct": Setup(cores, cores, enough, clients_share_cores=True),
    }


def clients_needed(costs: Costs, rate: float) -> float:
    """Client processes that it takes to ask for so much."""
    return rate * costs.client_us * costs.client_busiest / 1e6
