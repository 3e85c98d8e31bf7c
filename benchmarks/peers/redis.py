"""Redis with `appendonly yes` and `appendfsync always`, called by redis-benchmark: a C client without pipelining."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Literal

from tidegate.benchmarks.cpu import cpu_s_by_layer
from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.plan import Load, Plan, Route
from tidegate.benchmarks.processes import START_S_MAX, log_tail, stop
from tidegate.runtime.addresses import free_port

_RUN_S_MAX = 300.0
_SUM = "local s = 0 for _, k in ipairs(redis.call('keys', '*')) do s = s + redis.call('get', k) end return s"
_STEP = re.compile(r"^\s*[\d.]+% <= ([\d.]+) milliseconds \(cumulative count (\d+)\)", re.MULTILINE)
_RATE = re.compile(r"throughput summary: ([\d.]+) requests per second")


class Redis:
    name = "Redis AOF always"

    def __init__(self, folder: Path, transport: Literal["ipc", "tcp"]) -> None:
        for program in ("redis-server", "redis-benchmark", "redis-cli"):
            if shutil.which(program) is None:
                raise BenchmarkFailed(f"{program} is not installed (Debian: redis-server, redis-tools)")
        port = free_port() if transport == "tcp" else 0
        path = folder / "redis"
        self._where = ["-h", "127.0.0.1", "-p", str(port)] if port else ["-s", str(path)]
        options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
        options += ["--appendfsync", "always", *([] if port else ["--unixsocket", str(path)])]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(["redis-server", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S_MAX
        while self._ask("ping") != "PONG":
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.close()
                raise BenchmarkFailed(f"Redis does not start: {log_tail(self._log)}")
            time.sleep(0.02)

    def _ask(self, *words: str) -> str:
        ended = subprocess.run(["redis-cli", *self._where, *words], capture_output=True, text=True, check=False)
        return ended.stdout.strip()

    def can(self, plan: Plan) -> bool:
        return plan.workload.name in ("unique", "hot", "read") and plan.route == "direct" and not (plan.rate or plan.zipf)

    def run(self, plan: Plan, meter: Meter) -> Load:
        """Verified by the sum of all counters."""
        reads, random = plan.workload.name == "read", ["-r", str(plan.objects)]
        self._ask("flushall")
        before = 20 * plan.objects if reads else 0
        if reads:
            self._call(64, before, [*random, "INCR", "c:__rand_int__"])
        spent_s = resource.getrusage(resource.RUSAGE_CHILDREN)
        meter.start()
        report = self._call(plan.concurrency, plan.requests, [*random, "GET" if reads else "INCR", "c:__rand_int__"])
        meter.stop()
        total_s = resource.getrusage(resource.RUSAGE_CHILDREN)
        counted = self._ask("--raw", "eval", _SUM, "0")
        if counted != str(before or plan.requests):
            raise BenchmarkFailed(f"Redis counted to {counted} after {before or plan.requests} calls")
        cpu_s = total_s.ru_utime + total_s.ru_stime - spent_s.ru_utime - spent_s.ru_stime
        return parse_report(report, plan.requests, cpu_s)

    def _call(self, concurrency: int, requests: int, words: list[str]) -> str:
        command = ["redis-benchmark", *self._where, "-c", str(concurrency), "-n", str(requests), "--precision", "3", *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RUN_S_MAX)
        if ended.returncode or "requests per second" not in ended.stdout:
            raise BenchmarkFailed(f"redis-benchmark: {(ended.stderr or ended.stdout)[-500:]}")
        return ended.stdout

    def cpu_s(self, route: Route) -> dict[str, float]:
        return cpu_s_by_layer({"workers": [self._process.pid]})

    def durable_pids(self) -> list[int]:
        return [self._process.pid]

    def close(self) -> None:
        stop(self._process)


def parse_report(text: str, requests: int, cpu_s: float) -> Load:
    """What redis-benchmark prints: the rate, and latencies as `99.9% <= 1.2 milliseconds (cumulative count 999)`."""
    rate = _RATE.search(text)
    if rate is None:
        raise BenchmarkFailed(f"redis-benchmark printed no rate: {text[-500:]}")
    percentiles = text.partition("Latency by percentile distribution")[2].partition("Cumulative distribution")[0]
    steps = [(float(ms) / 1e3, int(count)) for ms, count in _STEP.findall(percentiles)]
    histogram = Histogram.of_cumulative(steps)
    return Load(requests, 0.0, requests / float(rate[1]), histogram, cpu_s, "redis-benchmark")
