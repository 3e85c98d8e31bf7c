"""Feeds the model with what this machine measures, and compares what it predicts for here with what happens here."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tidegate.benchmarks import model
from tidegate.benchmarks.figures import results
from tidegate.benchmarks.load.workloads import WORKLOADS
from tidegate.benchmarks.measure import measure as measure_run
from tidegate.benchmarks.peers.ours import Service, Tidegate
from tidegate.benchmarks.plan import Measurement, Plan, Route
from tidegate.benchmarks.processes import cores, scratch_folder

_CONCURRENCY = 256
_SYNC_BYTES = 16_384
_SYNCERS = 8


class Check(msgspec.Struct, frozen=True):
    what: str
    predicted: float
    bottleneck: str
    measured: float
    others_cores: float


class Scaling(msgspec.Struct, frozen=True):
    at: str
    commit: str
    costs: model.Costs
    predictions: dict[str, list[model.Prediction]]
    """By setup, for each number of cores."""
    checks: list[Check]


def measure(options: argparse.Namespace) -> Scaling:
    """Raises BenchmarkFailed."""
    requests = 200 if options.smoke else 150_000
    with scratch_folder(options.folder) as folder:
        direct, busiest = _run(folder / "d", "direct", requests)
        routed, routed_busiest = _run(folder / "r", "router", requests)
        costs = model.Costs(
            client_us=direct.cpu_us["load"],
            router_us=routed.cpu_us["router"],
            worker_us=direct.cpu_us["workers"],
            sync_us=results.fdatasync_ms(folder) * 1e3,
            syncs_per_s=syncs_per_s(folder, 0.05 if options.smoke else 1.0),
            router_busiest=routed_busiest.get("router", busiest.get("router", 1.0)),
        )
        checks = list(_checks(folder, costs, requests)) if options.check else []
    predictions: dict[str, list[model.Prediction]] = {}
    for count in model.CORES:
        for name, setup in model.setups(costs, count).items():
            predictions.setdefault(name, []).append(model.predict(costs, setup))
    return Scaling(results.now_utc(), results.commit(), costs, predictions, checks)


def _run(home: Path, route: Route, requests: int, workers: int | None = None) -> tuple[Measurement, dict[str, float]]:
    """One run of `unique` on a fresh service, and how much of each process's time its busiest thread took."""
    home.mkdir()
    service = Service(home, workers=workers, transport="ipc")
    try:
        peer = Tidegate(service.front, "client")
        workload = WORKLOADS["unique"]
        plan = Plan(workload, route, _CONCURRENCY, requests, min(workload.objects, requests))
        measured = max((measure_run(peer, plan) for _ in range(3)), key=lambda one: one.rate)
        return measured, {layer: busiest_share(pids) for layer, pids in peer.pids.items() if pids}
    finally:
        service.close()


def busiest_share(pids: Sequence[int]) -> float:
    """Of the CPU time of these processes since their start, what the busiest thread of each took."""
    busiest = total = 0.0
    for pid in pids:
        spent = [int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()]
        busiest, total = busiest + max(spent), total + sum(spent)
    return busiest / total if total else 1.0


def syncs_per_s(folder: Path, seconds: float) -> float:
    """How many groups the disk makes durable, when as many threads as it likes overwrite files of their own."""
    counts = [0] * _SYNCERS
    stop_at = time.monotonic() + seconds

    def sync(index: int) -> None:
        path = folder / f"sync-{index}"
        file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(file, bytes(1 << 20))
            os.fsync(file)
            while time.monotonic() < stop_at:
                os.pwrite(file, bytes(_SYNC_BYTES), counts[index] * _SYNC_BYTES % (1 << 20))
                os.fdatasync(file)
                counts[index] += 1
        finally:
            os.close(file)
            path.unlink()

    threads = [threading.Thread(target=sync, args=(index,)) for index in range(_SYNCERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(1.0, sum(counts) / seconds)


def _checks(folder: Path, costs: model.Costs, requests: int) -> Iterator[Check]:
    """Here the load shares the cores, and there is one load process, however many workers."""
    usable = cores()
    setups: list[tuple[str, int, int, Route]] = [
        ("one core", 1, 1, "direct"),
        ("all cores", len(usable), len(usable), "direct"),
        ("all cores, through the router", len(usable), len(usable), "router"),
        ("twice as many workers as cores", len(usable), 2 * len(usable), "direct"),
    ]
    for name, used, workers, route in setups:
        in_hand = max(1, _CONCURRENCY // workers)
        routers = 1 if route == "router" else 0
        setup = model.Setup(used, workers, 1, routers, in_hand, clients_share_cores=True)
        predicted = model.predict(costs, setup)
        with confined_to(usable[:used]):
            measured, _ = _run(folder / f"{used}{workers}{route[0]}", route, requests, workers)
        yield Check(name, predicted.rate, predicted.bottleneck, measured.rate, measured.others_cores)


@contextlib.contextmanager
def confined_to(usable: Sequence[int]) -> Iterator[None]:
    """What is started meanwhile may use these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, usable)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
