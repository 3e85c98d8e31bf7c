"""shard/host/disk_wait.py and what it means for objects: a read that waits for the disk closes its object's gate, holds up nobody
else, and gives what an immediate read would have given."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.cold_world import Act, Actor, ColdWorld
from tests.support.objects import CONTROL, LOG, control, until
from tidegate.runtime.errors import MethodRaised, ObjectReset
from tidegate.shard.loop.task import StorageFuture
from tidegate.shard.store.state.memory_state import MemoryState

ROWS = {"a": 1, "b": "two", "c": [3], "d": None, "e": 5.5}


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


async def cold_world(**settings: Any) -> ColdWorld:
    """Object x has `ROWS`, and is in memory; its rows are not."""
    world = ColdWorld(**settings)
    await world.fill("x", ROWS)
    world.cool()
    await world.loaded("x")
    return world


# The first call


async def test_once_it_is_known_what_objects_are_asked_for_the_first_call_waits_for_one_read() -> None:
    world = ColdWorld()
    for name in "xyz":
        await world.fill(name, ROWS)

    async def add(actor: Actor) -> Any:
        value = await actor.storage.get("a")
        await actor.storage.put("a", value + 1)
        return value

    async def read(actor: Actor) -> Any:
        return await actor.storage.get("b")

    async def reads_of(name: str, act: Act) -> tuple[Any, int]:
        before = world.reader.asked
        call = world.act(name, act)
        await world.thaw()
        return await call.reply, world.reader.asked - before

    world.cool()
    assert await reads_of("x", add) == (1, 2), "its header, then its row"
    assert await reads_of("y", add) == (1, 1), "both"
    assert await reads_of("y", read) == (ROWS["b"], 1), "nobody says that the page is still in memory"
    world.cool()
    assert await reads_of("z", read) == (ROWS["b"], 2)
    world.cool()
    assert await reads_of("y", read) == (ROWS["b"], 1)
    assert await reads_of("z", add) == (1, 1)
    assert await reads_of("new", value_of_a) == (None, 1)
    world.cool()
    assert [await reads_of(name, value_of_a) for name in "xyz"] == [(2, 1)] * 3


async def value_of_a(actor: Actor) -> Any:
    return await actor.storage.get("a")


# The gate


async def test_while_a_read_waits_for_the_disk_no_event_is_delivered_to_its_object_and_others_are_served() -> None:
    world = await cold_world()
    await world.loaded("y")

    async def read(actor: Actor) -> Any:
        value = await actor.storage.get("a")
        LOG.append("read")
        return value

    async def note(actor: Actor) -> None:
        LOG.append("other event")

    reading, other = world.act("x", read), world.act("x", note)
    for _ in range(20):
        assert await world.ask(Actor, "y", "ping") == "pong"
    assert LOG == []
    assert not reading.answered
    world.reader.release()
    assert await reading.reply == 1
    await other.reply
    assert LOG == ["read", "other event"]


async def test_a_task_that_was_asleep_goes_on_only_when_the_read_has_been_delivered() -> None:
    world = await cold_world()

    async def sleep(actor: Actor) -> None:
        async def sleeper() -> None:
            await until("morning")
            LOG.append("awake")

        actor.spawn(sleeper())

    async def read(actor: Actor) -> None:
        await actor.storage.get("a")
        LOG.append("read")

    morning = control("morning")
    await world.do("x", sleep)
    await world.settle()
    call = world.act("x", read)
    await world.settle()
    morning.set_result(None)
    await world.settle()
    assert LOG == []
    world.reader.release()
    await call.reply
    await world.settle()
    assert LOG == ["read", "awake"]


async def test_an_older_value_that_arrives_after_a_newer_one_has_left_memory_is_not_kept() -> None:
    """Also where it was asked for beside the loop, and nobody reads there any longer by then."""
    world = ColdWorld()
    await world.fill("x", {"k": "old"})
    world.cool()
    await world.loaded("x")

    async def read_on(actor: Actor) -> Any:
        return await actor.storage.get("k", allow_concurrency=True)

    async def write_past(actor: Actor) -> None:
        await actor.storage.put("k", "new", no_cache=True)

    async def read(actor: Actor) -> Any:
        return await actor.storage.get("k")

    early = world.act("x", read_on)
    await world.settle()
    for store in world.stores.values():
        store.reader = None  # As it is once the file is found in memory.
    await world.do("x", write_past)
    await world.settle()
    world.reader.release()
    await world.settle()
    await early.reply
    assert await world.do("x", read) == "new"


async def test_between_the_answer_and_the_code_that_waits_for_it_nothing_slips_in() -> None:
    """A counter written in the natural way stays one, though every single read waits for the disk."""
    world = ColdWorld()
    await world.fill("x", {"n": 0})

    async def count(actor: Actor) -> int:
        value: int = await actor.storage.get("n", no_cache=True)
        again = await actor.storage.get("n", no_cache=True)
        assert again == value
        await actor.storage.put("n", value + 1)
        return value

    world.cool()
    calls = [world.act("x", count) for _ in range(30)]
    for _ in range(30):
        await world.thaw()
        world.cool()
    assert await world.ask_all(calls) == list(range(30))


async def test_a_read_that_allows_concurrency_lets_other_events_in() -> None:
    world = await cold_world()

    async def read(actor: Actor) -> Any:
        return await actor.storage.get("a", allow_concurrency=True)

    reading = world.act("x", read)
    assert await world.ask(Actor, "x", "ping") == "pong"
    assert not reading.answered
    world.reader.release()
    assert await reading.reply == 1


async def test_a_read_that_nobody_awaits_keeps_the_gate_closed_until_it_has_been_made() -> None:
    world = await cold_world()

    async def ask_only(actor: Actor) -> str:
        actor.storage.get("a")
        return "asked"

    assert await world.do("x", ask_only) == "asked"
    ping = world.call(Actor, "x", "ping")
    await world.settle()
    assert not ping.answered
    world.reader.release()
    assert await ping.reply == "pong"


async def test_a_read_that_is_given_up_opens_the_gate_and_its_late_answer_harms_nothing() -> None:
    world = await cold_world()

    async def impatient(actor: Actor) -> str:
        try:
            async with asyncio.timeout(0.001):
                return str(await actor.storage.get("a"))
        except TimeoutError:
            return "too slow"

    assert await world.act("x", impatient).reply == "too slow"
    assert await world.ask(Actor, "x", "ping") == "pong"
    world.reader.release()
    await world.settle()
    asked = world.reader.asked

    async def read(actor: Actor) -> Any:
        return await actor.storage.get("a")

    assert await world.do("x", read) == 1, "what was read is kept"
    assert world.reader.asked == asked


# What is read


async def transaction(act: Act, actor: Actor) -> Any:
    async with actor.storage.transaction():
        actor.storage.put("b", "in the transaction")
        actor.storage.delete("c")
        return await act(actor)


READS: dict[str, Act] = {
    "get": lambda actor: actor.storage.get("a"),
    "get of what does not exist": lambda actor: actor.storage.get("zz", "default"),
    "get of None": lambda actor: actor.storage.get("d", "default"),
    "get with a type": lambda actor: actor.storage.get("c", type=tuple[int, ...]),
    "get past the cache": lambda actor: actor.storage.get("b", no_cache=True),
    "get_many": lambda actor: actor.storage.get_many(["c", "a", "zz", "b"]),
    "list": lambda actor: actor.storage.list(),
    "list of a range": lambda actor: actor.storage.list(start="b", end="d"),
    "list backwards": lambda actor: actor.storage.list(reverse=True, limit=2),
    "list with a limit": lambda actor: actor.storage.list(start_after="a", limit=2),
    "list of nothing": lambda actor: actor.storage.list(prefix="zz"),
    "delete": lambda actor: actor.storage.delete("a"),
    "delete of what does not exist": lambda actor: actor.storage.delete("zz"),
    "delete_many": lambda actor: actor.storage.delete_many(["a", "zz", "a", "b", "c"]),
}


@pytest.mark.parametrize("within", ["nothing", "transaction"])
@pytest.mark.parametrize("what", READS)
async def test_a_read_from_disk_gives_what_a_read_from_memory_gives(what: str, within: str) -> None:
    async def act(actor: Actor) -> Any:
        return await READS[what](actor)

    async def in_transaction(actor: Actor) -> Any:
        return await transaction(act, actor)

    async def everything(actor: Actor) -> Any:
        return await actor.storage.list()

    chosen = act if within == "nothing" else in_transaction
    warm = ColdWorld()
    await warm.fill("x", ROWS)
    cold = await cold_world()
    expected = await warm.do("x", chosen)
    call = cold.act("x", chosen)
    await cold.thaw()
    answer = await call.reply
    assert answer == expected
    if isinstance(answer, dict):
        assert list(answer) == list(expected)
    after = cold.act("x", everything)
    await cold.thaw()
    assert await after.reply == await warm.do("x", everything)
    assert cold.durable(Actor, "x") == warm.durable(Actor, "x")


async def test_reads_from_disk_are_made_by_the_reader_and_kept_in_memory() -> None:
    world = await cold_world()
    asked = world.reader.asked

    async def read(actor: Actor) -> Any:
        waiting = actor.storage.get_many(["a", "b"])
        assert isinstance(waiting, StorageFuture)
        await waiting
        assert not isinstance(actor.storage.get_many(["a", "b"]), StorageFuture)

    call = world.act("x", read)
    await world.settle()
    assert world.reader.asked == asked + 1, "all keys at once"
    world.reader.release()
    await call.reply


async def test_a_read_gives_what_was_there_when_it_was_asked_and_what_was_written_since_stays() -> None:
    world = await cold_world()

    async def read_and_write(actor: Actor) -> Any:
        value, rows = actor.storage.get("a"), actor.storage.list(prefix="a")
        actor.storage.put("a", 100)
        return await value, await rows, await actor.storage.get("a")

    call = world.act("x", read_and_write)
    await world.thaw()
    assert await call.reply == [1, {"a": 1}, 100]
    assert world.durable(Actor, "x")["a"] == 100


async def test_writes_and_deletes_of_everything_wait_for_no_disk() -> None:
    world = await cold_world()
    asked = world.reader.asked

    async def write(actor: Actor) -> Any:
        await actor.storage.put("a", 2)
        await actor.storage.delete_all()
        await actor.storage.put_many({"f": 6})
        return await actor.storage.list()

    assert await world.do("x", write) == {"f": 6}
    assert world.reader.asked == asked
    assert world.durable(Actor, "x") == {"f": 6}


async def test_a_read_that_fails_is_an_error_of_its_call_and_resets_nothing() -> None:
    world = await cold_world()
    instance = world.activation(Actor, "x").instance

    async def read(actor: Actor) -> Any:
        return await actor.storage.get("a")

    world.reader.failure = OSError("the disk said no")
    failing = world.act("x", read)
    await world.thaw()
    with pytest.raises(MethodRaised, match="the disk said no"):
        await failing.reply
    call = world.act("x", read)
    await world.thaw()
    assert await call.reply == 1
    assert world.activation(Actor, "x").instance is instance


# Resets and evictions


async def test_an_object_that_is_reset_while_it_reads_starts_anew_and_the_late_answer_harms_nothing() -> None:
    world = await cold_world()
    world.auto = False

    async def write_and_read(actor: Actor) -> Any:
        actor.storage.put("a", "lost")
        return await actor.storage.get("b")

    async def both(actor: Actor) -> Any:
        return await actor.storage.get("a"), await actor.storage.get("b")

    reading = world.act("x", write_and_read)
    await world.settle()
    world.fail_commit()
    with pytest.raises(ObjectReset):
        await reading.reply
    world.auto = True
    late, world.reader.waiting = world.reader.waiting, []
    again = world.act("x", both)
    await world.thaw()
    world.reader.waiting = late
    await world.thaw()
    assert await again.reply == [1, "two"]
    assert not any(len(store.reads) for store in world.stores.values())


async def test_an_object_that_leaves_memory_while_something_is_read_for_it_leaves_no_memory_behind() -> None:
    world = await cold_world()

    async def ask_only(actor: Actor) -> None:
        actor.storage.get("b", allow_concurrency=True)

    await world.do("x", ask_only)
    world.evict_idle()
    assert len(world.host.table) == 0
    world.reader.release()
    await world.settle()
    assert world.host.table.budget.used_bytes == 0


async def test_what_is_read_for_an_object_that_has_slept_and_left_memory_leaves_nothing_behind() -> None:
    world = await cold_world()
    table, idle_s = world.host.table, world.settings.idle_evict_s

    async def ask_only(actor: Actor) -> None:
        actor.memory = "kept"  # type: ignore[attr-defined]  # the test's own
        actor.storage.get("b", allow_concurrency=True)
        actor.storage.get("c", allow_concurrency=True)

    await world.do("x", ask_only)
    kept = world.host.classes["Actor"]
    now_s = world.loop.time()
    for later_s in (1.5 * idle_s, 2.5 * idle_s):  # Looked at twice: it has been used since it was first looked at.
        table.evict_idle(now_s + later_s)
    assert "x" in kept.asleep
    world.reader.release(1)
    await world.settle()
    assert kept.asleep["x"].cache.values == {"b": "two"}, "what comes while it sleeps is kept"
    table.evict_idle(now_s + 100 * idle_s)
    assert not kept.asleep
    world.reader.release()
    await world.settle()
    assert table.budget.used_bytes == 0


async def test_an_object_is_not_evicted_while_it_waits_for_a_read() -> None:
    world = await cold_world()

    async def read(actor: Actor) -> Any:
        return await actor.storage.get("b")

    call = world.act("x", read)
    await world.settle()
    world.evict_idle()
    assert len(world.host.table) == 1
    world.reader.release()
    assert await call.reply == "two"


async def test_a_section_reads_from_disk_and_keeps_everybody_out_meanwhile() -> None:
    world = await cold_world()
    control("go")

    async def section(actor: Actor) -> Any:
        async with actor.block_concurrency():
            value = await actor.storage.get("a")
            await until("go")
            return value, await actor.storage.get("b")

    call, ping = world.act("x", section), world.call(Actor, "x", "ping")
    await world.thaw()
    assert not ping.answered
    CONTROL["go"].set_result(None)
    await world.thaw()
    assert await call.reply == [1, "two"]
    assert await ping.reply == "pong"


# Ranges on a disk that is quick


async def test_a_range_that_is_not_in_memory_is_left_to_the_reader_after_the_first_page_that_was_waited_for() -> None:
    """It was read by the loop to its end, thousands of pages of it, because each of them comes quickly."""
    world = ColdWorld()
    rows = {f"k{number:03}": number for number in range(500)}
    await world.fill("x", rows)
    await world.fill("y", ROWS)
    world.cool()
    world.near(waits_at=3)
    seen = rows_seen(world)

    async def everything(actor: Actor) -> Any:
        return await actor.storage.list()

    async def last(actor: Actor) -> Any:
        return await actor.storage.list(reverse=True, limit=10)

    async def two(actor: Actor) -> Any:
        return await actor.storage.list(limit=2)

    async def changed(actor: Actor) -> Any:
        await actor.storage.put("k001", "new")
        async with actor.storage.transaction() as transaction:
            await transaction.delete("k000")
            return list((await transaction.list()).items())[1]

    assert await world.do("x", two) == {"k000": 0, "k001": 1}
    assert world.reader.asked == 0, "it waited for nothing"
    for act, expected in (
        (everything, rows),
        (last, dict(reversed(list(rows.items())[-10:]))),
        (changed, ["k002", 2]),
    ):
        seen.clear()
        call = world.act("x", act)
        await world.settle()
        assert not call.answered
        assert len(seen) <= 3, "so many pages the loop may have touched"
        assert await world.do("y", value_of_a) == 1, "others are served"
        world.reader.release()
        assert await call.reply == expected
    assert world.reader.many_pages == [True] * 3


def rows_seen(world: ColdWorld) -> list[bytes]:
    """Keys that scans on the loop have come to."""
    seen: list[bytes] = []
    for store in world.stores.values():
        state = store.state
        assert isinstance(state, MemoryState)

        def noting(*arguments: Any, scan: Any = state.scan, **options: Any) -> Any:
            for row in scan(*arguments, **options):
                seen.append(row[0])
                yield row

        state.scan = noting
    return seen
