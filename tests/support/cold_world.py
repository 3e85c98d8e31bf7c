"""A host whose shards are on disk: what is not in memory is read when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support.host_world import Call, World
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.checkpoints.checkpoint import checkpoint_steps
from tidegate.shard.store.interface import Done, Fetch, Snapshot
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.state.thread_reader import look_up
from tidegate.shard.store.store import ShardStore

Act = Callable[[Any], Coroutine[Any, Any, Any]]


class Actor(DurableObject):
    """Does what the test writes down, and keeps what it is told."""

    acts: dict[str, Act] = {}  # noqa: RUF012 - of the running test, for all instances

    async def act(self, key: str) -> Any:
        return await self.acts[key](self)

    async def ping(self) -> str:
        return "pong"


class HeldReader:
    """A `Reader` that reads when `release` is called, in the order of the questions."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Snapshot, Fetch, Done]] = []
        self.asked = 0
        self.first: list[bool] = []
        self.many_pages: list[bool] = []
        self.failure: Exception | None = None
        """What the next read raises."""

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
        self.asked += 1
        self.first.append(first)
        self.many_pages.append(many_pages)
        self.waiting.append((snapshot, fetch, done))

    def release(self, most: int = 1_000) -> None:
        for snapshot, fetch, done in self.waiting[:most]:
            result, error = look_up(snapshot, fetch)
            if self.failure is not None:
                (result, error), self.failure = (None, self.failure), None
            asyncio.get_running_loop().call_soon(done, result, error, context=NEUTRAL)
        del self.waiting[:most]


def checkpoint(store: ShardStore) -> None:
    """Everything that is durable reaches the state, and leaves memory."""
    if store.freeze():
        for batch in checkpoint_steps(store):
            if batch is not None:
                batch.commit()
        store.drop_frozen()


class ColdWorld(World):
    def __init__(self, **settings: Any) -> None:
        super().__init__(Actor, **settings)
        self.reader = HeldReader()
        Actor.acts = {}

    async def do(self, name: str, act: Act) -> Any:
        """One call, which meets no cold data."""
        return await self.act(name, act).reply

    def act(self, name: str, act: Act) -> Call:
        key = str(len(Actor.acts))
        Actor.acts[key] = act
        return self.call(Actor, name, "act", key)

    async def fill(self, name: str, rows: dict[str, Any]) -> None:
        async def put(actor: Actor) -> None:
            await actor.storage.put_many(rows)

        await self.do(name, put)

    def cool(self) -> None:
        """No object is in memory, and no row either."""
        self.evict_idle()
        for store in self.stores.values():
            checkpoint(store)
            store.reader = self.reader

    def near(self, waits_at: int = 0) -> None:
        """From now on the loop reads for itself, of each range so many rows before one that it would have to wait for."""
        for store in self.stores.values():
            store.reader, store.apart = None, self.reader
            assert isinstance(store.state, MemoryState)
            store.state.waits_at = waits_at

    async def thaw(self) -> None:
        """Answers all reads, until nobody asks."""
        for _ in range(200):
            self.reader.release()
            await self.settle(3)

    async def loaded(self, name: str) -> None:
        """The object's header is read, and nothing else of it."""
        call = self.call(Actor, name, "ping")
        await self.settle()
        self.reader.release()
        await call.reply
