"""What operators who look around cost, and how long they wait: pages of names and the console's search, beside half the peak.

In one run: objects are made; how many calls a second are answered at most is measured; then windows of time in turn, in each of
which half as many calls a second are made: nobody looks, pages as of `tidegate objects ls`, nobody, searches in a real console
over HTTP. A window is compared with that before and that behind it in which nobody looked.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from tidegate.benchmarks.figures import results
from tidegate.benchmarks.growth import Ask, Say, Served, Window, check_room, make, settle, window
from tidegate.benchmarks.load.many import CLASS, Call, name_of
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.processes import scratch_folder, start_module, stop

WINDOW_S = 15.0
PAGE_MS_MAX = {"objects ls": 100.0, "console search": 300.0}
"""Within this 95 of 100 pages are to be there."""
LOSS_MAX = 0.05
"""Of the calls."""
_ANSWER_S_MAX = 60.0


class Looking(msgspec.Struct, frozen=True):
    """All windows in which pages were asked for in one way."""

    how: str
    pages: int
    page_ms: float
    """Median."""
    page_ms_p95: float
    page_ms_max: float
    loss: float
    """Of the calls a second, as a part of those without: median over windows. Below 0: there were more."""
    loss_min: float
    loss_max: float


class Browse(msgspec.Struct):
    objects: int
    bytes_each: int
    machine: dict[str, Any]
    commit: str
    peak: float = 0.0
    """Calls a second of so many callers without pause."""
    offered: float = 0.0
    """Calls a second in each window: half of it."""
    windows: list[Window] = []
    lookings: list[Looking] = []


class ConsoleProcess:
    """`tidegate console`, asked over HTTP as its page asks."""

    def __init__(self, front: str) -> None:
        self._process = start_module(
            "tidegate", "console", "--connect", front, "--listen", "127.0.0.1:0", "--json", stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"the console did not start: {self._process.stderr.read().decode().strip()}")
        address, _, secret = json.loads(line)["link"].partition("#")
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._place = urlsplit(address).netloc

    def search_ms(self, class_name: str, prefix: str) -> float:
        """Raises BenchmarkFailed unless objects are found, and all workers have been asked."""
        began = time.monotonic()
        # Each by a connection of its own: the console closes one that is quiet for as long as the windows of others take.
        with contextlib.closing(http.client.HTTPConnection(self._place, timeout=_ANSWER_S_MAX)) as connection:
            query = urlencode({"class_name": class_name, "prefix": prefix})
            connection.request("GET", f"/api/objects?{query}", headers=self._headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        took_ms = (time.monotonic() - began) * 1e3
        if answer.status != 200 or told["missing"] or not told["objects"]:
            raise BenchmarkFailed(f"a search for {class_name or 'any class'} {prefix!r} was answered {answer.status}: {told}")
        return took_ms

    def close(self) -> None:
        stop(self._process)
        assert self._process.stderr is not None
        self._process.stderr.close()


def pages(served: Served, objects: int, chance: Random) -> Iterator[Ask]:
    """Behind any name; one that is the last of all of them would have none behind it."""
    while True:
        yield partial(served.names_page_ms, f"{name_of(chance.randrange(objects))[:-1]}")


def searches(console: ConsoleProcess, objects: int, chance: Random) -> Iterator[Ask]:
    """For the beginning of any name, in turn in its class and in all."""
    for turn in itertools.count():
        name = name_of(chance.randrange(objects))
        prefix = name[: chance.randrange(len("account-"), len(name) + 1)]
        yield partial(console.search_ms, *(("", f"{CLASS}/{prefix}") if turn % 2 else (CLASS, prefix)))


def summarise(how: str, all_windows: list[Window]) -> Looking:
    """Every window of it stands between two of nobody."""
    losses, pages_ms = [], []
    for before, one, after in zip(all_windows, all_windows[1:], all_windows[2:], strict=False):
        if one.load == how:
            losses.append(1.0 - one.rate / statistics.mean((before.rate, after.rate)))
            pages_ms += one.pages_ms
    if not pages_ms:
        raise BenchmarkFailed("no page was asked for: more --seconds")
    pages_ms.sort()
    return Looking(
        how=how,
        pages=len(pages_ms),
        page_ms=statistics.median(pages_ms),
        page_ms_p95=pages_ms[int(len(pages_ms) * 0.95)],
        page_ms_max=pages_ms[-1],
        loss=round(statistics.median(losses), 4),
        loss_min=round(min(losses), 4),
        loss_max=round(max(losses), 4),
    )


def measure(options: argparse.Namespace, say: Say) -> Browse:
    """Raises BenchmarkFailed."""
    bytes_each = max(1, int(options.gigabytes * 1e9 / options.objects))
    with scratch_folder(options.folder) as folder:
        return _measure(options, folder, bytes_each, say)


def _measure(options: argparse.Namespace, folder: Path, bytes_each: int, say: Say) -> Browse:
    found = Browse(options.objects, bytes_each, results.machine_facts(folder), results.commit())
    check_room(folder, found.objects, bytes_each)
    with contextlib.ExitStack() as stack:
        served = Served(folder / "data", options)
        stack.callback(served.close)
        make(served, found.objects, bytes_each, say)
        say("waiting until they are in the data files")
        settle(served)
        console = ConsoleProcess(served.service.front)
        stack.callback(console.close)
        chance = Random(0)
        looks: dict[str, Iterator[Ask]] = {
            "objects ls": pages(served, found.objects, chance),
            "console search": searches(console, found.objects, chance),
        }
        found.peak = window(served, "peak", Call(options.seconds, options.concurrency))[0].rate
        found.offered = round(found.peak / 2, 1)
        half = Call(options.seconds, options.concurrency, rate=found.offered)
        say(f"{found.peak:,.0f} calls a second at most; from now on {found.offered:,.0f}")
        turns = ["nobody", *itertools.chain.from_iterable((how, "nobody") for _ in range(options.rounds) for how in looks)]
        for load in turns:
            one, _ = window(served, load, half, looks.get(load, ()))
            found.windows.append(one)
            shown = f", pages {min(one.pages_ms):.0f} to {max(one.pages_ms):.0f} ms" if one.pages_ms else ""
            say(f"  {load}: {one.rate:,.0f} calls a second, p99 {one.percentiles_ms['p99']:.1f} ms{shown}")
    found.lookings = [summarise(how, found.windows) for how in looks]
    return found


def dear(lookings: list[Looking]) -> list[str]:
    """A line for each way in which pages come too late, or cost more calls than they may."""
    late = [
        f"{one.how}: 95 of 100 pages within {one.page_ms_p95:.0f} ms, more than {PAGE_MS_MAX[one.how]:.0f}"
        for one in lookings
        if one.page_ms_p95 > PAGE_MS_MAX[one.how]
    ]
    lossy = [
        f"{one.how}: {one.loss:.1%} of the calls lost ({one.loss_min:.1%} to {one.loss_max:.1%}), more than {LOSS_MAX:.0%}"
        for one in lookings
        if one.loss > LOSS_MAX
    ]
    return [*late, *lossy]
