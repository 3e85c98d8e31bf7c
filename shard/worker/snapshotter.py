"""Snapshots of the shards that a worker of a cluster serves: looks whether one is due, or an operator wishes for one, and has it
taken, beside what is served.

One at a time. What blocks is done in a thread, and no checkpoint is begun while a state is copied. A failure, whatever it is,
costs a line of the log, and is told to whoever has wished; what is due is tried again when `Attempts` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.snapshots import ENDS, Snapshots, SnapshotSaid, SnapshotWish
from tidegate.shard.store.state.state_copy import StateCopy
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker.attempts import Attempts

LOOK_S = 5.0
"""Between two looks. Each asks the servers once for each shard how long its stream is."""

log = logging.getLogger("tidegate")
T = TypeVar("T")


class _Wished:
    """The newest of a shard. Who wishes for one that has not ended means the same."""

    def __init__(self, shard: int) -> None:
        self.ids: deque[str] = deque(maxlen=16)
        self.said = SnapshotSaid(shard, "waits")


class Snapshotter:
    """On the loop thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: WorkerStore,
        snapshots: Snapshots,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._store = store
        self._snapshots = snapshots
        self._pool = ThreadPoolExecutor(1, "tidegate-snapshot")
        self._task: asyncio.Task[None] | None = None
        self._said: dict[int, str] = {}
        """Of shards whose last attempt has failed, why."""
        self._now = now
        self._attempts = Attempts()
        self._wished: dict[int, _Wished] = {}
        self._wish_came = asyncio.Event()

    def start(self) -> None:
        self._snapshots.listen(self._heard)
        self._task = self._loop.create_task(self._run(), name="snapshots", context=NEUTRAL)

    def end(self) -> None:
        """None is begun any more; one that is under way ends where it is."""
        if self._task is not None:
            self._task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _heard(self, wish: SnapshotWish) -> Future[SnapshotSaid | None]:
        """On another thread."""
        answer: Future[SnapshotSaid | None] = Future()
        answer.set_running_or_notify_cancel()
        self._loop.call_soon_threadsafe(lambda: answer.set_result(self._said_to(wish)), context=NEUTRAL)
        return answer

    def _said_to(self, wish: SnapshotWish) -> SnapshotSaid | None:
        if wish.shard not in self._store.shards:
            return None
        wished = self._wished.get(wish.shard)
        if wished is None or (wished.said.state in ENDS and wish.id not in wished.ids):
            wished = self._wished[wish.shard] = _Wished(wish.shard)
            self._wish_came.set()
        if wish.id not in wished.ids:
            wished.ids.append(wish.id)
        return wished.said

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wish_came.wait()
            self._wish_came.clear()
            try:
                await self.look()
            except LogBroken:
                return

    async def look(self) -> None:
        """At what was wished, and what is due. Raises LogBroken, and nothing else."""
        await self._take_wished()
        for shard in sorted(self._store.shards):
            await self._take_due(shard)
            await self._take_wished()

    async def _take_due(self, shard: int) -> None:
        if shard not in self._store.shards or not self._attempts.is_time(shard, self._now()):
            return
        try:
            with _whatever_it_is(shard):
                if await self._in_thread(partial(self._snapshots.is_due, shard)):
                    await self.take(shard)
        except LogBroken:
            raise
        except OperatorError as error:
            self._failed(shard, error)
        else:
            self._went_well(shard)

    async def _take_wished(self) -> None:
        for shard, wished in sorted(self._wished.items()):
            if wished.said.state != "waits":
                continue
            wished.said = SnapshotSaid(shard, "begun")
            try:
                with _whatever_it_is(shard):
                    said = await self.take(shard, unless_kept=True)
            except LogBroken:
                raise
            except OperatorError as error:
                why = f"{error.operation} {error.place}: {error.problem}"
                wished.said = SnapshotSaid(shard, "failed", why=why, next=error.hint)
                self._failed(shard, error)
            else:
                self._went_well(shard)
                if said is None:
                    del self._wished[shard]  # Whoever has it now is told of the wish.
                else:
                    wished.said = said

    async def take(self, shard: int, *, unless_kept: bool = False) -> SnapshotSaid | None:
        """Now; what came of it. `unless_kept`: not where there is one that has everything. None: the shard has left meanwhile.
        Raises OperatorError."""
        copy = await self._store.copy_of(shard)
        if copy is None:
            return None
        try:
            await self._in_thread(copy.look_through)
            if unless_kept and (kept := await self._in_thread(partial(self._snapshots.kept, shard, copy.mark))) is not None:
                return SnapshotSaid(shard, "kept", kept)
            taken = await self._in_thread(partial(self._snapshots.take, shard, copy.file, copy.mark, copy.commit))
            return SnapshotSaid(shard, "taken", taken)
        finally:
            await self._remove(copy)

    async def _remove(self, copy: StateCopy) -> None:
        """In the thread: a file system needs its time to free GB."""
        try:
            await self._in_thread(copy.remove)
        except RuntimeError:  # The worker ends: there is no thread any longer, and nobody waits.
            copy.remove()

    def _went_well(self, shard: int) -> None:
        self._attempts.went_well(shard)
        self._said.pop(shard, None)

    def _failed(self, shard: int, error: OperatorError) -> None:
        self._attempts.failed(shard, self._now())
        if isinstance(error, ShardDamaged) and (store := self._store.shards.get(shard)) is not None:
            store.on_damage(error)
        elif self._said.get(shard) != str(error):
            self._said[shard] = str(error)
            log.warning("shard %d: no snapshot of it is taken now: %s", shard, error)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._pool, function)


@contextlib.contextmanager
def _whatever_it_is(shard: int) -> Iterator[None]:
    """A failure is one of that shard: the others go on, and it does, too."""
    try:
        yield
    except OperatorError:
        raise
    except Exception as error:
        raise OperatorError("take a snapshot of", f"shard {shard}", repr(error), "report it; it is tried again") from error
