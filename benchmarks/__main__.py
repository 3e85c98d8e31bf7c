"""`python -m benchmarks COMMAND`: measures what it says, checks every answer, prints a table or JSON."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import msgspec

from benchmarks import results
from benchmarks.compare import compare, schedule, summarise
from benchmarks.load import Generator
from benchmarks.measure import Measurement, Plan, measure, requests_for
from benchmarks.peers import REPOSITORY, Peer, Pipeline, Route, Sync, Tidegate, cores, scratch_folder
from benchmarks.workloads import WORKLOADS, BenchmarkFailed

_CONCURRENCY = (1, 64, 256, 1_000)
_SMOKE_CONCURRENCY = (1, 16)
_SMOKE_REQUESTS = 200
_SMOKE_OBJECTS = 20
_COMMANDS = {
    **{workload.name: workload.summary for workload in WORKLOADS.values()},
    "pipeline": "the bare pipeline: the same I/O with none of the product",
    "compare": "the product and the bare pipeline in interleaved rounds; the result is kept",
}
_PEERS = {"pipeline": ("pipeline",), "compare": ("tidegate", "pipeline")}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in _PEERS:
            command.add_argument("--workload", choices=sorted(WORKLOADS), default="unique")
        command.add_argument("--concurrency", type=_numbers, help="calls in flight, e.g. 64 or 1,64,256,1000 (the default)")
        command.add_argument("--requests", type=int, help="calls per run (default: enough for a second or two)")
        command.add_argument("--objects", type=int, help="objects called in turn (default: 1,000)")
        command.add_argument("--rounds", type=int, help="how often everything is measured (default: 5 for compare, else 1)")
        command.add_argument("--route", choices=("router", "direct", "both"), default="both")
        command.add_argument("--load", choices=get_args(Generator), default="lean", help="lean: raw sockets (the default); "
                             "client: the Python client, for calls to the product")  # fmt: skip
        command.add_argument("--workers", type=int, help="workers, and shards of the pipeline (default: one per core)")
        command.add_argument("--sync", choices=get_args(Sync), default="inline", help="where the pipeline runs fdatasync")
        command.add_argument("--transport", choices=("ipc", "tcp"), default="ipc", help="between load and router")
        command.add_argument("--folder", help="where data are written (default: the folder for temporary files)")
        command.add_argument("--json", action="store_true", help="print the result as one JSON object, and no progress")
        command.add_argument("--smoke", action="store_true", help="a tiny run: shows that everything works, measures nothing")
        command.add_argument("--no-save", action="store_true", help="do not add the result to benchmarks/results")
    return parser.parse_args(arguments)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return numbers


def make_plans(options: argparse.Namespace) -> list[Plan]:
    routes: Sequence[Route] = ("direct", "router") if options.route == "both" else (options.route,)
    concurrencies = options.concurrency or (_SMOKE_CONCURRENCY if options.smoke else _CONCURRENCY)
    workload = WORKLOADS[options.workload if options.command in _PEERS else options.command]
    return [
        Plan(
            workload=workload,
            route=route,
            concurrency=concurrency,
            requests=options.requests or (_SMOKE_REQUESTS if options.smoke else requests_for(concurrency)),
            objects=options.objects or (_SMOKE_OBJECTS if options.smoke else 1_000),
            generator=options.load,
        )
        for route in routes
        for concurrency in concurrencies
    ]


@contextlib.contextmanager
def running_peers(options: argparse.Namespace, plans: Sequence[Plan], folder: Path) -> Iterator[list[Peer]]:
    with contextlib.ExitStack() as stack:
        peers: list[Peer] = []
        for name in _PEERS.get(options.command, ("tidegate",)):
            home = folder / name[0]
            home.mkdir()
            peer: Peer
            if name == "pipeline":
                routes = sorted({plan.route for plan in plans})
                peer = Pipeline(home, shards=options.workers or len(cores()), sync=options.sync, routes=routes)
            else:
                peer = Tidegate(home, workers=options.workers, transport=options.transport)
            stack.callback(peer.close)
            peers.append(peer)
        yield peers


def run(options: argparse.Namespace, begin: Callable[[str], None], plans: Sequence[Plan], rounds: int) -> results.Result:
    """Raises BenchmarkFailed."""
    measurements: list[Measurement] = []
    with scratch_folder(options.folder) as folder:
        begin("looking at the machine")
        machine = results.machine_facts(folder)
        with running_peers(options, plans, folder) as peers:
            for step in schedule(plans, len(peers), rounds):
                plan, peer = step.plan, peers[step.peer]
                begin(f"round {step.round + 1}: {plan.workload.name}, {peer.name}, {plan.route}, {plan.concurrency} at once")
                measurements.append(measure(peer, plan))
    settings = {name: value for name, value in vars(options).items() if name not in ("command", "folder", "json", "no_save")}
    return results.Result(
        command=options.command,
        at=results.now_utc(),
        commit=results.commit(),
        machine=machine,
        settings={**settings, "rounds": rounds},
        summaries=summarise(measurements),
        ratios=compare(measurements, "tidegate", "pipeline"),
        measurements=measurements,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    rounds = options.rounds or (5 if options.command == "compare" and not options.smoke else 1)
    plans = make_plans(options)
    try:
        if options.json:
            result = run(options, lambda _: None, plans, rounds)
            sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        else:
            result = run_with_report(options, plans, rounds)
    except BenchmarkFailed as error:
        print(f"benchmarks {options.command}: {error}", file=sys.stderr)
        return 1
    if options.command == "compare" and not (options.smoke or options.no_save):
        print(f"added to {results.append(result).relative_to(REPOSITORY)}", file=sys.stderr)
    return 0


def run_with_report(options: argparse.Namespace, plans: Sequence[Plan], rounds: int) -> results.Result:
    try:
        from rich.console import Console

        from benchmarks import report
    except ImportError:
        raise BenchmarkFailed("tables need the package rich (pip install 'tidegate[bench]'); --json does not") from None
    steps = 1 + len(plans) * rounds * len(_PEERS.get(options.command, ("tidegate",)))
    with report.progress(steps) as begin:
        result = run(options, begin, plans, rounds)
    console = Console(width=None if sys.stdout.isatty() else 160)
    machine = result.machine
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['filesystem']} with fdatasync in {machine['fdatasync_ms_p50']} ms, commit {result.commit}, "
        f"{rounds} round{'s' if rounds > 1 else ''}",
        highlight=False,
    )
    report.print_summaries(console, result.summaries)
    report.print_ratios(console, result.ratios)
    return result


if __name__ == "__main__":
    sys.exit(main())
