"""Calls of a service whose log the servers keep: one at a time beside bare publishes, very many at once beside the local log.

Everything in rounds of one run, one after the other, so that what drifts on this machine drifts for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from tidegate.benchmarks.cluster.publishes import Publisher, times_of
from tidegate.benchmarks.load.workloads import WORKLOADS
from tidegate.benchmarks.measure import measure
from tidegate.benchmarks.peers.ours import Service, Tidegate
from tidegate.benchmarks.plan import Plan
from tidegate.shard.replicated.founding import find_or_found

CALL_BYTES = 250
"""Of a publish: what a commit of one call has, head and record."""
UNIQUE = WORKLOADS["unique"]


class CallFigures(msgspec.Struct):
    """One durable call at a time."""

    calls: int
    bare_p50_us: int
    """A fenced publish of about the size of such a commit."""
    call_p50_us: int
    """From a Python client to a worker and back, over the log with three replicas."""
    local_p50_us: int
    """The same over the local log."""
    ratio: float
    """Of the call to the bare publish; the median of the rounds."""


class UniqueFigures(msgspec.Struct):
    """Calls a second; medians of the rounds."""

    at_once: int
    cluster: float
    """With as many shards as a cluster has by default."""
    few: float
    """With a shard for each worker: a commit is one publish then."""
    local: float
    naive: float
    """Acknowledged publishes a second, one for each call, as many in flight, and nobody who runs an object."""
    ratio: float
    """Of the cluster to the local log; the median of the rounds."""
    few_ratio: float


class Sizes(msgspec.Struct):
    rounds: int
    calls: int
    """One at a time, in each round."""
    at_once: int
    requests: int
    """With so many at once, in each round."""
    objects: int = 1_000


def measure_calls(
    folder: Path, urls: Sequence[str], publisher: Publisher, sizes: Sizes, *, patient: bool
) -> tuple[CallFigures, UniqueFigures]:
    one = Plan(UNIQUE, "direct", 1, sizes.calls, min(sizes.objects, sizes.calls), "client")
    many = Plan(UNIQUE, "direct", sizes.at_once, sizes.requests, sizes.objects, "lean")
    bare_us: list[float] = []
    p50_us: dict[str, list[float]] = {"cluster": [], "local": []}
    rates: dict[str, list[float]] = {"cluster": [], "few": [], "local": [], "naive": []}
    services = {}
    find_or_found(urls, "few", len(os.sched_getaffinity(0)))
    where = {name: ("--cluster", f"{','.join(urls)}/{name}") for name in ("cluster", "few")}
    try:
        for name, flags in {**where, "local": ()}.items():
            (folder / name).mkdir()
            services[name] = Service(folder / name, workers=None, transport="ipc", flags=flags)
        for _ in range(sizes.rounds):
            bare_us.append(times_of(publisher.publish(bytes(CALL_BYTES), sizes.calls)).p50_us)
            for name, found in p50_us.items():
                found.append(_p50_us(Tidegate(services[name].front, "client", name=name), one, patient=patient))
        for _ in range(sizes.rounds):
            rates["naive"].append(publisher.publish_for_each_call(bytes(CALL_BYTES), sizes.requests // 4, sizes.at_once))
            for name, service in services.items():
                rates[name].append(measure(Tidegate(service.front, "lean", name=name), many, patient=patient).rate)
    finally:
        for service in services.values():
            service.close()
    call = CallFigures(
        sizes.calls * sizes.rounds,
        round(median(bare_us)),
        round(median(p50_us["cluster"])),
        round(median(p50_us["local"])),
        _ratio(p50_us["cluster"], bare_us),
    )
    ratio, few = (_ratio(rates[name], rates["local"]) for name in ("cluster", "few"))
    medians = {name: round(median(found)) for name, found in rates.items()}
    return call, UniqueFigures(at_once=sizes.at_once, ratio=ratio, few_ratio=few, **medians)


def _p50_us(peer: Tidegate, plan: Plan, *, patient: bool) -> float:
    return measure(peer, plan, patient=patient).percentiles_ms["p50"] * 1_000


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    return round(median(one / other for one, other in zip(these, those, strict=True)), 3)
