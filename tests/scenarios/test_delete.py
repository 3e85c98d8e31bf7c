"""`delete` and `delete_all` (scenarios 124 to 150, what tests/shard does not have)."""

from __future__ import annotations

import datetime

import pytest

from tests.support.host_world import World
from tests.support.stage import Actor, act, durable_and_evicted, held
from tests.support.storage_world import finish
from tidegate.runtime.errors import ObjectReset
from tidegate.shard.store.interface import HEADER


def test_a_delete_of_what_is_not_in_memory_knows_whether_it_existed() -> None:
    """Scenarios 124 and 125."""
    world = durable_and_evicted(foo=1)
    answers = [world.storage.delete("foo"), world.storage.delete("none")]
    assert world.get("foo") is None
    assert [finish(answer) for answer in answers] == [True, False]
    world.commit()
    assert world.durable() == {}


def test_a_put_over_a_deleted_key_is_written_and_deleting_it_again_too() -> None:
    """Scenario 127."""
    world = durable_and_evicted(foo=1)
    assert finish(world.storage.delete("foo")) is True
    world.commit()
    world.put("foo", 1)
    world.commit()
    assert world.durable() == {"foo": b"\x01"}
    assert finish(world.storage.delete("foo")) is True
    world.commit()
    assert world.durable() == {}
    assert world.done == 4, "the first put, and three changes"


@pytest.mark.parametrize("cut", [False, True])
def test_after_delete_all_nothing_is_there_that_was_and_everything_that_is_put_later(cut: bool) -> None:
    """Scenario 132."""
    world = durable_and_evicted(known=1, unseen=2)
    assert world.get("known") == 1
    world.put("dirty", 3)
    finish(world.storage.delete_all())
    if cut:
        world.cut()
    assert [world.get(key) for key in ("known", "unseen", "dirty")] == [None] * 3
    assert finish(world.storage.get_many(["known", "unseen", "dirty"])) == world.list() == {}
    world.put("unseen", 20)
    assert world.list() == {"unseen": 20}
    world.commit()
    world.activate()
    assert world.list() == {"unseen": 20}


def test_of_two_delete_alls_in_one_commit_what_was_put_between_is_never_written() -> None:
    """Scenario 137."""
    world = durable_and_evicted(old=1)
    finish(world.storage.delete_all())
    world.put("x", 1)
    finish(world.storage.delete_all())
    world.put("y", 1)
    (writes,) = world.cut()
    assert writes.cleared
    assert writes.writes.keys() == {HEADER, "y"}
    world.committed()
    assert world.durable().keys() == {"y"}


async def test_a_delete_all_takes_the_alarm_with_it_and_one_set_while_it_is_being_committed_stays() -> None:
    """Scenarios 140, 149 and 150; where the reference keeps the alarm (139, 145), the contract says it goes."""
    world = World(Actor, auto=False)

    async def fill_and_delete(actor: Actor) -> str:
        actor.storage.put("k", 1)
        actor.storage.set_alarm(datetime.timedelta(hours=1))
        actor.storage.delete_all()
        return repr(await actor.storage.get_alarm()) + repr(await actor.storage.list())

    async def set_alarm(actor: Actor) -> None:
        await actor.storage.set_alarm(datetime.timedelta(hours=2))

    async def due_in_hours(actor: Actor) -> float | None:
        when = await actor.storage.get_alarm()
        return None if when is None else round((when - datetime.datetime.now(datetime.UTC)) / datetime.timedelta(hours=1))

    before = act(world, set_alarm)
    await world.settle()
    world.commit()
    deleting = act(world, fill_and_delete)
    await world.settle()
    world.cut()
    setting = act(world, set_alarm)
    await world.settle()
    world.committed()
    assert await deleting.reply == "None{}"
    world.commit()
    await world.ask_all([before, setting])
    world.evict_idle()
    assert await act(world, due_in_hours).reply == 2
    world.host.alarms.stop()


async def test_a_delete_all_that_cannot_be_made_durable_resets_the_object_and_deletes_nothing() -> None:
    """Scenario 144."""
    world = World(Actor, auto=False)
    filled = world.call(Actor, "one", "put", "a", 1)
    await world.settle()
    world.commit()
    await filled.reply

    async def delete_all(actor: Actor) -> None:
        await actor.storage.delete_all()

    call = act(world, delete_all)
    await world.settle()
    assert held(world)
    world.fail_commit()
    with pytest.raises(ObjectReset):
        await call.reply
    assert await world.ask(Actor, "one", "get", "a") == 1


@pytest.mark.parametrize("times", [1, 3])
def test_delete_all_may_be_called_again_and_leaves_no_row_behind(times: int) -> None:
    """Scenario 145."""
    world = durable_and_evicted(a=1)
    for _ in range(times):
        finish(world.storage.delete_all())
    world.commit()
    assert world.store.get(world.key, HEADER) is None
    assert world.done == 2
