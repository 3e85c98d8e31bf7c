"""Alarms (scenarios 182 to 235, what tests/shard/host/test_alarm_clock.py does not have)."""

from __future__ import annotations

import datetime

from tests.support.host_world import World
from tests.support.stage import Actor, act
from tests.support.storage_world import StorageWorld, finish
from tidegate.runtime.ids import object_key
from tidegate.shard.core.alarms import STEADY_INDEX_KEY, pending_alarm


def test_a_fresh_object_has_no_alarm_and_says_so_without_yielding() -> None:
    """Scenario 182."""
    assert finish(StorageWorld().storage.get_alarm()) is None


async def test_of_two_alarms_set_in_one_turn_only_the_last_is_ever_stored() -> None:
    """Scenario 202."""
    world = World(Actor)

    async def set_two(actor: Actor) -> None:
        actor.storage.set_alarm(datetime.timedelta(hours=1))
        actor.storage.set_alarm(datetime.timedelta(hours=2))

    await act(world, set_two).reply
    assert world.commits == 1
    store = world.stores[world.shard_of("Actor", "one")]
    alarm = pending_alarm(store, object_key("Actor", "one"))
    assert alarm is not None
    assert alarm.set_us is not None
    assert round((alarm.due_us - alarm.set_us) / 3.6e9) == 2
    assert len(store.scan(STEADY_INDEX_KEY)) == 1
    world.host.alarms.stop()
