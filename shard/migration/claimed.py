"""What the log of a cluster says of a shard: claimed, and replayed into a state, by the very code that workers do it with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from tidegate.runtime.errors import OperatorError
from tidegate.shard.migration.commits import Sum, sum_of, travelling
from tidegate.shard.offline.check import ReadState, state_path
from tidegate.shard.replicated.worker_log import WorkerLog
from tidegate.shard.store.checkpoints.checkpoint import CheckpointTrouble
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.worker_store import WorkerStore

MEMTABLE_BYTES = 64 << 20
"""None of it is used: nobody writes to the store."""


class ClusterLogs:
    """Of a cluster: its servers and its name."""

    def __init__(self, servers: Sequence[str], name: str) -> None:
        self.servers = servers
        self.name = name

    def log(self) -> WorkerLog:
        """Of this process. To be closed."""
        return WorkerLog(self.servers, self.name, f"tidegate migrate on {platform.node()}, process {os.getpid()}")


def claim_into(place: ClusterLogs, folder: Path, shard: int) -> None:
    """The folder gets the state of the shard, with everything that the log has. Raises OperatorError, ShardDamaged among them."""
    (folder / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
    asyncio.run(_claim_into(place, folder, shard))


async def _claim_into(place: ClusterLogs, folder: Path, shard: int) -> None:
    store = WorkerStore.open_shared(folder, 0, [shard], _leave_it, MEMTABLE_BYTES, place.log())
    stopped: dict[int, ShardDamaged] = dict(store.stopped)
    await store.close()
    if stopped:
        raise stopped[shard]


def _leave_it(trouble: CheckpointTrouble) -> None:
    raise AssertionError(trouble)  # There is nothing to be checkpointed.


def sum_in(folder: Path, shard: int) -> Sum:
    """Of the state that is there. Raises OperatorError where it cannot be read."""
    with contextlib.closing(ReadState(state_path(folder, shard), shard, checksums=True)) as state:
        return sum_of(travelling(state.rows()))


def sum_in_log(place: ClusterLogs, shard: int, aside: Path) -> Sum:
    """Of what the log has of the shard, read into a state of its own in that folder, which is gone afterwards."""
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(mode=0o700)
        claim_into(place, aside, shard)
        return sum_in(aside, shard)
    except OSError as error:
        raise OperatorError("read back into", aside, error.strerror or str(error), "make room on this file system") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
