"""CPU time of other processes, to the nanosecond: `/proc/PID/stat` counts in ticks of 10 ms, a whole run's worth of noise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import psutil

from tidegate.benchmarks.load.workloads import BenchmarkFailed

_CPUCLOCK_SCHED = 2


def cpu_s(pid: int) -> float:
    """User and system time of all threads of a process, those that ended included. Raises OSError when it has gone."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)  # What clock_getcpuclockid(3) returns.


def machine_cpu_s() -> float:
    """CPU time that anybody has used, kernel and interrupts included, in ticks of 10 ms."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)  # Guests count as user already.


def cpu_s_by_layer(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Raises BenchmarkFailed where one of them has ended: what it had used nobody knows any longer."""
    try:
        return {layer: sum(map(cpu_s, members)) for layer, members in pids.items()}
    except OSError:
        raise BenchmarkFailed(
            "a process of the service ended while it was measured; measure again when all of it serves"
        ) from None
