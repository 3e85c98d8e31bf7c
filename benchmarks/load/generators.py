"""Load processes: started, warmed up, let go at once, and their measurements put together."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import threading
from array import array
from collections.abc import Iterator, Sequence

import msgspec

from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.job import WARM, Door, Job, Outcome
from tidegate.benchmarks.load.workloads import BenchmarkFailed, check_union
from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.plan import Generator, Load, Plan
from tidegate.benchmarks.processes import start_module

_RUN_S_MAX = 900.0


def run_generators(door: Door, plan: Plan, generator: Generator, meter: Meter, class_name: str = "") -> Load:
    """Raises BenchmarkFailed."""
    jobs = make_jobs(door, plan, generator, class_name)
    loads = run_processes("tidegate.benchmarks.load.generator", [msgspec.json.encode(job) for job in jobs], plan, meter)
    if jobs[0].shared:
        check_union([array("q", load.numbers) for load in loads])
    return together(loads)


def run_processes(module: str, jobs: Sequence[bytes], plan: Plan, meter: Meter) -> list[Load]:
    """Each process reads its job, says that it is warm, waits for a line, and writes an `Outcome`. Raises BenchmarkFailed."""
    with _processes(module, len(jobs)) as processes:
        for process, job in zip(processes, jobs, strict=True):
            _write(process, job + b"\n")
        for process in processes:
            line = _read_line(process)
            if line != WARM:
                raise BenchmarkFailed(f"{plan}: {_outcome(line, process).failed}")
        meter.start()
        for process in processes:
            _write(process, b"go\n")
        lines = [_read_line(process) for process in processes]
        meter.stop()
        outcomes = [_outcome(line, process) for line, process in zip(lines, processes, strict=True)]
    loads = []
    for outcome in outcomes:
        if outcome.load is None:
            raise BenchmarkFailed(f"{plan}: {outcome.failed}")
        loads.append(outcome.load)
    return loads


def make_jobs(door: Door, plan: Plan, generator: Generator, class_name: str = "") -> list[Job]:
    """The plan dealt to its generators. Each has objects of its own, unless the workload is to call the same."""
    count = max(1, min(plan.generators, plan.concurrency or plan.generators))
    shared = count > 1 and plan.workload.shared
    prefix = secrets.token_hex(4)
    return [
        Job(
            door=door,
            workload=plan.workload.name,
            concurrency=_share(plan.concurrency, count, index),
            requests=max(1, _share(plan.requests, count, index)),
            objects=plan.objects if shared else max(1, _share(plan.objects, count, index)),
            prefix=f"{prefix}-" if shared or count == 1 else f"{prefix}-{index}-",
            generator=generator,
            rate=plan.rate / count,
            zipf=plan.zipf,
            seconds=plan.seconds,
            shared=shared,
            class_name=class_name,
        )
        for index in range(count)
    ]


def _share(total: int, count: int, index: int) -> int:
    return total // count + (index < total % count)


def together(loads: Sequence[Load]) -> Load:
    return Load(
        requests=sum(load.requests for load in loads),
        started_s=min(load.started_s for load in loads),
        ended_s=max(load.ended_s for load in loads),
        histogram=Histogram.merged([load.histogram for load in loads]),
        cpu_s=sum(load.cpu_s for load in loads),
        generator=loads[0].generator,
    )


@contextlib.contextmanager
def _processes(module: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """They are killed when they take too long, so that reading from them ends."""
    processes = [start_module(module) for _ in range(count)]

    def kill() -> None:
        for process in processes:
            process.kill()

    alarm = threading.Timer(_RUN_S_MAX, kill)
    alarm.start()
    try:
        yield processes
    finally:
        alarm.cancel()
        kill()
        for process in processes:
            process.communicate()


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # It has ended; what it wrote, or did not, tells.
        process.stdin.write(line)
        process.stdin.flush()


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def _outcome(line: bytes, process: subprocess.Popen[bytes]) -> Outcome:
    if not line:
        return Outcome(failed=f"a load generator ended with code {process.wait()}")
    return msgspec.json.decode(line, type=Outcome)
