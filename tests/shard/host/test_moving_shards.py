"""shard/host/moving_shards.py: a shard goes from one host to another, and nothing that was answered is lost or done twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.alarm_world import AlarmWorld, Bell, in_virtual_time
from tests.support.host_world import World
from tests.support.objects import CONTROL, Counter, control, until
from tidegate.runtime.errors import Moved
from tidegate.runtime.wire.protocol import Request
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()


class Walker(DurableObject):
    async def add(self) -> int:
        value: int = await self.storage.get("value", 0) + 1
        await self.storage.put("value", value)
        return value

    async def wait_and_add(self) -> int:
        await until("go")
        return await self.add()

    async def wait_in_section(self) -> None:
        async with self.block_concurrency():
            await until("go")

    async def add_unconfirmed(self) -> None:
        await self.storage.put("value", 1, allow_unconfirmed=True)

    async def linger(self) -> None:
        self.spawn(until("never"))

    async def ask(self, name: str) -> Any:
        return await self.stub(Walker, name).add()


class Sending(World):
    """`sent`: calls to objects that are not here."""

    def boot(self) -> None:
        self.sent: list[str] = []
        super().boot()

    def _send(self, request: Request, origin: Any) -> None:
        self.sent.append(request.name)
        origin.answer(0, 77)


def name_in(world: World, shard: int, cls: str = "Walker") -> str:
    return next(name for name in map(str, range(100)) if world.shard_of(cls, name) == shard)


def take_from(source: World, target: World, shard: int) -> None:
    """As two workers do, of which the second reads what the first has written."""
    store = source.stores.pop(shard)
    source.host.moving.gone(shard)
    target.stores[shard] = store
    target.host.moving.come(shard)


def without(world: World, shard: int) -> World:
    """It has never had that shard."""
    del world.stores[shard]
    world.host.moving.going[shard] = False
    world.host.moving.gone(shard)
    return world


@pytest.mark.parametrize("proves", [False, True])
async def test_an_object_goes_on_elsewhere_where_it_was_here(proves: bool) -> None:
    here, there = World(Walker, proves=proves), without(World(Walker, proves=proves), 0)
    name, other = name_in(here, 0), name_in(here, 1)
    assert [await here.ask(Walker, each, "add") for each in (name, name, other)] == [1, 2, 1]
    with pytest.raises(Moved):
        await there.ask(Walker, name, "add")
    here.host.moving.begin(0)
    assert here.host.moving.has_ended(0)
    take_from(here, there, 0)
    assert await there.ask(Walker, name, "add") == 3
    with pytest.raises(Moved, match="does not own shard 0"):
        await here.ask(Walker, name, "add")
    assert await here.ask(Walker, other, "add") == 2
    assert len(here.host.table) == 1, "its objects have left memory"
    assert here.host.statistics().resets == 0
    there.host.moving.begin(0)
    take_from(there, here, 0)
    assert await here.ask(Walker, name, "add") == 4


async def test_what_has_begun_is_waited_for_and_durable_before_it_goes() -> None:
    here = World(Walker, auto=False)
    name = name_in(here, 0)
    control("go")
    call = here.call(Walker, name, "wait_and_add")
    await here.settle()
    here.host.moving.begin(0)
    assert not here.host.moving.has_ended(0), "it runs"
    CONTROL["go"].set_result(None)
    await here.settle()
    assert not here.host.moving.has_ended(0), "what it has written is in no commit"
    commit = here.cut()
    assert not here.host.moving.has_ended(0), "it is being made durable"
    here.applied(1, commit.shards)
    here.host.committed(commit)
    await here.settle()
    assert call.result == 1
    assert here.host.moving.has_ended(0)
    assert here.durable(Walker, name) == {"value": 1}


async def test_a_write_for_which_nobody_waits_is_durable_before_its_shard_goes() -> None:
    here = World(Walker, auto=False)
    name = name_in(here, 0)
    call = here.call(Walker, name, "add_unconfirmed")
    await here.settle()
    assert call.answered
    here.host.moving.begin(0)
    assert not here.host.moving.has_ended(0)
    commit = here.cut()
    assert not here.host.moving.has_ended(0)
    here.applied(1, commit.shards)
    here.host.committed(commit)
    assert here.host.moving.has_ended(0)


async def test_what_does_not_end_in_time_is_reset_and_what_waits_for_it_never_runs() -> None:
    here, there = World(Walker), without(World(Walker), 0)
    name = name_in(here, 0)
    control("go")
    running = here.call(Walker, name, "wait_in_section")
    await here.settle()
    waiting = here.call(Walker, name, "add")
    await here.settle()
    here.host.moving.begin(0)
    here.host.moving.end_calls(0)
    await here.settle()
    assert [(type(each.error), each.error.outcome) for each in (running, waiting)] == [
        (Moved, "unknown"),
        (Moved, "not_executed"),
    ]
    late = here.call(Walker, name, "add")
    await here.settle()
    assert (type(late.error), late.error.outcome) == (Moved, "not_executed")
    assert here.host.moving.has_ended(0)
    take_from(here, there, 0)
    assert await there.ask(Walker, name, "add") == 1


async def test_code_that_nobody_has_called_does_not_keep_a_shard() -> None:
    here, there = World(Walker), without(World(Walker), 0)
    name = name_in(here, 0)
    control("never")
    await here.ask(Walker, name, "linger")
    tasks = set(here.activation(Walker, name).tasks)
    here.host.moving.begin(0)
    assert here.host.moving.has_ended(0)
    take_from(here, there, 0)
    await here.settle()
    assert all(task.cancelled() for task in tasks)
    assert here.host.statistics().activations == 0


async def test_a_call_of_an_object_here_to_one_that_has_gone_is_sent_after_it() -> None:
    here = Sending(Walker)
    name, other = name_in(here, 0), name_in(here, 1)
    assert await here.ask(Walker, other, "ask", name) == 1
    call = here.call(Walker, other, "ask", name)
    here.loop.call_soon(here.host.moving.begin, 0)
    await asyncio.sleep(0)
    here.stores.pop(0)
    here.host.moving.gone(0)
    await here.settle()
    assert (call.result, here.sent) == (77, [name])


async def test_a_call_with_a_number_that_was_answered_elsewhere_is_answered_the_same() -> None:
    here, there = World(Counter), without(World(Counter), 0)
    name, other = name_in(here, 0, "Counter"), name_in(here, 1, "Counter")
    (first,) = here.session([[5, "Counter", name, "plain"]])
    assert await first.reply == 0
    (known,) = there.session([[1, "Counter", other, "plain"]])
    assert await known.reply == 0, "there the session is known, up to number 1"
    here.host.moving.begin(0)
    take_from(here, there, 0)
    (again,) = there.session([[5, "Counter", name, "plain"]])
    assert await again.reply == 0, "it ran once"
    (next_one,) = there.session([[6, "Counter", name, "plain"]])
    assert await next_one.reply == 1


@in_virtual_time
async def test_an_alarm_rings_where_its_shard_is() -> None:
    here = AlarmWorld()
    here.host.alarms.start()
    names = {here.shard_of("Bell", name): name for name in map(str, range(100))}
    for shard in (0, 1):
        await here.ask(Bell, names[shard], "set", 10)
    here.host.moving.begin(0)
    assert here.host.moving.has_ended(0)
    store = here.stores.pop(0)
    here.host.moving.gone(0)
    await asyncio.sleep(20)
    assert [run.name for run in here.rehearsal.runs] == [names[1]], "of the other it is not here to say"
    here.stores[0] = store
    here.host.moving.come(0)
    await asyncio.sleep(1)
    assert [run.name for run in here.rehearsal.runs] == [names[1], names[0]], "what is overdue rings at once"
    await here.ask(Bell, names[0], "set_in", 5)
    await asyncio.sleep(6)
    assert len(here.rehearsal.runs) == 3


@in_virtual_time
async def test_a_handler_that_runs_is_waited_for_and_nobody_is_blamed_for_one_that_is_ended() -> None:
    here = AlarmWorld()
    here.host.alarms.start()
    name = next(name for name in map(str, range(100)) if here.shard_of("Bell", name) == 0)
    control("go")
    here.rehearsal.play = lambda bell, info: until("go")
    await here.ask(Bell, name, "set", 1)
    await asyncio.sleep(2)
    here.host.moving.begin(0)
    assert not here.host.moving.has_ended(0)
    here.host.moving.end_calls(0)
    await here.settle()
    assert here.host.moving.has_ended(0)
    store = here.stores.pop(0)
    here.host.moving.gone(0)
    here.rehearsal.play = None
    here.rehearsal.running.clear()
    here.stores[0] = store
    here.host.moving.come(0)
    assert here.host.alarms._deaths == {}, "its mark was taken back"
    await asyncio.sleep(1)
    assert [run.retry_count for run in here.rehearsal.runs] == [0, 0], "it rings again where the shard is"


@in_virtual_time
async def test_abandoned_alarms_are_counted_where_their_shards_are() -> None:
    here = AlarmWorld()
    here.host.alarms.start()
    name = next(name for name in map(str, range(100)) if here.shard_of("Bell", name) == 0)

    async def fail(bell: Bell, info: Any) -> None:
        raise ValueError("no")

    here.rehearsal.play = fail
    await here.ask(Bell, name, "set", 1)
    await asyncio.sleep(1_000)
    assert here.host.statistics().alarms_abandoned == 1
    here.host.moving.begin(0)
    store = here.stores.pop(0)
    here.host.moving.gone(0)
    told = here.host.statistics()
    assert (told.alarms_abandoned, told.newest_abandoned) == (0, [])
    here.stores[0] = store
    here.host.moving.come(0)
    told = here.host.statistics()
    assert (told.alarms_abandoned, [each.name for each in told.newest_abandoned]) == (1, [name])


@in_virtual_time
async def test_an_alarm_that_is_set_while_its_shard_goes_is_there_elsewhere() -> None:
    here = AlarmWorld()
    here.host.alarms.start()
    name = next(name for name in map(str, range(100)) if here.shard_of("Bell", name) == 0)
    here.host.moving.begin(0)
    await here.ask(Bell, name, "set", 5)
    await asyncio.sleep(10)
    assert here.rehearsal.runs == []
    assert here.host.moving.has_ended(0)
    store = here.stores.pop(0)
    here.host.moving.gone(0)
    here.stores[0] = store
    here.host.moving.come(0)
    await asyncio.sleep(1)
    assert len(here.rehearsal.runs) == 1
