"""One measured run: a quiet machine, then load against a peer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.peers.ours import Peer
from tidegate.benchmarks.plan import Load, Measurement, Plan

_QUIET_S = 0.1
_QUIET_S_MAX = 5.0
_QUIET_SHARE_MAX = 0.05
_RATE_SECONDS = 3


def requests_for(concurrency: int, cost: int = 1, rate: int = 0) -> int:
    """Enough calls for a run of one to three seconds."""
    if rate:
        return rate * _RATE_SECONDS
    return max(100, (3_000 if concurrency < 16 else 60_000 if concurrency < 128 else 150_000) // cost)


def measure(peer: Peer, plan: Plan, *, patient: bool = True) -> Measurement:
    """`patient`: after the last run has ended for good. Raises BenchmarkFailed when an answer is wrong or missing."""

    def read() -> Mapping[str, float]:
        return peer.cpu_s(plan.route)

    if patient:
        wait_quiet(read)
    meter = Meter(read)
    return as_measurement(peer.name, plan, peer.run(plan, meter), meter)


def as_measurement(peer: str, plan: Plan, load: Load, meter: Meter) -> Measurement:
    spent_s = {"load": load.cpu_s, **meter.layers_s}
    return Measurement(
        peer=peer,
        workload=plan.workload.name,
        route=plan.route,
        generator=load.generator,
        concurrency=plan.concurrency,
        requests=load.requests,
        objects=plan.objects,
        rate=round(load.requests / load.elapsed_s, 1),
        percentiles_ms=load.histogram.percentiles_ms(),
        cpu_us={layer: round(spent / load.requests * 1e6, 2) for layer, spent in spent_s.items()},
        others_cores=round(max(0.0, meter.machine_s - sum(spent_s.values())) / load.elapsed_s, 2),
        offered=plan.rate,
        generators=plan.generators,
        zipf=plan.zipf,
    )


def wait_quiet(read: Callable[[], Mapping[str, float]]) -> None:
    """Until the peer has finished what the last run left behind (checkpoints, evictions), or for a few seconds."""
    deadline = time.monotonic() + _QUIET_S_MAX
    spent = sum(read().values())
    while time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        before, spent = spent, sum(read().values())
        if spent - before < _QUIET_S * _QUIET_SHARE_MAX:
            return
