"""Publishes to three nats-servers: what the replicated log adds to a bare fenced one, and what one for each call would give.

Log and bare publish in turns of a few dozen, on the same servers, each of which syncs before it confirms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
import nats.errors
import uvloop
from nats.aio.client import Client

from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.shard.replicated.jetstream_log import JetStreamLog
from tidegate.shard.replicated.message import FENCE, HEAD_BYTES

SHARD = 0
TURN = 25
OPEN_S = 20
NAIVE_STREAMS = 8
"""As many as the shards of a small service."""


class Times(msgspec.Struct):
    p50_us: int
    p99_us: int
    worst_us: int


class LogFigures(msgspec.Struct):
    record_bytes: int
    appends: int
    bare: Times
    """A publish with the fence, awaited on its own loop, and nothing else."""
    log: Times
    """`JetStreamLog.append`, as a worker's helper thread would call it."""
    ratio: float
    """Of the medians."""


_NAIVE = [f"naive-{number}" for number in range(NAIVE_STREAMS)]


class Publisher:
    """Publishes to streams of its own, one of which is for fenced ones."""

    def __init__(self, urls: list[str]) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._client = Client()
        self._urls = urls
        self._last = 0

    def __enter__(self) -> Publisher:
        self._runner.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    async def _open(self) -> None:
        await self._client.connect(self._urls)
        for name in ("bare", *_NAIVE):
            await self._make(name)
        self._last = 1

    async def _make(self, name: str) -> None:
        stream = {"name": name, "subjects": [name], "num_replicas": 3, "storage": "file", "discard": "new"}
        request = msgspec.json.encode(stream)
        async with asyncio.timeout(OPEN_S):
            while True:  # Until the servers have found each other, and every one knows that there is such a stream.
                try:
                    await self._client.request(f"$JS.API.STREAM.CREATE.{name}", request, timeout=10)
                    answer = await self._client.request(name, b"", timeout=10, headers={FENCE: "0"})
                except nats.errors.Error:
                    await asyncio.sleep(0.05)
                else:
                    if b'"error"' in answer.data:
                        raise BenchmarkFailed(answer.data.decode())
                    return

    def publish_for_each_call(self, data: bytes, times: int, at_once: int) -> float:
        """How many a second, where each call is a message of its own, not fenced, and so many are in flight."""
        return self._runner.run(self._publish_for_each_call(data, times, at_once))

    async def _publish_for_each_call(self, data: bytes, times: int, at_once: int) -> float:
        numbers = iter(range(times))

        async def caller() -> None:
            for number in numbers:
                answer = await self._client.request(_NAIVE[number % len(_NAIVE)], data, timeout=30)
                if not msgspec.json.decode(answer.data).get("seq"):
                    raise BenchmarkFailed(answer.data.decode())

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        return times / (time.perf_counter() - began)

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


def measure_log(urls: Sequence[str], publisher: Publisher, appends: int, record_bytes: int) -> LogFigures:
    record = bytes(record_bytes)
    bare: list[float] = []
    logged: list[float] = []
    log = JetStreamLog.open(urls, "measured", SHARD, lambda effect: None, create=True)
    try:
        for _ in range(0, appends, TURN):
            bare += publisher.publish(bytes(HEAD_BYTES) + record, TURN)
            logged += _append(log, record, TURN)
        if log.place.position != len(logged):
            raise BenchmarkFailed(f"{len(logged)} records were confirmed, and the log has {log.place.position}")
    finally:
        log.close()
    bare_times, log_times = times_of(bare), times_of(logged)
    return LogFigures(record_bytes, len(logged), bare_times, log_times, round(log_times.p50_us / bare_times.p50_us, 3))


def _append(log: JetStreamLog, record: bytes, times: int) -> list[float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        log.append(record)
        took.append(time.perf_counter() - began)
    return took


def times_of(took: Sequence[float]) -> Times:
    took = sorted(took)
    p50, p99, worst = (took[min(int(len(took) * share), len(took) - 1)] for share in (0.5, 0.99, 1.0))
    return Times(round(p50 * 1e6), round(p99 * 1e6), round(worst * 1e6))
