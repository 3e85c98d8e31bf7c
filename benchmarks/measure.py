"""One measured run: a quiet machine, then a load process against a peer."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence

import msgspec

from benchmarks.cpu import cpu_s_by_layer
from benchmarks.load import Generator, Job, Outcome
from benchmarks.peers import Peer, Route, start_module
from benchmarks.workloads import BenchmarkFailed, Workload

_QUIET_S = 0.1
_QUIET_S_MAX = 5.0
_QUIET_SHARE_MAX = 0.05
_RUN_S_MAX = 600.0


class Plan(msgspec.Struct, frozen=True):
    """What to call and how hard, whoever is called."""

    workload: Workload
    route: Route
    concurrency: int
    requests: int
    objects: int
    generator: Generator = "lean"
    """Used where the peer knows it."""


class Measurement(msgspec.Struct, frozen=True):
    peer: str
    workload: str
    route: Route
    generator: Generator
    concurrency: int
    requests: int
    objects: int
    rate: float
    """Calls answered per second."""
    percentiles_ms: dict[str, float]
    cpu_us: dict[str, float]
    """CPU time per call, by layer."""
    others_cores: float
    """Cores that everybody else kept busy meanwhile."""


def requests_for(concurrency: int) -> int:
    """Enough calls for a run of one to two seconds."""
    return 3_000 if concurrency < 16 else 60_000 if concurrency < 128 else 150_000


def measure(peer: Peer, plan: Plan) -> Measurement:
    """Raises BenchmarkFailed when an answer is wrong or missing."""
    pids = peer.pids(plan.route)
    generator = plan.generator if plan.generator in peer.generators else "lean"
    wait_quiet(pids)
    job = Job(
        door=peer.door(plan.route),
        workload=plan.workload,
        concurrency=plan.concurrency,
        requests=plan.requests,
        objects=plan.objects,
        prefix=f"{secrets.token_hex(4)}-",
        generator=generator,
        pids=pids,
    )
    process = start_module("benchmarks.load")
    try:
        written, _ = process.communicate(msgspec.json.encode(job), timeout=_RUN_S_MAX)
    except subprocess.TimeoutExpired:
        raise BenchmarkFailed(f"the load generator did not end within {_RUN_S_MAX:.0f} s") from None
    finally:
        process.kill()
        process.wait()
    if not written:
        raise BenchmarkFailed(f"the load generator ended with code {process.returncode}")
    outcome = msgspec.json.decode(written, type=Outcome)
    if outcome.load is None:
        raise BenchmarkFailed(f"{peer.name}, {plan.workload.name}, {plan.route}, {plan.concurrency} at once: {outcome.failed}")
    load = outcome.load
    return Measurement(
        peer=peer.name,
        workload=plan.workload.name,
        route=plan.route,
        generator=generator,
        concurrency=plan.concurrency,
        requests=load.requests,
        objects=plan.objects,
        rate=round(load.requests / load.elapsed_s, 1),
        percentiles_ms=load.percentiles_ms,
        cpu_us=load.cpu_us,
        others_cores=load.others_cores,
    )


def wait_quiet(pids: Mapping[str, Sequence[int]]) -> None:
    """Until the peer has finished what the last run left behind (checkpoints, evictions), or for a few seconds."""
    deadline = time.monotonic() + _QUIET_S_MAX
    spent = sum(cpu_s_by_layer(pids).values())
    while time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        before, spent = spent, sum(cpu_s_by_layer(pids).values())
        if spent - before < _QUIET_S * _QUIET_SHARE_MAX:
            return
