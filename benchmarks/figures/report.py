"""What a person sees: progress while it runs, tables after."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tidegate.benchmarks.browse import Browse
from tidegate.benchmarks.cold import Memory
from tidegate.benchmarks.figures.compare import Ratio, Summary
from tidegate.benchmarks.figures.results import Result
from tidegate.benchmarks.growth import Growth
from tidegate.benchmarks.instructions import Instructions
from tidegate.benchmarks.micro import Cost
from tidegate.benchmarks.model import CORES, clients_needed
from tidegate.benchmarks.scaling import Scaling
from tidegate.benchmarks.syncs import SyncCount
from tidegate.benchmarks.versus import Change

_LAYERS = ("load", "router", "workers", "supervisor")


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """Gives a function to call before each step, with what the step does. Redrawn rarely: the machine is being measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True) as bar:
        task = bar.add_task("starting", total=steps)
        started = False

        def begin(description: str) -> None:
            nonlocal started
            bar.update(task, description=description, advance=1 if started else 0)
            started = True

        yield begin


def print_result(result: Result) -> None:
    console, machine = make_console(), result.machine
    rounds = result.settings["rounds"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['filesystem']} with fdatasync in {machine['fdatasync_ms_p50']} ms, commit {result.commit}, "
        f"{rounds} round{'s' if rounds > 1 else ''}",
        highlight=False,
    )
    print_summaries(console, result.summaries)
    print_ratios(console, result.ratios)
    print_syncs(console, result.syncs)
    for name, reason in result.skipped.items():
        console.print(f"not measured: {name}: {reason}", highlight=False)


def make_console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 200)


def print_summaries(console: Console, summaries: Sequence[Summary]) -> None:
    layers = [layer for layer in _LAYERS if any(layer in summary.cpu_us for summary in summaries)]
    title = "calls per second, latency in ms, CPU µs per call, cores that others kept busy"
    spread = ("min", "max") if any(one.rounds > 1 for one in summaries) else ()
    names = ("at once", "rate", *spread, "p50", "p99", "p99.9", "max ms", *(f"{layer[:7]} µs" for layer in layers), "others")
    table = make_table(title, ("workload", "peer", "load", "route"), names)
    for one in summaries:
        latency = one.percentiles_ms
        table.add_row(
            one.workload, one.peer, one.generator, one.route, pressure(one.concurrency, one.offered),
            f"{one.rate:,.0f}", *((f"{one.rate_min:,.0f}", f"{one.rate_max:,.0f}") if spread else ()),
            f"{latency['p50']:.2f}", f"{latency['p99']:.2f}", f"{latency['p99.9']:.1f}", f"{latency['max']:.1f}",
            *(f"{one.cpu_us[layer]:.1f}" if layer in one.cpu_us else "" for layer in layers),
            f"{one.others_cores:.2f}",
        )  # fmt: skip
    console.print(table)


def pressure(concurrency: int, offered: int) -> str:
    return f"{offered:,}/s" if offered else str(concurrency)


def make_table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def print_ratios(console: Console, ratios: Sequence[Ratio]) -> None:
    if not ratios:
        return
    title = "one divided by another: medians over rounds"
    table = make_table(title, ("workload", "peer", "by", "route"), ("at once", "rate", "min", "max", "p50 latency"))
    for one in ratios:
        table.add_row(
            one.workload, one.peer, one.against, one.route, pressure(one.concurrency, one.offered),
            f"{one.rate:.2f}", f"{one.rate_min:.2f}", f"{one.rate_max:.2f}", f"{one.p50:.2f}",
        )  # fmt: skip
    console.print(table)


def print_syncs(console: Console, syncs: Sequence[SyncCount]) -> None:
    if not syncs:
        return
    title = "calls that wait for the disk (fdatasync, fsync, msync), in a short traced run"
    table = make_table(title, ("peer",), ("at once", "calls", "syncs", "calls per sync"))
    for one in syncs:
        table.add_row(one.peer, str(one.concurrency), f"{one.calls:,}", f"{one.syncs:,}", f"{one.calls_per_sync:.1f}")
    console.print(table)


def print_costs(costs: Sequence[Cost]) -> None:
    table = make_table("µs of CPU, the least of many runs, calls in batches of 64", ("layer", "what"), ("µs", "per", "budget"))
    for cost in sorted(costs, key=lambda cost: cost.layer):
        budget = f"{cost.budget_us:.0f}" if cost.budget_us else ""
        table.add_row(cost.layer, cost.what, f"{cost.us:.2f}", cost.per, budget, style="bold" if budget else None)
    make_console().print(table)


def print_instructions(counts: Sequence[Instructions]) -> None:
    table = make_table(f"instructions, counted by {counts[0].counted_by}, calls in batches of 64", ("part",), ("a call",))
    for one in counts:
        table.add_row(one.part, f"{one.per_call:,.0f}")
    make_console().print(table)


def print_memory(taken: Sequence[Memory]) -> None:
    table = make_table(f"memory of {taken[0].objects:,} objects that were called", ("each",), ("bytes",))
    for one in taken:
        table.add_row(one.what, f"{one.bytes_each:,}")
    make_console().print(table)


def print_changes(changes: Sequence[Change]) -> None:
    other = changes[0].against if changes else ""
    table = make_table("instructions a call, calls in batches of 64", ("part",), ("this tree", other, "ratio"))
    for one in changes:
        table.add_row(one.part, f"{one.here:,.0f}", f"{one.there:,.0f}", f"{one.ratio:.3f}")
    make_console().print(table)


def print_model(found: Scaling) -> None:
    console, costs = make_console(), found.costs
    console.print(
        f"CPU per call: client {costs.client_us:.1f} µs, router {costs.router_us:.1f} µs ({costs.router_busiest:.0%} of it in "
        f"one thread), worker {costs.worker_us:.1f} µs; disk: {costs.sync_us:.0f} µs a sync, {costs.syncs_per_s:,.0f} syncs/s",
        highlight=False,
    )
    table = make_table("calls per second and what runs out first", ("setup",), [f"{count} cores" for count in CORES])
    for name, predictions in found.predictions.items():
        table.add_row(name, *(f"{one.rate:,.0f} {one.bottleneck}" for one in predictions))
    most = found.predictions["clients elsewhere, direct"]
    table.add_row("client processes that this takes", *(f"{clients_needed(costs, one.rate):.1f}" for one in most))
    console.print(table)
    if found.checks:
        table = make_table("checked here, load on the same cores", ("what",), ("predicted", "first", "measured", "others"))
        for check in found.checks:
            shown = (f"{check.predicted:,.0f}", check.bottleneck, f"{check.measured:,.0f}", f"{check.others_cores:.2f}")
            table.add_row(check.what, *shown)
        console.print(table)


def print_growth(found: Growth) -> None:
    console, machine = make_console(), found.machine
    console.print(
        f"{found.objects:,} objects of {found.bytes_each:,} bytes, {found.cache_mib} MiB of cache; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['filesystem']}, commit {found.commit}",
        highlight=False,
    )
    keys = list(dict.fromkeys(key for one in found.summary.values() for key in one))
    table = make_table("calls per second, latency in ms, µs of workers and bytes of disk a call", ("load",), keys)
    for load, one in found.summary.items():
        table.add_row(load, *(f"{one[key]:,}" if key in one else "" for key in keys))
    console.print(table)
    moments = list(found.memory_mib)
    table = make_table("private memory, MiB", ("process",), moments)
    for name in dict.fromkeys(name for sizes in found.memory_mib.values() for name in sizes):
        table.add_row(name, *(f"{found.memory_mib[when].get(name, 0):,.0f}" for when in moments))
    table.add_row("objects", *(f"{found.objects_in_memory[when]:,}" for when in moments))
    console.print(table)
    tenths = ", ".join(f"{rate:,}" for rate in found.made_per_s)
    console.print(
        f"made in {found.made_s:,.0f} s ({tenths} a second), in the data files {found.settled_s:.0f} s later\n"
        f"disk: {found.disk_mib} MiB\n"
        f"checkpoints: {found.checkpoints}\n"
        f"stopped in {found.stopped_s:.1f} s, ready after {found.ready_s:.1f} s; after a kill {found.killed_ready_s:.1f} s, "
        f"{found.lost_calls} calls lost, {found.checked:,} objects looked at: nothing confirmed is missing",
        highlight=False,
    )


def print_browse(found: Browse) -> None:
    console, machine = make_console(), found.machine
    console.print(
        f"{found.objects:,} objects of {found.bytes_each:,} bytes; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['filesystem']}, commit {found.commit}\n"
        f"{found.peak:,.0f} calls a second at most, {found.offered:,.0f} offered in each window",
        highlight=False,
    )
    table = make_table(
        "calls beside whoever looks", ("who looks",), ("calls a second", "p50 ms", "p99 ms", "worker µs", "others")
    )
    for one in found.windows:
        latency = one.percentiles_ms
        shown = (f"{one.rate:,.0f}", f"{latency['p50']:.2f}", f"{latency['p99']:.1f}", f"{one.worker_us:.1f}")
        table.add_row(one.load, *shown, f"{one.others_cores:.2f}")
    console.print(table)
    table = make_table(
        "pages, and the part of the calls that they cost", ("what",), ("pages", "ms", "p95", "max", "lost", "from", "to")
    )
    for each in found.lookings:
        times = (f"{each.page_ms:.0f}", f"{each.page_ms_p95:.0f}", f"{each.page_ms_max:.0f}")
        table.add_row(each.how, str(each.pages), *times, f"{each.loss:.1%}", f"{each.loss_min:.1%}", f"{each.loss_max:.1%}")
    console.print(table)
