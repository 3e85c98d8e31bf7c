"""What callers notice where hosts are killed, shards are moved under load, and the servers lose their majority.

Real hosts with their processes, on loopback. Every answer is checked: each object gives its numbers in order, each once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

import tidegate
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.runtime.chaos.stage.cluster import CLUSTER, ChaosCluster
from tidegate.runtime.chaos.stage.service import ChaosService, ServiceFailed
from tidegate.runtime.cluster.operating import change, look
from tidegate.runtime.cluster.picture import Picture
from tidegate.runtime.cluster.placement import moved_by_hand, rebalanced
from tidegate.runtime.cluster.records import Beat, ClusterPlacement
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import shard_of_slot, slot_of

HOSTS = 3
SETTLE_S = 90.0
ANSWER_S = 60.0
LOOK_S = 0.2
CALLERS = 8
"""Without pause while shards are moved: half of them of the shard that moves."""
REFUSED_S = 60.0
ASK_S = 1.0
"""How long a call waits while there is no majority."""


class Waits(msgspec.Struct):
    times: int
    median_s: float
    worst_s: float


class MoveFigures(msgspec.Struct):
    times: int
    calls: int
    errors: int
    median_ms: float
    """Of the longest call of each move."""
    worst_ms: float


class QuorumFigures(msgspec.Struct):
    refused_after_s: float
    """Until a call was refused as not executed."""
    reason: str
    confirmed: int
    """Calls that were confirmed meanwhile; there must be none."""
    recovered_after_s: float


class LossFigures(msgspec.Struct):
    kills: Waits
    """From the kill of a host to the last answer of one object for each of its shards, by way of another host."""
    moves: MoveFigures
    quorum: QuorumFigures


def measure_losses(folder: Path, kills: int, moves: int, say: Callable[[str], object]) -> LossFigures:
    """Raises BenchmarkFailed."""
    try:
        with ChaosCluster(folder, HOSTS, None, workers=1, routers=1) as cluster:
            try:
                return asyncio.run(_Losses(cluster, say).measure(kills, moves))
            finally:
                for host in cluster.hosts.values():
                    host.kill_all()
    except (ServiceFailed, OperatorError, tidegate.CallError) as error:
        raise BenchmarkFailed(f"{type(error).__name__}: {error}") from error


class _Losses:
    def __init__(self, cluster: ChaosCluster, say: Callable[[str], object]) -> None:
        self._cluster = cluster
        self._hosts = list(cluster.hosts.values())
        self._names = list(cluster.hosts)
        self._say = say
        self._objects: dict[int, str] = {}
        """By shard: one in it, which has given `_numbers` of it."""
        self._numbers: dict[str, int] = {}

    async def measure(self, kills: int, moves: int) -> LossFigures:
        for host in self._hosts:
            host.launch()
        await asyncio.gather(*(asyncio.to_thread(host.wait_until_ready) for host in self._hosts))
        await self._settled()
        killed = [await self._kill(number % HOSTS) for number in range(kills)]
        moved = await self._move(moves)
        quorum = await self._lose_quorum()
        return LossFigures(Waits(kills, round(median(killed), 2), round(max(killed), 2)), moved, quorum)

    async def _settled(self, *, all_serve: bool = True) -> Picture:
        """Every shard is where it should be, and every host has some, unless operators have moved them otherwise."""
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            seen = await asyncio.to_thread(look, self._cluster.servers.urls, CLUSTER)
            if not seen.problems and len(seen.hosts) == HOSTS and all(each.serves == each.should for each in seen.shards):
                self._place(len(seen.shards))
                if not all_serve or all(host.serves for host in seen.hosts):
                    return seen
            await asyncio.sleep(LOOK_S)
        raise BenchmarkFailed(f"the hosts do not agree within {SETTLE_S:g} s: {seen.problems or seen.hosts}")

    def _place(self, shards: int) -> None:
        """An object in each shard."""
        for number in itertools.count():
            if len(self._objects) == shards:
                return
            self._objects.setdefault(shard_of(f"till-{number}", shards), f"till-{number}")

    async def _take(self, client: tidegate.Client, name: str) -> None:
        """Raises BenchmarkFailed for a number that was given already, or a gap."""
        expected = self._numbers.get(name, 0)
        number = await client.stub("Counter", name).take()
        if number != expected:
            raise BenchmarkFailed(f"{name} gave {number} where {expected} was due")
        self._numbers[name] = expected + 1

    # A host is killed

    async def _kill(self, at: int) -> float:
        seen = await self._settled()
        victim, survivor = self._hosts[at], self._hosts[(at + 1) % HOSTS]
        names = [self._objects[each.shard] for each in seen.shards if each.serves == self._names[at]]
        async with tidegate.connect(survivor.endpoint, timeout=ANSWER_S) as client:
            for name in names:
                await self._take(client, name)
            began = time.monotonic()
            victim.signal_all(signal.SIGKILL)
            await asyncio.gather(*(self._take(client, name) for name in names))
            took_s = time.monotonic() - began
        self._say(f"{self._names[at]} was killed: {len(names)} shards answered elsewhere after {took_s:.2f} s")
        await asyncio.to_thread(victim.wait_until_ended)
        await asyncio.to_thread(victim.start)
        return took_s

    # Shards are moved

    async def _move(self, times: int) -> MoveFigures:
        longest_s: list[float] = []
        calls = errors = 0
        for number in range(times):
            seen = await self._settled(all_serve=False)
            shard = seen.shards[number % len(seen.shards)]
            target = self._names[(self._names.index(shard.serves) + 1) % HOSTS]
            load = _Load(self._hosts, shard.shard, len(seen.shards), f"load-{number}")
            async with load.running():
                await self._change(partial(_pinned, shard=shard.shard, name=target))
                await self._served(shard.shard, target)
                await load.more()
            calls, errors = calls + load.calls, errors + len(load.errors)
            longest_s.append(load.longest_s)
            said = f"longest call {load.longest_s * 1e3:.0f} ms, {len(load.errors)} errors"
            self._say(f"shard {shard.shard} went to {target}: {said}")
        await self._change(lambda placement, live: rebalanced(placement))
        return MoveFigures(times, calls, errors, round(median(longest_s) * 1e3, 1), round(max(longest_s) * 1e3, 1))

    async def _change(self, edit: Callable[[ClusterPlacement, Mapping[str, Beat]], ClusterPlacement]) -> None:
        await asyncio.to_thread(change, self._cluster.servers.urls, CLUSTER, edit)

    async def _served(self, shard: int, host: str) -> None:
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            seen = await asyncio.to_thread(look, self._cluster.servers.urls, CLUSTER)
            if seen.shards[shard].serves == host:
                return
        raise BenchmarkFailed(f"shard {shard} is not on {host} within {SETTLE_S:g} s")

    # The majority is lost

    async def _lose_quorum(self) -> QuorumFigures:
        await self._settled()
        servers = self._cluster.servers
        async with tidegate.connect(self._hosts[0].endpoint, timeout=ANSWER_S, retry=False) as client:
            await client.stub("Counter", "quorum").take()
            began = time.monotonic()
            for name in servers.names[:2]:
                servers.signal(name, signal.SIGSTOP)
            try:
                refused = await self._until_refused(client, began)
                refused_s = time.monotonic() - began
            finally:
                for name in servers.names[:2]:
                    servers.signal(name, signal.SIGCONT)
            began = time.monotonic()
            while not await _confirmed(client.stub("Counter", "quorum", timeout=ASK_S).take()):
                if time.monotonic() - began > SETTLE_S:
                    raise BenchmarkFailed(f"no call is confirmed {SETTLE_S:g} s after the majority was back")
            return QuorumFigures(round(refused_s, 2), refused, 0, round(time.monotonic() - began, 2))

    async def _until_refused(self, client: tidegate.Client, began: float) -> str:
        """The reason. Raises BenchmarkFailed where a call is confirmed that nobody can have stored."""
        while time.monotonic() - began < REFUSED_S:
            try:
                number = await client.stub("Counter", "quorum", timeout=ASK_S).take()
            except tidegate.Unavailable as error:
                return str(error)
            except tidegate.CallError:
                continue
            raise BenchmarkFailed(f"without a majority a call was confirmed: {number}")
        raise BenchmarkFailed(f"calls are not refused {REFUSED_S:g} s after the majority was lost")


def shard_of(name: str, shards: int) -> int:
    return shard_of_slot(slot_of("Counter", name), shards)


def _pinned(placement: ClusterPlacement, live: Mapping[str, Beat], shard: int, name: str) -> ClusterPlacement:
    return moved_by_hand(placement, shard, next(id for id, beat in live.items() if beat.name == name))


async def _confirmed(call: Awaitable[Any]) -> bool:
    with contextlib.suppress(tidegate.CallError):
        await call
        return True
    return False


class _Load:
    """Callers without pause, at all hosts, by way of their routers, who try nothing again: half of them call objects of one
    shard."""

    def __init__(self, hosts: list[ChaosService], shard: int, shards: int, prefix: str) -> None:
        names = (f"{prefix}-{number}" for number in itertools.count())
        there = itertools.islice((name for name in names if shard_of(name, shards) == shard), CALLERS // 2)
        self._names = [*there, *itertools.islice(names, CALLERS - CALLERS // 2)]
        self._moving = set(self._names[: CALLERS // 2])
        self._hosts = hosts
        self._counts = dict.fromkeys(self._names, 0)
        self.errors: list[tidegate.CallError] = []
        self.longest_s = 0.0
        """Of calls of the shard."""

    @property
    def calls(self) -> int:
        return sum(self._counts.values())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(tidegate.connect(host.endpoint, timeout=ANSWER_S, direct=False, retry=False))
                for host in self._hosts
            ]
            tasks = [asyncio.create_task(self._call(clients[at % len(clients)], name)) for at, name in enumerate(self._names)]
            try:
                await self.more()
                self.longest_s = 0.0
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def more(self) -> None:
        """Every object has been called again."""
        before = dict(self._counts)
        while not self.errors and any(self._counts[name] <= count + 1 for name, count in before.items()):
            await asyncio.sleep(0.01)

    async def _call(self, client: tidegate.Client, name: str) -> None:
        stub = client.stub("Counter", name)
        while True:
            began = time.perf_counter()
            try:
                number = await stub.take()
            except tidegate.CallError as error:
                self.errors.append(error)
                continue
            if name in self._moving:
                self.longest_s = max(self.longest_s, time.perf_counter() - began)
            if number < self._counts[name] or (number != self._counts[name] and not self.errors):
                raise BenchmarkFailed(f"{name} gave {number} where {self._counts[name]} was due")
            self._counts[name] = number + 1
