"""What grows with the data: very many objects of some size, made and called through the service.

In one run: objects are made in bulk; then windows of time in turn, each of them calling every object alike (or by Zipf's law),
those of a second service with a thousand objects, and the large one again; a stop and a start; a kill of every process under load
and a start; what was confirmed is looked for. What may not grow with the number of objects: the rate, the CPU time, the pages
read and written by a call, the longest wait, the start, the memory of each process, a page of names.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tidegate.benchmarks.cpu import cpu_s, machine_cpu_s
from tidegate.benchmarks.figures import results
from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.many import CLASS, Call, Check, Done, Make, Order, name_of
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.peers.ours import Service, system_call
from tidegate.benchmarks.processes import scratch_folder, start_module, wait
from tidegate.runtime.cli.wishing import of_all
from tidegate.runtime.wire.wishes import ListNames

SMALL = 1_000
"""Objects of the service that the large one is compared with."""
MADE_AT_ONCE = 100_000
"""Objects; after so many it is said how far that has got."""
WINDOW_S = 15.0
PAGE_PAUSE_S = 0.5
"""Between two pages of names."""
CHECKED = 20_000
"""Objects that are looked at after the kill."""
KILL_AFTER_S = 4.0
START_S_MAX = 300.0
"""A start that takes longer than it should is measured, too."""
_QUIET_S_MAX = 120.0
_DISK_SPARE = 3
"""Bytes of the disk for each byte of data: pages are half full, the index of names, the log."""
_MIB = 1 << 20
_SECTOR = 512

Say = Callable[[str], None]
Ask = Callable[[], float]
"""Asks for a page; how many milliseconds it took."""


class Window(msgspec.Struct, frozen=True):
    """Some seconds of load on one service."""

    load: str
    rate: float
    percentiles_ms: dict[str, float]
    silence_ms_max: float
    """The longest time in which nobody was answered."""
    worker_us: float
    """CPU of the workers for a call."""
    read_bytes: float
    written_bytes: float
    """Of the disk, for a call; others of the machine included."""
    reads_apart: float
    """Reads for a call that a thread made."""
    checkpoints: int
    pages_ms: list[float]
    """Pages of names, asked for meanwhile."""
    others_cores: float


class Growth(msgspec.Struct):
    """What came of it, as far as it has got."""

    objects: int
    bytes_each: int
    cache_mib: int
    machine: dict[str, Any]
    commit: str
    made_s: float = 0.0
    made_per_s: list[float] = []
    """Objects made a second, of each tenth."""
    settled_s: float = 0.0
    """From then on until everything was in the data files."""
    disk_mib: dict[str, int] = {}
    memory_mib: dict[str, dict[str, float]] = {}
    """Private memory of each process, at each of these moments."""
    objects_in_memory: dict[str, int] = {}
    windows: list[Window] = []
    checkpoints: dict[str, Any] = {}
    """The longest ones: seconds of a whole one, of one turn of the loop, of one commit."""
    stopped_s: float = 0.0
    ready_s: float = 0.0
    killed_ready_s: float = 0.0
    lost_calls: int = 0
    checked: int = 0
    summary: dict[str, Any] = {}


class Caller:
    """The process that calls one service; one order at a time."""

    def __init__(self, front: str) -> None:
        self._process = start_module("tidegate.benchmarks.load.many", front)

    def begin(self, order: Order) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def end(self) -> Done:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"the process that calls ended with code {self._process.wait()}")
        done = msgspec.json.decode(line, type=Done)
        if done.failed:
            raise BenchmarkFailed(done.failed)
        return done

    def do(self, order: Order) -> Done:
        self.begin(order)
        return self.end()

    def close(self) -> None:
        self._process.kill()
        wait(self._process)


class Served:
    """One service with its caller."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self._options = folder, options
        self.service = self._start()
        self.caller = Caller(self.service.front)

    def _start(self) -> Service:
        options = self._options
        each_mib = max(1, options.cache_mib // options.workers)
        return Service(self.folder, workers=options.workers, transport="ipc", cache_mib=each_mib, start_s_max=START_S_MAX)

    def start_again(self) -> float:
        """How long until everything is served."""
        began = time.monotonic()
        self.service = self._start()
        return time.monotonic() - began

    def status(self) -> dict[str, Any]:
        return dict(system_call(self.service.front, "status"))

    def workers(self) -> list[dict[str, Any]]:
        """What each says of itself, at most a second old."""
        while True:
            told = [each for each in self.status()["processes"] if each["name"].startswith("worker")]
            if all(each.get("statistics") for each in told):
                return told
            time.sleep(0.1)

    def pids(self) -> dict[str, int]:
        return {each["name"]: each["pid"] for each in self.status()["processes"] if each["pid"]}

    def names_page_ms(self, after: str) -> float:
        """A page of names of all workers, behind that one; by the supervisor's socket, as `tidegate objects ls` asks."""
        options = argparse.Namespace(connect=self.service.front, key_file="", timeout=60.0)
        began = time.monotonic()
        answers, missing = of_all(options, ListNames(CLASS, after=(CLASS, after)))
        took_ms = (time.monotonic() - began) * 1e3
        if missing or not any(answer["objects"] for answer in answers):
            raise BenchmarkFailed(f"a page of names lacks something: {missing}")
        return took_ms

    def close(self) -> None:
        self.caller.close()
        self.service.close()


def private_mib(pid: int) -> float:
    """Memory of its own, pages of data files not counted. (smaps would stop the process for as long as it walks over them.)"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1_024
    return 0.0


def disk_io(folder: Path) -> tuple[int, int]:
    """Bytes that the disk has read and written, for anybody. (`/proc/PID/io` counts the whole large folio, up to 2 MiB, of which
    a block has changed: Linux 6.18.)"""
    device = os.stat(folder).st_dev
    fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    return int(fields[2]) * _SECTOR, int(fields[6]) * _SECTOR


class Reading:
    """What the workers have used so far."""

    def __init__(self, served: Served) -> None:
        told = served.workers()
        pids = [each["pid"] for each in told]
        self.at_s = time.monotonic()
        self.cpu_s = sum(map(cpu_s, pids))
        self.machine_s = machine_cpu_s()
        self.read, self.written = disk_io(served.folder)
        self.reads_apart = sum(each["statistics"]["reads"]["reads_apart"] for each in told)
        self.checkpoints = sum(each["statistics"]["checkpoint"]["checkpoints"] for each in told)


def window(served: Served, load: str, order: Call, asks: Iterable[Ask] = ()) -> tuple[Window, Done]:
    """`asks`: for what pages are asked meanwhile, one after the other; each tells how long it took."""
    before, asked, pages_ms = Reading(served), iter(asks), []
    served.caller.begin(order)
    end = time.monotonic() + order.seconds
    while time.monotonic() < end - PAGE_PAUSE_S:
        time.sleep(PAGE_PAUSE_S)
        if (ask := next(asked, None)) is not None:
            pages_ms.append(round(ask(), 1))
    done = served.caller.end()
    after = Reading(served)
    spent_s = after.cpu_s - before.cpu_s
    found = Window(
        load=load,
        rate=round(done.calls / done.elapsed_s, 1),
        percentiles_ms=done.histogram.percentiles_ms(),
        silence_ms_max=round(done.silence_s_max * 1e3, 1),
        worker_us=round(spent_s / done.calls * 1e6, 2),
        read_bytes=round((after.read - before.read) / done.calls, 1),
        written_bytes=round((after.written - before.written) / done.calls, 1),
        reads_apart=round((after.reads_apart - before.reads_apart) / done.calls, 4),
        checkpoints=after.checkpoints - before.checkpoints,
        pages_ms=pages_ms,
        others_cores=round((after.machine_s - before.machine_s - spent_s) / (after.at_s - before.at_s), 2),
    )
    return found, done


def check_room(folder: Path, objects: int, bytes_each: int) -> None:
    """Raises BenchmarkFailed."""
    free = os.statvfs(folder)
    needed = objects * (bytes_each + 200) * _DISK_SPARE
    if needed > free.f_bavail * free.f_frsize:
        raise BenchmarkFailed(f"{folder} has no room for {needed / 1e9:.0f} GB: name another --folder")


def make(served: Served, objects: int, bytes_each: int, say: Say) -> list[float]:
    """How many a second, of each step."""
    rates = []
    for first in range(0, objects, MADE_AT_ONCE):
        done = served.caller.do(Make(min(MADE_AT_ONCE, objects - first), bytes_each))
        rates.append(done.calls / done.elapsed_s)
        say(f"{first + done.calls:,} of {objects:,} objects made, {rates[-1]:,.0f} a second")
    return rates


def settle(served: Served) -> float:
    """Until everything is in the data files; how long that took."""
    began = time.monotonic()
    positions: list[Any] = []
    while time.monotonic() - began < _QUIET_S_MAX:
        told = [each["statistics"] for each in served.workers()]
        now = [(each["log"]["position"], each["checkpoint"]["checkpoints"], each["checkpoint"]["entries"]) for each in told]
        if now == positions and all(each["log"]["segments_used"] <= 1 for each in told):
            break
        positions = now
        time.sleep(4.5)  # An idle checkpoint comes after three seconds.
    return time.monotonic() - began


class Run:
    def __init__(self, options: argparse.Namespace, folder: Path, say: Say) -> None:
        self._options, self._folder, self._say = options, folder, say
        self._histograms: dict[str, list[Histogram]] = {}
        self.found = Growth(
            objects=options.objects,
            bytes_each=max(1, int(options.gigabytes * 1e9 / options.objects)),
            cache_mib=options.cache_mib,
            machine=results.machine_facts(folder),
            commit=results.commit(),
        )

    def run(self) -> Growth:
        check_room(self._folder, self.found.objects, self.found.bytes_each)
        with contextlib.ExitStack() as stack:
            small = Served(self._folder / "small", self._options)
            stack.callback(small.close)
            large = Served(self._folder / "large", self._options)
            stack.callback(lambda: large.close())
            small.caller.do(Make(SMALL, self.found.bytes_each))
            self._remember(large, "empty")
            self._make(large)
            self._windows(small, large)
            self._stop_and_start(large)
            self._kill(large)
        self._summarise()
        return self.found

    def _make(self, large: Served) -> None:
        found, began = self.found, time.monotonic()
        rates = make(large, found.objects, found.bytes_each, self._say)
        found.made_s = round(time.monotonic() - began, 1)
        tenth = max(1, len(rates) // 10)
        found.made_per_s = [round(statistics.mean(rates[at : at + tenth])) for at in range(0, len(rates), tenth)]
        self._remember(large, "made")
        self._say("waiting until they are in the data files")
        found.settled_s = round(settle(large), 1)
        self._remember(large, "settled")
        self._remember_disk(large)

    def _windows(self, small: Served, large: Served) -> None:
        options, found = self._options, self.found
        loads: list[tuple[str, float | None]] = [("uniform", None)]
        if options.zipf:
            loads.append((f"zipf {options.zipf:g}", options.zipf))
        seconds = min(WINDOW_S, options.minutes * 60)
        rounds = max(1, round(options.minutes * 60 / seconds))
        for number in range(rounds):
            for load, skew in loads:
                self._say(f"round {number + 1} of {rounds}: {load}")
                self._window(small, f"{load}, {SMALL:,} objects", Call(seconds / 3, options.concurrency))
                asks = [partial(large.names_page_ms, name_of(found.objects * at // 7)) for at in range(1, 4)]
                self._window(large, load, Call(seconds, options.concurrency, skew), asks)
        self._remember(large, "called")
        self._remember_disk(large)
        checkpoints = [each["statistics"]["checkpoint"] for each in large.workers()]
        found.checkpoints = {name: max(each[name] for each in checkpoints) for name in ("last_s", "turn_s_max", "commit_s_max")}

    def _window(self, served: Served, load: str, order: Call, asks: Iterable[Ask] = ()) -> None:
        one, done = window(served, load, order, asks)
        self.found.windows.append(one)
        self._histograms.setdefault(load, []).append(done.histogram)
        self._say(
            f"  {load}: {one.rate:,.0f} calls a second, p99.9 {one.percentiles_ms['p99.9']:.1f} ms, longest "
            f"{one.percentiles_ms['max']:.0f} ms, {one.worker_us:.1f} µs, {one.read_bytes:,.0f} bytes read and "
            f"{one.written_bytes:,.0f} written a call, {one.checkpoints} checkpoints, others {one.others_cores:.2f} cores"
        )

    def _stop_and_start(self, large: Served) -> None:
        self._say("stopping")
        began = time.monotonic()
        large.service.close()
        self.found.stopped_s = round(time.monotonic() - began, 2)
        self.found.ready_s = round(large.start_again(), 2)
        self._remember(large, "started")

    def _kill(self, large: Served) -> None:
        self._say("killing under load")
        options = self._options
        large.caller.do(Call(KILL_AFTER_S, options.concurrency))
        large.caller.begin(Call(600.0, options.concurrency, until_lost=True))
        time.sleep(min(KILL_AFTER_S * 2, options.minutes * 60))
        pids = large.pids()
        for pid in sorted(pids.values(), key=lambda pid: pid != pids["supervisor"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        large.service.close()
        self.found.killed_ready_s = round(large.start_again(), 2)
        self.found.lost_calls = large.caller.end().lost
        self.found.checked = large.caller.do(Check(min(CHECKED, self.found.objects))).calls
        self._remember(large, "started after the kill")

    def _remember(self, served: Served, when: str) -> None:
        self.found.memory_mib[when] = {name: round(private_mib(pid), 1) for name, pid in served.pids().items()}
        self.found.objects_in_memory[when] = sum(each["statistics"]["activations"] for each in served.workers())

    def _remember_disk(self, served: Served) -> None:
        spaces = [each["statistics"]["space"] for each in served.workers()]
        self.found.disk_mib = {
            name: sum(space[f"{name}_bytes"] for space in spaces) // _MIB for name in ("log", "state", "state_free")
        }

    def _summarise(self) -> None:
        """Medians over rounds; of latencies, all of them."""
        for load, histograms in self._histograms.items():
            mine = [one for one in self.found.windows if one.load == load]
            self.found.summary[load] = {
                "rate": round(statistics.median(one.rate for one in mine)),
                **Histogram.merged(histograms).percentiles_ms(),
                "silence_ms_max": max(one.silence_ms_max for one in mine),
                "worker_us": round(statistics.median(one.worker_us for one in mine), 1),
                "read_bytes": round(statistics.median(one.read_bytes for one in mine)),
                "written_bytes": round(statistics.median(one.written_bytes for one in mine)),
            }
            pages = sorted(page for one in mine for page in one.pages_ms)
            if pages:
                self.found.summary[load] |= {"page_ms": statistics.median(pages), "page_ms_max": pages[-1]}
                small = [one for one in self.found.windows if one.load == f"{load}, {SMALL:,} objects"]
                ratios = [one.rate / other.rate for one, other in zip(mine, small, strict=True)]
                self.found.summary[load]["ratio"] = round(statistics.median(ratios), 3)


def measure(options: argparse.Namespace, say: Say) -> Growth:
    """Raises BenchmarkFailed."""
    with scratch_folder(options.folder) as folder:
        return Run(options, folder, say).run()
