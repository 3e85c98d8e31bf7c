"""What the replicated log adds to what the engine takes: a group commit at a time beside a bare fenced publish of as many bytes.

Both in turns of a few dozen, on the same three servers of this machine, each of which syncs before it confirms. So the disk does
three times what it would do on three machines, and the network nothing.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import nats.errors
import uvloop
from nats.aio.client import Client

from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.shard.replicated.jetstream_log import JetStreamLog
from tidegate.shard.replicated.message import FENCE, HEAD_BYTES

SHARD = 0
TURN = 25
OPEN_S = 20


class Times(msgspec.Struct):
    p50_us: int
    p99_us: int
    worst_us: int


class ClusterResult(msgspec.Struct):
    record_bytes: int
    appends: int
    bare: Times
    """A publish with the fence, awaited on its own loop, and nothing else."""
    log: Times
    """`JetStreamLog.append`, as a worker's helper thread would call it."""
    ratio: float
    """Of the medians."""


class _Bare:
    """Publishes to a stream of its own."""

    def __init__(self, urls: list[str]) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._client = Client()
        self._urls = urls
        self._last = 0

    def __enter__(self) -> _Bare:
        self._runner.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    async def _open(self) -> None:
        await self._client.connect(self._urls)
        stream = {"name": "bare", "subjects": ["bare"], "num_replicas": 3, "storage": "file", "discard": "new"}
        answer = await self._client.request("$JS.API.STREAM.CREATE.bare", msgspec.json.encode(stream), timeout=10)
        if b'"error"' in answer.data:
            raise BenchmarkFailed(answer.data.decode())
        async with asyncio.timeout(OPEN_S):
            while self._last == 0:  # Until every server knows that there is such a stream.
                try:
                    await self._client.request("bare", b"", timeout=10, headers={FENCE: "0"})
                except nats.errors.NoRespondersError:
                    await asyncio.sleep(0.05)
                else:
                    self._last = 1

    def publish(self, data: bytes, times: int) -> list[float]:
        return self._runner.run(self._publish(data, times))

    async def _publish(self, data: bytes, times: int) -> list[float]:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            answer = await self._client.request("bare", data, timeout=10, headers={FENCE: str(self._last)})
            took.append(time.perf_counter() - began)
            self._last += 1
            if msgspec.json.decode(answer.data).get("seq") != self._last:
                raise BenchmarkFailed(answer.data.decode())
        return took


def measure(appends: int, record_bytes: int, folder: str | None) -> ClusterResult:
    record = bytes(record_bytes)
    bare: list[float] = []
    logged: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-cluster-", dir=folder) as data,
        NatsServers(Path(data)) as servers,
    ):
        log = JetStreamLog.open(servers.urls, "measured", SHARD, lambda effect: None, create=True)
        try:
            with _Bare(servers.urls) as publisher:
                for _ in range(0, appends, TURN):
                    bare += publisher.publish(bytes(HEAD_BYTES) + record, TURN)
                    logged += _append(log, record, TURN)
            if log.place.position != len(logged):
                raise BenchmarkFailed(f"{len(logged)} records were confirmed, and the log has {log.place.position}")
        finally:
            log.close()
    bare_times, log_times = _times(bare), _times(logged)
    return ClusterResult(record_bytes, len(logged), bare_times, log_times, round(log_times.p50_us / bare_times.p50_us, 3))


def _append(log: JetStreamLog, record: bytes, times: int) -> list[float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        log.append(record)
        took.append(time.perf_counter() - began)
    return took


def _times(took: list[float]) -> Times:
    took = sorted(took)
    p50, p99, worst = (took[min(int(len(took) * share), len(took) - 1)] for share in (0.5, 0.99, 1.0))
    return Times(round(p50 * 1e6), round(p99 * 1e6), round(worst * 1e6))


def show(result: ClusterResult) -> None:
    lines = [f"{result.appends} group commits of {result.record_bytes} bytes, one at a time, three replicas on this machine"]
    for name, times in (("bare fenced publish", result.bare), ("JetStreamLog.append", result.log)):
        lines.append(f"  {name}: p50 {times.p50_us:,} µs, p99 {times.p99_us:,} µs, worst {times.worst_us:,} µs")
    lines.append(f"  {result.ratio:.2f} times the bare publish (p50)")
    sys.stdout.write("\n".join(lines) + "\n")
