"""An object that does what a test says, and what several scenarios need."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.host_world import Call, World
from tests.support.storage_world import StorageWorld
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.host.activation import Activation
from tidegate.shard.objects.object import DurableObject

ACTS: dict[int, Callable[[Actor], Awaitable[Any]]] = {}
_numbers = itertools.count()


class Actor(DurableObject):
    if TYPE_CHECKING:  # A class may not annotate what the runtime gives to every object.
        _activation: Activation

    async def act(self, number: int) -> Any:
        return await ACTS.pop(number)(self)

    async def get(self, key: str) -> Any:
        return await self.storage.get(key)

    async def put(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)

    async def alarm(self, info: AlarmInfo) -> None:
        await self.storage.put("rang", info.scheduled_for)


def act(world: World, what: Callable[[Actor], Awaitable[Any]], name: str = "one") -> Call:
    """One event of the object, which does that."""
    number = next(_numbers)
    ACTS[number] = what
    return world.call(Actor, name, "act", number)


def held(world: World, name: str = "one") -> bool:
    """Whether a message that the object sends now waits for the disk."""
    return world.activation(Actor, name).cache.confirm_seq > world.host.output_gate.durable_seq


def durable_and_evicted(**pairs: Any) -> StorageWorld:
    """An object that has these pairs, and nothing of them in memory."""
    world = StorageWorld()
    for key, value in pairs.items():
        world.put(key, value)
    world.commit()
    world.activate()
    return world


@contextmanager
def asked(world: StorageWorld) -> Iterator[list[str]]:
    """The keys for which the store behind the cache is asked meanwhile."""
    keys: list[str] = []
    get = world.store.get

    def ask(object_key: bytes, key: str) -> bytes | None:
        keys.append(key)
        return get(object_key, key)

    world.store.get = ask
    try:
        yield keys
    finally:
        world.store.get = get
