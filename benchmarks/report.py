"""What a person sees: progress while it runs, tables after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.compare import Ratio, Summary

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


def print_summaries(console: Console, summaries: Sequence[Summary]) -> None:
    layers = [layer for layer in _LAYERS if any(layer in summary.cpu_us for summary in summaries)]
    title = "calls per second, latency in ms, CPU µs per call, cores that others kept busy"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("workload", "peer", "load", "route"):
        table.add_column(name)
    for name in ("at once", "rate", "min", "max", "p50", "p99", "max ms", *(f"{layer} µs" for layer in layers), "others"):
        table.add_column(name, justify="right")
    for one in summaries:
        latency = one.percentiles_ms
        table.add_row(
            one.workload, one.peer, one.generator, one.route, str(one.concurrency),
            f"{one.rate:,.0f}", f"{one.rate_min:,.0f}", f"{one.rate_max:,.0f}",
            f"{latency['p50']:.2f}", f"{latency['p99']:.2f}", f"{latency['max']:.1f}",
            *(f"{one.cpu_us[layer]:.1f}" if layer in one.cpu_us else "" for layer in layers),
            f"{one.others_cores:.2f}",
        )  # fmt: skip
    console.print(table)


def print_ratios(console: Console, ratios: Sequence[Ratio]) -> None:
    if not ratios:
        return
    title = f"{ratios[0].peer} divided by {ratios[0].against}: medians over rounds"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("workload", "load", "route"):
        table.add_column(name)
    for name in ("at once", "rate", "min", "max", "p50 latency"):
        table.add_column(name, justify="right")
    for one in ratios:
        table.add_row(
            one.workload, one.generator, one.route, str(one.concurrency),
            f"{one.rate:.2f}", f"{one.rate_min:.2f}", f"{one.rate_max:.2f}", f"{one.p50:.2f}",
        )  # fmt: skip
    console.print(table)
