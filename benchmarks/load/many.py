"""Who calls very many objects: a process that remembers what each of them has to answer next, and nothing else of it.

`python -m tidegate.benchmarks.load.many` reads what to do, a line of JSON each, and writes what came of it. It calls as a user
does: the Python client, objects made by `map`, then one task for each call in flight. An object has four bytes here; its name
is its number, and Zipf's choice is computed, so that ten million cost forty megabytes.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from time import monotonic

import msgspec
import uvloop

from tidegate.benchmarks.figures.histogram import Histogram
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.runtime.client.asynchronous import Client, connect
from tidegate.runtime.errors import CallError

CLASS = "Account"
_MAP = 10_000
"""Objects made by one `map`."""
_MAP_AT_ONCE = 1_000
_SPREAD = 2_654_435_761
"""Coprime to any number of objects that is used: who is called often are no neighbours."""
_ERRORS_MAX = 3
_BEHIND_S_MAX = 0.05
"""A caller with a rate that is later than this begins anew from now."""


class Make(msgspec.Struct, frozen=True, tag="make"):
    """So many more objects, each with so many bytes."""

    objects: int
    bytes: int


class Call(msgspec.Struct, frozen=True, tag="call"):
    """For so long, so many calls in flight. `zipf`: the skew, above 0; None: any object as likely as any other."""

    seconds: float
    concurrency: int
    zipf: float | None = None
    rate: float = 0.0
    """Calls a second, of all together; what could not be called in time is left out. 0: as many as are answered."""
    until_lost: bool = False
    """The service will be killed: calls that fail then are counted, and each caller ends with its first."""


class Check(msgspec.Struct, frozen=True, tag="check"):
    """Asks so many objects, those called last and any others, for their numbers."""

    objects: int


Order = Make | Call | Check


class Done(msgspec.Struct, frozen=True):
    """What came of an order. `failed`: why its figures mean nothing."""

    calls: int = 0
    elapsed_s: float = 0.0
    histogram: Histogram = Histogram({})
    silence_s_max: float = 0.0
    """The longest time without any answer."""
    lost: int = 0
    failed: str = ""


def chooser(objects: int, zipf: float | None, choice: random.Random) -> Callable[[], int]:
    """Draws the number of an object. Zipf's law is drawn from its continuous form, which differs where ranks are small."""
    draw = choice.random
    if zipf is None:
        return lambda: int(draw() * objects)
    if zipf == 1.0:
        base = math.log(objects + 1)
        return lambda: (int(math.exp(base * draw())) - 1) * _SPREAD % objects
    power = 1.0 - zipf
    span = (objects + 1) ** power - 1.0
    return lambda: (int((span * draw() + 1.0) ** (1.0 / power)) - 1) * _SPREAD % objects


def name_of(number: int) -> str:
    return f"account-{number}"


class Many:
    """The objects of one service."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = array("I")
        """What each object answers next."""
        self._unsure: Counter[int] = Counter()
        """Calls whose outcome nobody knows, by object."""
        self._touched: dict[int, None] = {}
        self._choice = random.Random(len(self._next))

    async def do(self, order: Order) -> Done:
        if isinstance(order, Make):
            return await self._make(order)
        return await (self._call(order) if isinstance(order, Call) else self._check(order))

    async def _make(self, order: Make) -> Done:
        began, latencies, left = monotonic(), array("d"), order.objects
        while left:
            first, count = len(self._next), min(left, _MAP)
            calls = ((name_of(number), order.bytes) for number in range(first, first + count))
            sent = monotonic()
            if any(await self._client.map(CLASS, "fill", calls, at_once=_MAP_AT_ONCE)):
                raise BenchmarkFailed("an object that was to be made was there already")
            latencies.append(monotonic() - sent)
            self._next.extend(array("I", [1]) * count)
            left -= count
        return Done(order.objects, monotonic() - began, Histogram.of(latencies))

    async def _call(self, order: Call) -> Done:
        latencies, errors, clock = array("d"), Counter[str](), monotonic
        choose, stub, expected = chooser(len(self._next), order.zipf, self._choice), self._client.stub, self._next
        began = last = clock()
        end, silence = began + order.seconds, 0.0
        lost = 0
        every = order.concurrency / order.rate if order.rate else 0.0

        async def caller(due: float) -> None:
            nonlocal last, silence, lost
            while (sent := clock()) < end:
                if every:
                    if sent < due:
                        await asyncio.sleep(due - sent)
                        continue
                    due = (due if sent - due < _BEHIND_S_MAX else sent) + every
                target = choose()
                number = expected[target]
                expected[target] = number + 1
                try:
                    answer = await stub(CLASS, name_of(target)).get_unique_number()
                except CallError as error:
                    expected[target] -= 1
                    if error.outcome != "not_executed":
                        self._unsure[target] += 1
                    lost += 1
                    errors[error.code] += 1
                    if order.until_lost or lost >= _ERRORS_MAX:
                        return
                    continue
                now = clock()
                latencies.append(now - sent)
                silence, last = max(silence, now - last), now
                if answer != number and abs(answer - number) > self._unsure[target]:
                    raise BenchmarkFailed(f"{name_of(target)} answered {answer} instead of {number}")
                if order.until_lost:
                    self._touched[target] = None

        try:
            async with asyncio.TaskGroup() as callers:
                for number in range(order.concurrency):
                    callers.create_task(caller(began + every * number / order.concurrency))
        except* BenchmarkFailed as wrong:
            raise wrong.exceptions[0] from None
        if lost and not order.until_lost:
            raise BenchmarkFailed(f"calls were answered by errors: {dict(errors)}")
        return Done(len(latencies), clock() - began, Histogram.of(latencies), max(silence, clock() - last), lost)

    async def _check(self, order: Check) -> Done:
        """Every number that was confirmed is there, and none that nobody asked for."""
        began = monotonic()
        targets = [*self._touched, *self._unsure][: order.objects]
        targets += [int(self._choice.random() * len(self._next)) for _ in range(order.objects - len(targets))]
        numbers = await self._client.map(CLASS, "current", [name_of(target) for target in targets], at_once=256)
        for target, number in zip(targets, numbers, strict=True):
            least = self._next[target]
            if not least <= number <= least + self._unsure[target]:
                raise BenchmarkFailed(f"{name_of(target)} has {number}, but {least} was confirmed")
        return Done(len(targets), monotonic() - began)


async def serve(front: str) -> None:
    async with connect(front, retry=False) as client:
        many = Many(client)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        decode = msgspec.json.Decoder(Order).decode
        while line := await lines.readline():
            try:
                done = await many.do(decode(line))
            except (BenchmarkFailed, CallError) as error:
                done = Done(failed=str(error))
            sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
