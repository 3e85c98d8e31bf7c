"""Interleaved rounds: which run comes when, and what the runs say together. No process is started here.

The speed of one machine drifts by tens of percent within minutes. So every peer is measured in every round, next to the
others, first and last in turn, and a ratio is taken within one round before the median is taken over rounds.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from tidegate.benchmarks.plan import Measurement, Plan, Route


@dataclass(frozen=True)
class Step:
    """One run of the schedule."""

    round: int
    plan: Plan
    peer: int
    """Index of the peer."""


class Summary(msgspec.Struct, frozen=True):
    """All rounds of one peer in one case."""

    peer: str
    workload: str
    route: Route
    generator: str
    concurrency: int
    rounds: int
    rate: float
    """Median, as are all figures below but the two bounds."""
    rate_min: float
    rate_max: float
    percentiles_ms: dict[str, float]
    cpu_us: dict[str, float]
    others_cores: float
    offered: int = 0
    """Calls per second of an open loop."""


class Ratio(msgspec.Struct, frozen=True):
    """How fast `peer` is in units of `against`, by round."""

    peer: str
    against: str
    workload: str
    route: Route
    generator: str
    concurrency: int
    rate: float
    """Median over rounds of the ratio of rates; above 1: `peer` is faster."""
    rate_min: float
    rate_max: float
    p50: float
    """Median over rounds of the ratio of median latencies; below 1: `peer` is faster."""
    offered: int = 0


def schedule(plans: Sequence[Plan], peers: int, rounds: int) -> Iterator[Step]:
    """Every plan with every peer in every round; the peers' order is reversed from one round to the next."""
    for number in range(rounds):
        order = range(peers) if number % 2 == 0 else range(peers - 1, -1, -1)
        for plan, peer in itertools.product(plans, order):
            yield Step(number, plan, peer)


Case = tuple[str, Route, int, int]
"""Workload, route, concurrency, rate offered. Not the generator: the pipeline has only the lean one to compare with."""


def _case(one: Measurement) -> Case:
    return one.workload, one.route, one.concurrency, one.offered


def _by_case(measurements: Iterable[Measurement]) -> dict[Case, dict[str, list[Measurement]]]:
    """Measurements by case and peer, in the order of rounds."""
    cases: dict[Case, dict[str, list[Measurement]]] = {}
    for one in measurements:
        cases.setdefault(_case(one), {}).setdefault(one.peer, []).append(one)
    return cases


def summarise(measurements: Iterable[Measurement]) -> list[Summary]:
    return [_summary(peer, case, runs) for case, peers in _by_case(measurements).items() for peer, runs in sorted(peers.items())]


def _summary(peer: str, case: Case, runs: list[Measurement]) -> Summary:
    workload, route, concurrency, offered = case
    rates = [run.rate for run in runs]
    return Summary(
        peer=peer,
        workload=workload,
        route=route,
        generator=runs[0].generator,
        concurrency=concurrency,
        rounds=len(runs),
        rate=statistics.median(rates),
        rate_min=min(rates),
        rate_max=max(rates),
        percentiles_ms=_medians([run.percentiles_ms for run in runs]),
        cpu_us=_medians([run.cpu_us for run in runs]),
        others_cores=statistics.median(run.others_cores for run in runs),
        offered=offered,
    )


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = {name: None for row in rows for name in row}  # In order.
    return {name: round(statistics.median(row[name] for row in rows if name in row), 3) for name in names}


def compare(measurements: Iterable[Measurement], peer: str, against: str) -> list[Ratio]:
    """One ratio for each case in which both were measured."""
    ratios = []
    for (workload, route, concurrency, offered), peers in _by_case(measurements).items():
        if peer not in peers or against not in peers:
            continue
        pairs = list(zip(peers[peer], peers[against], strict=True))
        rates = [ours.rate / theirs.rate for ours, theirs in pairs]
        p50s = [ours.percentiles_ms["p50"] / theirs.percentiles_ms["p50"] for ours, theirs in pairs]
        ratios.append(
            Ratio(
                peer=peer,
                against=against,
                workload=workload,
                route=route,
                generator=pairs[0][0].generator,
                concurrency=concurrency,
                rate=round(statistics.median(rates), 3),
                rate_min=round(min(rates), 3),
                rate_max=round(max(rates), 3),
                p50=round(statistics.median(p50s), 3),
                offered=offered,
            )
        )
    return ratios
