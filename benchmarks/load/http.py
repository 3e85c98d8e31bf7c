"""A closed loop over HTTP/1.1, for peers that speak nothing else: one keep-alive connection per call in flight.

Written on bare protocols, because a full HTTP client in Python costs more than most of what is measured here. Every object
must answer unique, gap-free numbers; their order is not checked, as calls on different connections have none.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from collections.abc import Callable
from typing import cast

import msgspec
import uvloop

from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.job import serve_job
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.plan import Load

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb"\d+")
_SILENCE_S_MAX = 20.0


class HttpJob(msgspec.Struct, frozen=True):
    port: int
    path: str
    """With `{}` where the object's name goes; what is posted there is nothing, what is answered is a number."""
    concurrency: int
    requests: int
    seconds: float
    """No call is sent after this time."""
    objects: int
    prefix: str


class Calls:
    """What is to be sent, and what was answered."""

    def __init__(self, job: HttpJob) -> None:
        head = "POST {} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n"
        self.requests = [head.format(job.path.format(f"{job.prefix}{index}")).encode() for index in range(job.objects)]
        self.answers: list[list[int]] = [[] for _ in range(job.objects)]
        self.latencies = array("d")
        self.sent = 0
        self.sent_max = job.objects
        self.stop_at_s = float("inf")
        self.problem = ""

    def next(self) -> int | None:
        """Index of the object to call; None when it is over."""
        if self.sent >= self.sent_max or self.problem or time.perf_counter() > self.stop_at_s:
            return None
        self.sent += 1
        return (self.sent - 1) % len(self.requests)


class Connection(asyncio.Protocol):
    """Calls one after the other, until none is left."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._target = 0
        self._buffer = b""
        self._sent_at_s = 0.0
        self._transport: asyncio.WriteTransport | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own says nothing of its kind.

    async def run(self) -> None:
        self._over = asyncio.get_running_loop().create_future()
        self._send()
        await self._over

    def _send(self) -> None:
        target = self._calls.next()
        if target is None:
            if not self._over.done():
                self._over.set_result(None)
            return
        assert self._transport is not None
        self._target, self._sent_at_s = target, time.perf_counter()
        self._transport.write(self._calls.requests[target])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answer = _body(self._buffer)
        if answer is None:
            return
        self._calls.latencies.append(time.perf_counter() - self._sent_at_s)
        number = _NUMBER.search(answer)
        if not self._buffer.startswith(b"HTTP/1.1 200") or number is None:
            self._calls.problem = self._buffer[:300].decode(errors="replace")
        else:
            self._calls.answers[self._target].append(int(number[0]))
        self._buffer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._calls.problem = self._calls.problem or f"the connection was closed: {exc}"
            self._over.set_result(None)


def _body(data: bytes) -> bytes | None:
    """Of the whole response; None while something is missing."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    length = _LENGTH.search(head)
    if length is not None:
        return body if len(body) >= int(length[1]) else None
    return body.partition(b"\r\n")[2] if body.endswith(b"0\r\n\r\n") else None  # Chunked; its size is no number of ours.


async def _run(job: HttpJob, warm: Callable[[], None]) -> Load:
    calls, loop = Calls(job), asyncio.get_running_loop()
    connections = []
    for _ in range(job.concurrency):
        _, connection = await loop.create_connection(lambda: Connection(calls), "127.0.0.1", job.port)
        connections.append(connection)

    async def run_all() -> None:
        async with asyncio.timeout(job.seconds + _SILENCE_S_MAX):
            await asyncio.gather(*(connection.run() for connection in connections))
        if calls.problem:
            raise BenchmarkFailed(f"a call was answered by an error: {calls.problem}")

    await run_all()  # Every object once.
    calls.latencies = array("d")
    warm()
    own_s, started = time.process_time(), time.perf_counter()
    calls.sent_max, calls.stop_at_s = job.objects + job.requests, started + job.seconds
    await run_all()
    ended, spent_s = time.perf_counter(), time.process_time() - own_s
    for target, numbers in enumerate(calls.answers):
        if sorted(numbers) != list(range(len(numbers))):
            raise BenchmarkFailed(f"object {target} did not give unique, gap-free numbers: {sorted(numbers)[:12]}")
    return Load(len(calls.latencies), started, ended, Histogram.of(calls.latencies), spent_s, "http")


def run_job(line: bytes, warm: Callable[[], None]) -> Load:
    try:
        return uvloop.run(_run(msgspec.json.decode(line, type=HttpJob), warm))
    except (OSError, TimeoutError) as error:
        raise BenchmarkFailed(f"no answer: {error!r}") from None


if __name__ == "__main__":
    sys.exit(serve_job(run_job))
