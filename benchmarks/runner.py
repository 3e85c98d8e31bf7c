"""What a command measures: who is started, which runs are made, and the result of them all."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tidegate.benchmarks.features import FEATURES, PLAIN, Scraped, free_address
from tidegate.benchmarks.figures import results
from tidegate.benchmarks.figures.compare import compare, schedule, summarise
from tidegate.benchmarks.load.workloads import WORKLOADS, BenchmarkFailed, Workload
from tidegate.benchmarks.measure import measure, requests_for
from tidegate.benchmarks.peers.http import start_naive, start_restate, start_workerd
from tidegate.benchmarks.peers.ours import Peer, Pipeline, Service, Tidegate, system_call
from tidegate.benchmarks.peers.postgres import Postgres
from tidegate.benchmarks.peers.redis import Redis
from tidegate.benchmarks.plan import Measurement, Plan, Route
from tidegate.benchmarks.processes import cores, scratch_folder
from tidegate.benchmarks.syncs import SyncCount, SyncMeter, can_count
from tidegate.runtime.client.access import client_key
from tidegate.runtime.wire.access import ClientKey

CONCURRENCY = (1, 64, 256, 1_024)
_CONCURRENCIES = {"all": (64,), "features": (64, 1_024)}
_SMOKE_CONCURRENCY = (1, 16)
_SMOKE_REQUESTS = 200
_SMOKE_OBJECTS = 20
_PROBE_CONCURRENCY = 64
_PROBE_REQUESTS = 5_000
OURS = ("tidegate", "pipeline")
PEERS = ("tidegate", "lean", "pipeline", "redis", "postgres", "sqlite", "workerd", "restate")
LINE_UPS = {"pipeline": ("pipeline",), "compare": OURS, "peers": PEERS, "features": ("tidegate", *FEATURES)}
"""Who is measured by which command; every other one measures the product alone."""

Begin = Callable[[str], None]


def line_up(options: argparse.Namespace) -> Sequence[str]:
    chosen: Sequence[str] = LINE_UPS.get(options.command, ("tidegate",))
    return chosen if options.peers is None else [name for name in chosen if name in options.peers]


def make_plans(options: argparse.Namespace) -> list[Plan]:
    routes: Sequence[Route] = ("direct", "router") if options.route == "both" else (options.route,)
    return [
        _plan(options, workload, route, concurrency, rate)
        for workload in _workloads(options)
        for route in routes
        for concurrency, rate in _pressures(options)
    ]


def _workloads(options: argparse.Namespace) -> list[Workload]:
    if options.command == "all":
        return list(WORKLOADS.values())
    names = options.workload if options.command in LINE_UPS else [options.command]
    return [WORKLOADS[name] for name in names]


def _pressures(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Concurrency of closed loops, or rates of open ones."""
    if options.rate:
        return [(0, rate) for rate in options.rate]
    smoke = options.smoke and options.command != "all"
    default = _SMOKE_CONCURRENCY if smoke else _CONCURRENCIES.get(options.command, CONCURRENCY)
    return [(concurrency, 0) for concurrency in options.concurrency or default]


def _plan(options: argparse.Namespace, workload: Workload, route: Route, concurrency: int, rate: int) -> Plan:
    objects = options.objects or workload.objects
    requests = options.requests or requests_for(concurrency, workload.cost, rate)
    if options.smoke:
        objects, requests = min(objects, _SMOKE_OBJECTS), min(requests, _SMOKE_REQUESTS)
    return Plan(
        workload=workload,
        route=route,
        concurrency=concurrency,
        requests=requests,
        objects=objects,
        generator=options.load,
        generators=options.generators,
        rate=rate,
        zipf=options.zipf,
        seconds=0.0 if options.smoke else options.seconds,
    )


class LineUp:
    """The peers of a run, started as asked, all stopped at its end. `skipped` says who is missing, and why."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.peers: list[Peer] = []
        self.skipped: dict[str, str] = {}
        self._options = options
        self._folder = folder
        self._front = ""

    def start(self, begin: Begin, cache_mib: int | None, stack: contextlib.ExitStack) -> None:
        for name in line_up(self._options):
            begin(f"starting {name}")
            home = self._folder / name[:4]
            home.mkdir(exist_ok=True)
            try:
                peer = self._start(name, home, cache_mib, stack)
            except BenchmarkFailed as failed:
                if name in OURS or name == "lean" or name in FEATURES:
                    raise
                self.skipped[name] = str(failed)
                continue
            stack.callback(peer.close)
            self.peers.append(peer)

    def _start(self, name: str, home: Path, cache_mib: int | None, stack: contextlib.ExitStack) -> Peer:
        options = self._options
        npm = Path(options.npm).absolute() if options.npm else home
        starts: dict[str, Callable[[], Peer]] = {
            "tidegate": lambda: self._start_tidegate(home, cache_mib, stack),
            "lean": lambda: Tidegate(self._front, "lean", name="tidegate lean"),
            "pipeline": lambda: Pipeline(
                home, shards=options.workers or len(cores()), sync=options.sync, routes=("direct", "router")
            ),
            "redis": lambda: Redis(home, options.transport),
            "postgres": lambda: Postgres(home),
            "sqlite": lambda: start_naive(home),
            "workerd": lambda: start_workerd(home, npm),
            "restate": lambda: start_restate(home, npm),
        }
        if name in FEATURES:
            return self._start_tidegate(home, cache_mib, stack, name)
        return starts[name]()

    def _start_tidegate(self, home: Path, cache_mib: int | None, stack: contextlib.ExitStack, name: str = "tidegate") -> Peer:
        options, key = self._options, None
        feature = FEATURES.get(name, PLAIN)
        address = free_address() if feature.scraped else ""
        if options.connect:
            self._front, key = options.connect, _key_of_environment()
            _check_method(options, key)
        else:
            service_home = home / f"cache-{cache_mib}"
            service_home.mkdir()
            service = Service(
                service_home,
                workers=options.workers,
                transport=options.transport,
                routers=options.routers,
                cache_mib=cache_mib,
                curve=feature.curve,
                settings={**feature.settings, **({"metrics.listen": address} if address else {})},
            )
            stack.callback(service.close)
            self._front, key = service.front, service.key
        class_name = feature.class_name or options.class_name
        started = Tidegate(self._front, options.load, name=name, class_name=class_name, key=key)
        return Scraped(started, address) if address else started


def _key_of_environment() -> ClientKey | None:
    """What a service that runs may ask for."""
    try:
        return client_key(None)
    except (ValueError, OSError) as error:
        raise BenchmarkFailed(f"the access key of the environment: {error}") from None


def _check_method(options: argparse.Namespace, key: ClientKey | None) -> None:
    """A running service has an app of somebody else's."""
    classes = system_call(options.connect, "classes", key)
    for workload in _workloads(options):
        name = options.class_name or workload.class_name
        if workload.calls.method not in classes.get(name, {}).get("methods", {}):
            known = ", ".join(classes) or "none"
            raise BenchmarkFailed(f"{options.connect} has no class {name} with {workload.calls.method}(); it has: {known}")


def run(options: argparse.Namespace, begin: Begin) -> results.Result:
    """Raises BenchmarkFailed."""
    plans = make_plans(options)
    measurements: list[Measurement] = []
    syncs: list[SyncCount] = []
    skipped: dict[str, str] = {}
    with scratch_folder(options.folder) as folder:
        begin("looking at the machine")
        machine = results.machine_facts(folder)
        for cache_mib in dict.fromkeys(plan.workload.cache_mib for plan in plans):
            group = [plan for plan in plans if plan.workload.cache_mib == cache_mib]
            with contextlib.ExitStack() as stack:
                started = LineUp(options, folder)
                started.start(begin, cache_mib, stack)
                measurements += _measure_all(started.peers, group, options, begin)
                if options.command == "peers":
                    syncs += _count_syncs(started.peers, folder, options, begin, started.skipped)
                skipped |= started.skipped
    others = dict.fromkeys(one.peer for one in measurements if one.peer != "tidegate")
    pairs = [(other, "tidegate") if other in FEATURES else ("tidegate", other) for other in others]
    return results.Result(
        command=options.command,
        at=results.now_utc(),
        commit=results.commit(),
        machine=machine,
        settings=_settings(options),
        summaries=summarise(measurements),
        ratios=[ratio for one, other in pairs for ratio in compare(measurements, one, other)],
        measurements=measurements,
        syncs=syncs,
        skipped=skipped,
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    hidden = ("command", "folder", "json", "no_save", "npm")
    return {name: value for name, value in vars(options).items() if name not in hidden}


def _measure_all(
    peers: Sequence[Peer], plans: Sequence[Plan], options: argparse.Namespace, begin: Begin
) -> Iterator[Measurement]:
    for step in schedule(plans, len(peers), options.rounds):
        plan, peer = step.plan, peers[step.peer]
        if peer.can(plan):
            begin(f"round {step.round + 1} of {options.rounds}: {peer.name}, {plan}")
            yield measure(peer, plan, patient=not options.smoke)


def _count_syncs(
    peers: Sequence[Peer], folder: Path, options: argparse.Namespace, begin: Begin, skipped: dict[str, str]
) -> Iterator[SyncCount]:
    if not can_count():
        skipped["syncs"] = "strace is not installed"
        return
    workload = WORKLOADS["unique"]
    concurrency, requests = (16, _SMOKE_REQUESTS) if options.smoke else (_PROBE_CONCURRENCY, _PROBE_REQUESTS)
    plan = Plan(workload, "direct", concurrency, requests, min(workload.objects, requests))
    for peer in peers:
        begin(f"counting the syncs of {peer.name}")
        meter = SyncMeter(peer.durable_pids(), folder)
        load = peer.run(plan, meter)
        yield SyncCount(peer.name, concurrency, load.requests, meter.syncs)
