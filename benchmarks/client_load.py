"""The load generator that calls as a user does: the Python client, one task per call in flight."""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from typing import Any

import uvloop

from benchmarks.load import Job, object_names
from benchmarks.workloads import BenchmarkFailed
from runtime.client import connect
from runtime.errors import CallError


class ClientGenerator:
    """One client, one stub per object."""

    def __init__(self, job: Job) -> None:
        self._loop = uvloop.new_event_loop()
        self._client = connect(job.door.front, direct=job.door.is_direct)
        self._loop.run_until_complete(self._client.__aenter__())
        stubs = [self._client.stub(job.workload.class_name, name) for name in object_names(job)]
        self._methods = [getattr(stub, job.workload.method) for stub in stubs]

    def close(self) -> None:
        self._loop.run_until_complete(self._client.__aexit__(None, None, None))
        self._loop.close()

    def call(self, first: int, last: int, concurrency: int, results: list[Any]) -> array[float]:
        return self._loop.run_until_complete(self._call(first, last, concurrency, results))

    async def _call(self, first: int, last: int, concurrency: int, results: list[Any]) -> array[float]:
        numbers, latencies = iter(range(first, last)), array("d")
        methods, objects, clock = self._methods, len(self._methods), time.perf_counter

        async def caller() -> None:
            for number in numbers:
                started = clock()
                results[number] = await methods[number % objects]()
                latencies.append(clock() - started)

        try:
            async with asyncio.TaskGroup() as callers:
                for _ in itertools.repeat(None, min(concurrency, last - first)):
                    callers.create_task(caller())
        except* CallError as errors:
            raise BenchmarkFailed(f"a call was answered by an error: {errors.exceptions[0]!r}") from None
        return latencies
