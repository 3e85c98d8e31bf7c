"""Snapshots of the shards that a worker of a cluster serves: looks whether one is due, and has it taken, beside what is served.

One at a time. What blocks is done in a thread, and no checkpoint is begun while a state is copied. A failure costs a line of the
log, and it is tried again at the next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.worker_store import Snapshots, WorkerStore

LOOK_S = 5.0
"""Between two looks. Each asks the servers once for each shard how long its stream is."""

log = logging.getLogger("tidegate")
T = TypeVar("T")


class Snapshotter:
    """On the loop thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: WorkerStore, snapshots: Snapshots) -> None:
        self._loop = loop
        self._store = store
        self._snapshots = snapshots
        self._pool = ThreadPoolExecutor(1, "tidegate-snapshot")
        self._task: asyncio.Task[None] | None = None
        self._said: dict[int, str] = {}
        """Of shards whose last attempt has failed, why."""

    def start(self) -> None:
        self._task = self._loop.create_task(self._run(), name="snapshots", context=NEUTRAL)

    def end(self) -> None:
        """None is begun any more; one that is under way ends where it is."""
        if self._task is not None:
            self._task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for shard in sorted(self._store.shards):
                try:
                    if shard in self._store.shards and await self._in_thread(partial(self._snapshots.is_due, shard)):
                        await self.take(shard)
                except LogBroken:
                    return
                except OperatorError as error:
                    self._failed(shard, error)
                else:
                    self._said.pop(shard, None)

    async def take(self, shard: int) -> None:
        """Now. Raises OperatorError."""
        copy = await self._store.copy_of(shard)
        if copy is None:
            return
        try:
            await self._in_thread(copy.look_through)
            await self._in_thread(partial(self._snapshots.take, shard, copy.file, copy.mark, copy.commit))
        finally:
            copy.remove()

    def _failed(self, shard: int, error: OperatorError) -> None:
        if isinstance(error, ShardDamaged) and (store := self._store.shards.get(shard)) is not None:
            store.on_damage(error)
        elif self._said.get(shard) != str(error):
            self._said[shard] = str(error)
            log.warning("shard %d: no snapshot of it is taken now: %s", shard, error)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._pool, function)
