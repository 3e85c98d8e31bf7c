"""PostgreSQL as initdb sets it up (synchronous_commit and fsync on), called by pgbench with a prepared UPDATE … RETURNING."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.plan import Load, Plan, Route
from tidegate.benchmarks.processes import START_S_MAX, log_tail, stop

_CONCURRENCY_MAX = 256
"""Each connection is a process."""
_RUN_S = 2
_BATCH_S_MAX = 60.0
_PROGRAMS = Path("/usr/lib/postgresql")


class Postgres:
    name = "PostgreSQL"

    def __init__(self, folder: Path) -> None:
        found = sorted(_PROGRAMS.glob("*/bin/initdb"))
        if not found or not found[-1].with_name("pgbench").exists():
            raise BenchmarkFailed("not installed (Debian: postgresql)")
        self._programs = found[-1].parent
        self._folder = folder
        self._as_user: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:  # The server refuses to run as root.
            account = pwd.getpwnam("postgres")
            folder.parent.chmod(0o711)
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._as_user |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._program("initdb", "-D", "data", "-A", "trust", "-U", "tide")
        server = [str(self._programs / "postgres"), "-D", "data", "-c", "listen_addresses=", "-k", str(folder)]
        server += ["-c", f"max_connections={_CONCURRENCY_MAX + 10}"]
        self._log = folder.parent / "postgres.log"
        with self._log.open("wb") as log:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                server, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_user
            )
        try:
            self._wait_ready()
        except BenchmarkFailed:
            self.close()
            raise

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                self._sql("SELECT 1")
                return
            except BenchmarkFailed:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise BenchmarkFailed(f"PostgreSQL does not start: {log_tail(self._log)}") from None
                time.sleep(0.05)

    def _program(self, name: str, *arguments: str) -> str:
        command = [str(self._programs / name), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BATCH_S_MAX, **self._as_user)
        if ended.returncode:
            raise BenchmarkFailed(f"{name}: {ended.stderr[-500:]}")
        return str(ended.stdout)

    def _sql(self, *statements: str) -> str:
        asked = [part for statement in statements for part in ("-c", statement)]
        return self._program("psql", "-h", str(self._folder), "-U", "tide", "-d", "postgres", "-qAt", *asked).strip()

    def can(self, plan: Plan) -> bool:
        simple = plan.route == "direct" and not (plan.rate or plan.zipf)
        return plan.workload.name in ("unique", "hot") and simple and plan.concurrency <= _CONCURRENCY_MAX

    def run(self, plan: Plan, meter: Meter) -> Load:
        """Verified by the sum of all counters."""
        self._sql(
            "DROP TABLE IF EXISTS counters",
            "CREATE TABLE counters (id int PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 50)",
            f"INSERT INTO counters SELECT id, 0 FROM generate_series(1, {plan.objects}) id",
            "VACUUM ANALYZE counters",
            "CHECKPOINT",
        )
        script = self._folder / "script.sql"
        update = "UPDATE counters SET value = value + 1 WHERE id = :id RETURNING value - 1;"
        script.write_text(f"\\set id random(1, {plan.objects})\n{update}\n")
        spent_s = resource.getrusage(resource.RUSAGE_CHILDREN)
        meter.start()
        clients = str(plan.concurrency)
        arguments = ["-n", "-M", "prepared", "-f", "script.sql", "-c", clients, "-j", "1", "-T", str(_RUN_S), "-l"]
        report = self._program("pgbench", "-h", str(self._folder), "-U", "tide", *arguments, "postgres")
        meter.stop()
        total_s = resource.getrusage(resource.RUSAGE_CHILDREN)
        latencies_s = list(self._take_latencies())
        counted = self._sql("SELECT sum(value) FROM counters")
        if counted != str(len(latencies_s)):
            raise BenchmarkFailed(f"PostgreSQL counted to {counted} after {len(latencies_s)} calls")
        cpu_s = total_s.ru_utime + total_s.ru_stime - spent_s.ru_utime - spent_s.ru_stime
        elapsed_s = len(latencies_s) / parse_rate(report)
        return Load(len(latencies_s), 0.0, elapsed_s, Histogram.of(latencies_s), cpu_s, "pgbench")

    def _take_latencies(self) -> Iterator[float]:
        """One line a transaction; the third word is its time in µs."""
        for path in self._folder.glob("pgbench_log.*"):
            for line in path.read_text().splitlines():
                yield int(line.split()[2]) / 1e6
            path.unlink()

    def cpu_s(self, route: Route) -> dict[str, float]:
        """Of the server and all connections, those that have ended included."""
        server = psutil.Process(self._process.pid)
        spent = 0.0
        for process in (server, *server.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:  # It has just ended; its parent's sum has it.
                continue
            spent += times.user + times.system + times.children_user + times.children_system
        return {"workers": spent}

    def durable_pids(self) -> list[int]:
        server = psutil.Process(self._process.pid)
        return [server.pid, *(child.pid for child in server.children(recursive=True))]

    def close(self) -> None:
        stop(self._process)
        shutil.rmtree(self._folder / "data", ignore_errors=True)


def parse_rate(report: str) -> float:
    """Of pgbench's summary; without the time that connecting took."""
    for line in report.splitlines():
        if line.startswith("tps = "):
            return float(line.split()[2])
    raise BenchmarkFailed(f"pgbench printed no rate: {report[-500:]}")
