"""Objects of shards that others may want to own: what leaves waits for the log, also what was only read."""

from __future__ import annotations

import pytest

from tests.support.host_world import SHARDS, World
from tests.support.objects import CONTROL, LOG
from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.runtime.wire.protocol import OK
from tidegate.shard.host.outbound import Permit
from tidegate.shard.objects.object import DurableObject


def named(shard: int, number: int = 0) -> str:
    """The name of a `Till` of that shard; another one for another number."""
    names = (f"till-{each}" for each in range(10_000))
    found = [name for name in names if shard_of_slot(slot_of("Till", name), SHARDS) == shard]
    return found[number]


class Till(DurableObject):
    async def read(self) -> int:
        value: int = await self.storage.get("value", 0)
        return value

    async def put(self, value: int) -> int:
        LOG.append((self.id.name, value))
        await self.storage.put("value", value)
        return value

    async def put_both(self, other: str, value: int) -> int:
        await self.put(value)
        found: int = await self.stub(Till, other).put(value)
        return found

    async def read_other(self, other: str) -> int:
        found: int = await self.stub(Till, other).read()
        return found

    async def fail(self) -> None:
        raise KeyError("no")


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


async def committed(world: World) -> list[int]:
    """What waits is made durable; the shards of which the commit had something."""
    await world.settle()
    shards = [each.shard for each in world.cut().shards]
    world.committed()
    await world.settle()
    return shards


async def test_a_read_is_answered_when_its_shard_has_taken_a_commit_with_nothing_in_it() -> None:
    world = World(Till, auto=False, proves=True)
    for _ in range(2):  # The second time the object is in memory.
        call = world.call(Till, named(2), "read")
        await world.settle()
        assert not call.answered
        assert await committed(world) == [2]
        assert call.result == 0
    assert world.stores[2].seq == 2


async def test_without_that_a_read_is_answered_at_once() -> None:
    world = World(Till, auto=False, proves=False)
    call = world.call(Till, named(2), "read")
    await world.settle()
    assert call.answered
    assert not world.host.output_gate.can_cut


async def test_an_error_waits_too() -> None:
    world = World(Till, auto=False, proves=True)
    call = world.call(Till, named(1), "fail")
    await world.settle()
    assert not call.answered
    assert await committed(world) == [1]
    assert "no" in str(call.error)


async def test_a_read_that_came_while_a_commit_was_under_way_waits_for_the_next_one() -> None:
    """That one was sent before the read, and shows nothing of the time after it."""

    world = World(Till, auto=False, proves=True)
    first = world.call(Till, named(0), "put", 1)
    await world.settle()
    world.cut()
    second = world.call(Till, named(0), "read")
    await world.settle()
    world.committed()
    await world.settle()
    assert first.answered
    assert not second.answered
    assert await committed(world) == [0]
    assert second.result == 1


async def test_an_object_of_another_shard_hears_only_what_is_durable() -> None:
    world = World(Till, auto=False, proves=True)
    call = world.call(Till, named(0), "put_both", named(1), 7)
    await world.settle()
    assert [(named(0), 7)] == LOG, "the call to the other waits"
    assert await committed(world) == [0]
    assert [(named(0), 7), (named(1), 7)] == LOG
    assert not call.answered
    assert await committed(world) == [1]
    assert await committed(world) == [0], "what the first says then rests on its shard again"
    assert call.result == 7


async def test_an_object_of_the_same_shard_hears_it_at_once_and_both_are_in_one_commit() -> None:
    world = World(Till, auto=False, proves=True)
    call = world.call(Till, named(3), "put_both", named(3, 1), 7)
    await world.settle()
    assert [(named(3), 7), (named(3, 1), 7)] == LOG
    assert await committed(world) == [3]
    assert call.result == 7


async def test_what_one_shard_has_lost_concerns_no_other() -> None:
    world = World(Till, auto=False, proves=True)
    kept, lost, read = (
        world.call(Till, named(0), "put", 1),
        world.call(Till, named(1), "put", 1),
        world.call(Till, named(1, 1), "read"),
    )
    await world.settle()
    commit = world.cut()
    world.applied(1, [each for each in commit.shards if each.shard == 0])
    world.host.committed_but_for(commit, {1: ObjectReset("not stored")})
    await world.settle()
    assert kept.result == 1
    assert [type(each.error) for each in (lost, read)] == [ObjectReset, ObjectReset]
    assert (world.durable(Till, named(0)), world.durable(Till, named(1))) == ({"value": 1}, {})
    again = world.call(Till, named(1), "read")
    assert await committed(world) == [1]
    assert again.result == 0, "its memory is gone with what it had written"


async def test_an_object_that_has_seen_what_was_lost_is_lost_with_it() -> None:
    world = World(Till, auto=False, proves=True)
    call = world.call(Till, named(1), "put", 5)
    heir = world.call(Till, named(1, 1), "read_other", named(1))
    await world.settle()
    commit = world.cut()
    world.host.committed_but_for(commit, {1: ObjectReset("not stored")})
    await world.settle()
    assert isinstance(call.error, ObjectReset)
    assert isinstance(heir.error, ObjectReset)


async def test_what_the_runtime_says_waits_for_every_shard() -> None:
    """That something was written for an operator, or that a page of objects is durable."""
    world = World(Till, auto=False, proves=True)
    kept = world.call(Till, named(0), "put", 1)
    await world.settle()
    gate, told = world.host.output_gate, list[object]()
    gate.write_own(1, b"row".ljust(16), "k", b"v", wanted=True)
    gate.hold(gate.open_seq, None, Permit(lambda: told.append("done"), told.append), 0, OK, None)
    commit = world.cut()
    world.applied(1, [each for each in commit.shards if each.shard == 0])
    world.host.committed_but_for(commit, {1: ObjectReset("not stored")})
    await world.settle()
    assert kept.result == 1
    assert [str(each) for each in told] == ["not stored"]
    assert gate.own, "for a later commit"


async def test_an_idle_object_leaves_memory_all_the_same() -> None:
    world = World(Till, auto=False, proves=True)
    world.call(Till, named(0), "read")
    await committed(world)
    world.evict_idle()
    assert len(world.host.table) == 0


async def test_an_object_whose_answer_waits_does_not_leave_memory() -> None:
    world = World(Till, auto=False, proves=True)
    call = world.call(Till, named(0), "read")
    await world.settle()
    world.evict_idle()
    assert len(world.host.table) == 1
    await committed(world)
    assert call.answered


async def test_of_a_session_that_only_reads_no_answer_is_kept() -> None:
    """Rows of what did nothing would fill a stream that is never purged, and take the room of answers that count."""
    world = World(Till, auto=False, proves=True)
    name = named(2)
    for number in (1_000, 1_001):  # The second time the object is in memory.
        (first,) = world.session([[number, "Till", name, "read", []]])
        await world.settle()
        again = world.call(Till, name, "read", key=f"Client-1.{number}", answered=0)
        await world.settle()
        assert not first.answered
        assert not again.answered, "what the first has seen is not shown to be true yet"
        commit = world.cut()
        assert [(each.shard, each.objects, each.answers, each.rolls) for each in commit.shards] == [(2, [], [], [])]
        world.committed()
        await world.settle()
        assert [first.result, again.result] == [0, 0]
    assert world.host.statistics().answers == 0
    late = world.call(Till, name, "read", key="Client-1.1001", answered=0)
    await world.settle()
    assert late.result == 0, "it is remembered"
    assert world.host.keyed.repeats == 3


async def test_of_a_session_the_answer_of_a_read_beside_a_write_is_not_kept_and_that_of_the_write_is() -> None:
    world = World(Till, auto=False, proves=True)
    name = named(2)
    put, read = world.session([[1_000, "Till", name, "put", [7]], [1_001, "Till", name, "read", []]])
    await world.settle()
    commit = world.cut()
    assert [(roll.newest, roll.count) for each in commit.shards for roll in each.rolls] == [(1_000, 1)]
    world.committed()
    await world.settle()
    assert [put.result, read.result] == [7, 7]
