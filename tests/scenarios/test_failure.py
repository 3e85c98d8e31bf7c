"""Failures and `sync` (scenarios 52 and 239 to 250, what tests/shard does not have)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.host_world import World
from tests.support.stage import Actor, act
from tidegate.runtime.errors import ObjectReset


async def test_a_read_that_fails_is_an_error_of_its_call_and_harms_nothing_else() -> None:
    """Scenario 52."""
    world = World(Actor)
    await world.ask(Actor, "one", "put", "a", 1)
    world.evict_idle()
    await world.ask(Actor, "one", "put", "b", 2)
    instance = world.activation(Actor, "one").instance
    store = world.activation(Actor, "one").cache.store
    get = store.get

    def fail(object_key: bytes, key: str) -> Any:
        raise OSError("the disk said no")

    async def read(actor: Actor) -> Any:
        actor.storage.put("b", 20)
        return await actor.storage.get("a")

    store.get = fail
    failing = act(world, read)
    with pytest.raises(Exception, match="the disk said no"):
        await failing.reply
    store.get = get
    assert world.activation(Actor, "one").instance is instance, "a failed read does not reset"
    assert await world.ask(Actor, "one", "get", "a") == 1
    assert world.durable(Actor, "one") == {"a": 1, "b": 20}


async def test_a_sync_asked_before_a_commit_and_one_during_it_complete_with_it_and_one_after_a_put_with_the_next() -> None:
    """Scenario 242."""
    world = World(Actor, auto=False)
    synced: list[str] = []

    def sync(name: str, *, put: bool) -> Any:
        async def run(actor: Actor) -> None:
            if put:
                actor.storage.put(name, 1, allow_unconfirmed=True)
            await actor.storage.sync()
            synced.append(name)

        return act(world, run)

    calls = [sync("first", put=True)]
    await world.settle()
    world.cut()
    calls.append(sync("second", put=False))
    await world.settle()
    calls.append(sync("third", put=True))
    await world.settle()
    assert synced == []
    world.committed()
    await world.settle()
    assert synced == ["first", "second"]
    world.commit()
    await world.ask_all(calls)
    assert synced == ["first", "second", "third"]


@pytest.mark.parametrize("unconfirmed", [(False,), (True,), (True, True), (True, False), (False, True)], ids=str)
async def test_sync_waits_for_one_commit_with_all_writes_confirmed_or_not(unconfirmed: tuple[bool, ...]) -> None:
    """Scenario 244."""
    world = World(Actor, auto=False)
    synced: list[int] = []

    async def write_and_sync(actor: Actor) -> None:
        for number, option in enumerate(unconfirmed):
            actor.storage.put(f"k{number}", 1, allow_unconfirmed=option)
        await actor.storage.sync()
        synced.append(world.commits)

    call = act(world, write_and_sync)
    await world.settle()
    assert synced == []
    world.commit()
    await call.reply
    assert synced == [1]


async def test_syncs_share_a_commit_and_do_not_wait_for_what_is_written_after_them() -> None:
    """Scenario 245."""
    world = World(Actor, auto=False)
    synced: list[int] = []

    async def sync_many(actor: Actor) -> None:
        actor.storage.put("a", 1)
        syncs = [actor.storage.sync() for _ in range(3)]
        await syncs[0]
        synced.append(world.commits)
        actor.storage.put("b", 1)
        for sync in syncs[1:]:
            await sync
        synced.append(world.commits)

    call = act(world, sync_many)
    await world.settle()
    world.commit()
    await world.settle()
    assert synced == [1, 1]
    assert not call.answered, "the second put is not durable"
    world.commit()
    await call.reply


async def test_an_error_of_the_disk_is_told_with_its_place_and_an_unknown_outcome() -> None:
    """Scenario 240: ours says what failed, where the reference hides it behind a reference id."""
    world = World(Actor, auto=False)
    call = world.call(Actor, "one", "put", "a", 1)
    await world.settle()
    world.fail_commit("append 00000001.seg: Input/output error")
    with pytest.raises(ObjectReset, match=r"00000001\.seg: Input/output error"):
        await call.reply
    assert (call.error.outcome, call.error.retryable) == ("unknown", True)
