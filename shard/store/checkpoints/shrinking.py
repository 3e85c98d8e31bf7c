"""Makes data files anew that are mostly free, since LMDB never gives pages back to the file system; and those that were copied
onto a file system which copies on write, so that a full disk has room for what is written over their pages.

Guarantee: at any instant the file in place has every row. The smaller one is a whole copy, durable before it takes the other's
name; reads that have begun end over the old one, which goes when they have.

Called between checkpoints, so that no batch is begun meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lmdb

from tidegate.runtime.limits import SHRINK_BYTES_MIN, SHRINK_LIVE_BYTES_MAX
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.store import ShardStore

log = logging.getLogger("tidegate")


def is_due(file_bytes: int, free_bytes: int, *, is_copied_on_write: bool = False) -> bool:
    """More than half of the file is free, enough to be worth it, or it is copied on write; and the rest is copied quickly."""
    gains = is_copied_on_write or (free_bytes * 2 > file_bytes and free_bytes >= SHRINK_BYTES_MIN)
    return gains and file_bytes - free_bytes <= SHRINK_LIVE_BYTES_MAX


class Shrinker:
    """For the states of a worker."""

    def __init__(self, stores: Mapping[int, ShardStore], states: Sequence[LmdbState]) -> None:
        """`stores`: of those shards that are served, at every moment; what is damaged of others is left as it is."""
        self._stores = stores
        self._states = states

    async def shrink(self, in_helper: Callable[..., Awaitable[Any]]) -> bool:
        """Looks at each of them. What cannot be done is tried after the next checkpoint; False: of one it could not be."""
        done = True
        for state in list(self._states):
            store = self._stores.get(state.shard)
            file_bytes, free_bytes, _ = state.sizes
            if (
                store is not None
                and state.is_open
                and is_due(file_bytes, free_bytes, is_copied_on_write=state.is_copied_on_write)
            ):
                try:
                    await self._shrink(store, state, in_helper)
                except ShardDamaged as error:
                    store.on_damage(error)
                except (OSError, lmdb.Error) as error:
                    log.info(
                        "cannot make the file of shard %d anew, which is mostly free, or copied on write: %s", state.shard, error
                    )
                    done = False
        return done

    @staticmethod
    async def _shrink(store: ShardStore, state: LmdbState, in_helper: Callable[..., Awaitable[Any]]) -> None:
        smaller, sizes = await in_helper(state.copy_smaller)
        old = state.change_to(smaller, sizes)
        if store.reads:
            over = asyncio.get_running_loop().create_future()
            store.reads.when_over(partial(_settle, over))
            await over
        await in_helper(old.close)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
