"""The load generator that calls as a user does: the Python client, one task per call in flight."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvloop

from tidegate.benchmarks.load.job import Job, class_of, object_names
from tidegate.benchmarks.load.workloads import BenchmarkFailed, Block
from tidegate.runtime.client.access import KEY_VARIABLE
from tidegate.runtime.client.asynchronous import connect
from tidegate.runtime.errors import CallError

Method = Callable[..., Awaitable[Any]]


class ClientGenerator:
    """One client, one stub per object."""

    def __init__(self, job: Job) -> None:
        self._loop = uvloop.new_event_loop()
        if (key := job.door.key) is not None:
            os.environ[KEY_VARIABLE] = f"{key.server} {key.public} {key.secret}"
        self._client = connect(job.door.front, direct=job.door.is_direct, retry=job.generator in ("keyed", "bulk-keyed"))
        self._loop.run_until_complete(self._client.__aenter__())
        self._stubs = [self._client.stub(class_of(job), name) for name in object_names(job)]
        self._bound: dict[str, list[Method]] = {}

    def close(self) -> None:
        self._loop.run_until_complete(self._client.__aexit__(None, None, None))
        self._loop.close()

    def _calls(self, block: Block) -> list[Method]:
        """The method of each call, looked up once per object: users keep stubs too."""
        for method in set(block.methods) - self._bound.keys():
            self._bound[method] = [getattr(stub, method) for stub in self._stubs]
        bound = self._bound
        return [bound[method][target] for method, target in zip(block.methods, block.targets, strict=True)]

    def call(self, block: Block, concurrency: int, results: list[Any]) -> array[float]:
        return self._loop.run_until_complete(self._call(block, concurrency, results))

    def call_at(self, block: Block, due_s: Sequence[float], results: list[Any]) -> array[float]:
        return self._loop.run_until_complete(self._call_at(block, due_s, results))

    async def _call(self, block: Block, concurrency: int, results: list[Any]) -> array[float]:
        calls, args, total = self._calls(block), block.args, len(block.targets)
        numbers, latencies, clock = iter(range(total)), array("d"), time.perf_counter

        async def caller() -> None:
            for number in numbers:
                started = clock()
                results[number] = await calls[number](*args[number])
                latencies.append(clock() - started)

        try:
            async with asyncio.TaskGroup() as callers:
                for _ in itertools.repeat(None, min(concurrency, total)):
                    callers.create_task(caller())
        except* CallError as errors:
            raise BenchmarkFailed(f"a call was answered by an error: {errors.exceptions[0]!r}") from None
        return latencies

    async def _call_at(self, block: Block, due_s: Sequence[float], results: list[Any]) -> array[float]:
        calls, args, clock = self._calls(block), block.args, time.perf_counter
        latencies, started = array("d"), clock()

        async def call(number: int) -> None:
            results[number] = await calls[number](*args[number])
            latencies.append(clock() - started - due_s[number])

        try:
            async with asyncio.TaskGroup() as callers:
                for number, due in enumerate(due_s):
                    wait_s = due - (clock() - started)
                    if wait_s > 0 or number % 64 == 0:  # Behind, it still lets answers in now and then.
                        await asyncio.sleep(max(0.0, wait_s))
                    callers.create_task(call(number))
        except* CallError as errors:
            raise BenchmarkFailed(f"a call was answered by an error: {errors.exceptions[0]!r}") from None
        return latencies


class BulkGenerator(ClientGenerator):
    """Two maps at once, each of half the calls; a call takes as long as the map that it is in."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._class, self._names = class_of(job), object_names(job)

    async def _call(self, block: Block, concurrency: int, results: list[Any]) -> array[float]:
        size, latencies, clock = max(1, concurrency // 2), array("d"), time.perf_counter
        runs = _runs(block, size)

        async def caller() -> None:
            for run in runs:  # Each is sent when it is taken, so that an object is called in the order of the block.
                calls = [(self._names[block.targets[number]], *block.args[number]) for number in run]
                began = clock()
                answers = await self._client.map(self._class, block.methods[run.start], calls, at_once=size)
                latencies.extend([clock() - began] * len(run))
                results[run.start : run.stop] = answers

        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(min(2, concurrency)):
                    callers.create_task(caller())
        except* CallError as errors:
            raise BenchmarkFailed(f"a call was answered by an error: {errors.exceptions[0]!r}") from None
        return latencies


def _runs(block: Block, size: int) -> Iterator[range]:
    """Calls of one method that come right after each other, so many at most."""
    start = 0
    for _, methods in itertools.groupby(block.methods):
        stop = start + sum(1 for _ in methods)
        for first in range(start, stop, size):
            yield range(first, min(first + size, stop))
        start = stop
