"""Objects start before their first call, leave memory when they are idle, and lose nothing by it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from typing import Any

import pytest

from tests.support.host_world import World
from tests.support.objects import CONTROL, LOG, Thing, control, until
from tidegate.runtime.errors import (
    ObjectReset,
    StartFailed,
)
from tidegate.shard.core.cache import ENTRY_BYTES
from tidegate.shard.core.codec import encode
from tidegate.shard.host.table import LOOKS_AT_LEISURE
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


# Start


class Starting(DurableObject):
    starts = 0
    fails = 0

    def __init__(self) -> None:
        self.started = False

    async def on_start(self) -> None:
        Starting.starts += 1
        if "start" in CONTROL:
            await until("start")
        if Starting.starts <= Starting.fails:
            self.storage.put("never", 1)
            raise KeyError("not today")
        self.started = True
        self.storage.put("started", await self.storage.get("started", 0) + 1)

    async def is_started(self) -> bool:
        return self.started


@pytest.fixture
def starting() -> type[Starting]:
    Starting.starts = Starting.fails = 0
    return Starting


async def test_on_start_runs_once_before_the_first_call(starting: type[Starting]) -> None:
    world = World(starting)
    assert await world.ask_all([world.call(starting, "a", "is_started") for _ in range(5)]) == [True] * 5
    assert starting.starts == 1
    assert world.durable(starting, "a") == {"started": 1}


async def test_calls_wait_for_a_slow_start_and_are_served_in_order(starting: type[Starting]) -> None:
    world = World(starting)
    start = control("start")
    calls = [world.call(starting, "a", "is_started") for _ in range(5)]
    await world.settle()
    assert not any(call.answered for call in calls)
    start.set_result(None)
    assert await world.ask_all(calls) == [True] * 5
    assert starting.starts == 1


@pytest.mark.parametrize("slow", [False, True])
async def test_a_start_that_fails_is_told_to_everybody_who_waits_and_tried_again_by_the_next_call(
    starting: type[Starting], slow: bool
) -> None:
    world = World(starting)
    starting.fails = 1
    if slow:
        start = control("start")
    calls = [world.call(starting, "a", "is_started") for _ in range(3)]
    await world.settle()
    if slow:
        start.set_result(None)
        await world.settle()
        assert starting.starts == 1
        for call in calls:
            assert isinstance(call.error, StartFailed)
            assert "KeyError" in str(call.error)
            assert call.error.outcome == "not_executed"
    else:
        assert isinstance(calls[0].error, StartFailed)
        assert [call.result for call in calls[1:]] == [True, True], "they are the next calls"
    assert await world.ask(starting, "a", "is_started")
    assert "never" not in world.durable(starting, "a")


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
async def test_an_init_that_raises_is_a_failed_start(error: BaseException) -> None:
    class Broken(DurableObject):
        def __init__(self) -> None:
            raise error

        async def method(self) -> None:
            pass

    world = World(Broken)
    for _ in range(2):
        with pytest.raises(StartFailed, match=type(error).__name__):
            await world.ask(Broken, "a", "method")
    assert world.host.statistics().activations == 0


async def test_init_may_use_the_id_and_the_storage() -> None:
    class Early(DurableObject):
        def __init__(self) -> None:
            self.storage.put("name", str(self.id))

        async def name(self) -> str:
            name: str = await self.storage.get("name")
            return name

    world = World(Early)
    assert await world.ask(Early, "x", "name") == "Early/x"
    assert world.durable(Early, "x") == {"name": "Early/x"}


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("how", ["abort", "failed section", "abort by a callback"])
async def test_an_object_that_resets_itself_in_on_start_has_not_started_for_all_who_wait_and_the_next_call_tries_again(
    how: str, slow: bool
) -> None:
    class Aborting(DurableObject):
        starts = 0

        async def on_start(self) -> None:
            Aborting.starts += 1
            if slow:
                await until("start")
            if how == "abort by a callback":
                asyncio.get_running_loop().call_soon(self._put_and_abort)
                await asyncio.Event().wait()
            async with self.block_concurrency() if how == "failed section" else contextlib.nullcontext():
                self._put_and_abort(how == "failed section")

        def _put_and_abort(self, fails: bool = False) -> None:
            self.storage.put("never", 1)
            if fails:
                raise KeyError("not ready")
            self.abort("not ready")

        async def method(self) -> None:
            pass

    world = World(Aborting)
    for attempt in range(3):
        if slow:
            start = control("start")
        calls = [world.call(Aborting, "a", "method") for _ in range(1 if how != "abort by a callback" and not slow else 3)]
        await world.settle()
        if slow:
            assert not any(call.answered for call in calls)
            start.set_result(None)
            await world.settle()
        assert Aborting.starts == attempt + 1
        for call in calls:
            assert isinstance(call.error, StartFailed)
            assert "not ready" in str(call.error)
            assert call.error.outcome == "not_executed"
    assert world.durable(Aborting, "a") == {}


async def test_calls_that_wait_for_a_start_whose_write_fails_go_to_the_next_instance() -> None:
    """Not the object's doing: it may well start the next time."""

    class Slow(DurableObject):
        async def on_start(self) -> None:
            self.storage.put("started", 1)
            await until("start")

        async def method(self) -> str:
            return "started"

    world = World(Slow, auto=False)
    control("start")
    calls = [world.call(Slow, "a", "method") for _ in range(3)]
    await world.settle()
    world.fail_commit()
    CONTROL["start"].set_result(None)
    await world.settle()
    world.commit()
    assert [call.result for call in calls] == ["started"] * 3


# Life in memory


async def test_only_idle_objects_are_evicted_and_only_their_memory_is_lost() -> None:
    world = World(Thing)
    control("wait")
    waiting = world.call(Thing, "busy", "wait")
    await world.ask(Thing, "idle", "put", "k", 1)
    await world.ask(Thing, "idle", "memory")
    world.evict_idle()
    assert set(world.host.classes["Thing"].activations) == {"busy"}
    assert await world.ask(Thing, "idle", "memory") == 1
    assert await world.ask(Thing, "idle", "get", "k") == 1
    CONTROL["wait"].set_result(None)
    assert await waiting.reply == "waited"


async def test_an_object_with_a_held_message_or_an_undurable_write_is_not_evicted() -> None:
    world = World(Thing, auto=False)
    held = world.call(Thing, "a", "put", "k", 1)
    assert await world.ask(Thing, "b", "put_unconfirmed", "k", 1) == "put"
    for step in (lambda: None, world.cut):
        step()
        world.evict_idle()
        assert set(world.host.classes["Thing"].activations) == {"a", "b"}
    world.committed()
    world.evict_idle()
    assert world.host.classes["Thing"].activations == {}
    await held.reply


@pytest.mark.parametrize("options", [{}, {"deadline_ms": 60_000}])
async def test_an_object_that_is_called_now_and_then_stays_in_memory(options: dict[str, Any]) -> None:
    world = World(Thing, idle_evict_s=10.0)
    now = world.loop.time()
    for second in range(0, 60, 5):
        call = world.call(Thing, "a", "memory", **options)
        world.now_s = now + second
        await world.settle()
        assert await call.reply == second // 5 + 1
        world.host.table.evict_idle(now + second + 1)


async def test_over_its_budget_the_least_recently_used_objects_leave_first() -> None:
    world = World(Thing, cache_bytes=600_000)
    for number in range(20):
        world.now_s = world.loop.time() + number
        await world.ask(Thing, str(number), "put", "k", "x" * 100_000)
        world.host.table.evict_idle(world.now_s)
        assert world.host.table.budget.used_bytes <= 600_000
    kept = sorted(int(name) for name in world.host.classes["Thing"].activations)
    assert kept == list(range(20 - len(kept), 20))
    assert 3 <= len(kept) <= 6
    assert await world.ask(Thing, "0", "get", "k") == "x" * 100_000


async def test_an_idle_object_loses_its_instance_first_and_what_its_storage_has_cached_later() -> None:
    world = World(Thing, idle_evict_s=10.0)
    await world.ask(Thing, "a", "put", "k", 1)
    await world.ask(Thing, "a", "memory")
    used, table = world.host.table.budget.used_bytes, world.host.table
    reads = reads_of(world)
    for _ in range(2):  # Used since it was first looked at, it goes at the second look.
        table.evict_idle(world.loop.time() + 11)
    assert world.host.classes["Thing"].activations == {}
    assert table.budget.used_bytes == used, "it sleeps"
    assert await world.ask(Thing, "a", "memory") == 1, "a new instance"
    assert await world.ask(Thing, "a", "get", "k") == 1
    assert reads == [], "nothing was read from the store"
    assert table.budget.used_bytes == used
    again_s = table.evict_idle(world.loop.time() + 12)
    assert again_s is not None
    assert table.evict_idle(world.loop.time() + 82) is None, "it has left memory"
    assert (table.budget.used_bytes, table.is_empty) == (0, True)
    assert await world.ask(Thing, "a", "get", "k") == 1
    assert reads, "now the store was asked"


def reads_of(world: World) -> list[str]:
    """The keys that are asked of the stores from now on."""
    reads: list[str] = []
    for store in world.host.stores.values():
        get = store.get

        def recorded(object_key: bytes, key: str, get: Any = get) -> bytes | None:
            reads.append(key)
            found: bytes | None = get(object_key, key)
            return found

        store.get = recorded
    return reads


async def test_over_the_budget_objects_that_sleep_leave_before_those_that_are_used() -> None:
    world = World(Thing, cache_bytes=600_000, idle_evict_s=10.0)
    for name in "ab":
        await world.ask(Thing, name, "put", "k", "x" * 100_000)
        await world.ask(Thing, name, "memory")
    for _ in range(2):  # Used since they were first looked at.
        world.host.table.evict_idle(world.loop.time() + 12)
    assert set(world.host.classes["Thing"].asleep) == {"a", "b"}
    for name in "cdef":
        await world.ask(Thing, name, "put", "k", "x" * 100_000)
    world.host.table.evict_idle(world.loop.time())
    assert len(world.host.classes["Thing"].asleep) == 1
    assert set(world.host.classes["Thing"].activations) == set("cdef")


async def test_however_many_sleep_none_that_is_used_leaves_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.table.LOOKS_PER_TURN", 1)
    world = World(Thing, cache_bytes=300_000, idle_evict_s=10.0)
    for name in "ab":
        await world.ask(Thing, name, "put", "k", "x" * 100_000)
        await world.ask(Thing, name, "memory")
    for _ in range(6):
        world.host.table.evict_idle(world.loop.time() + 12)
    for name in "cde":
        await world.ask(Thing, name, "put", "k", "x" * 90_000)
    world.host.table.evict_idle(world.loop.time())
    assert len(world.host.classes["Thing"].asleep) == 1
    assert set(world.host.classes["Thing"].activations) == set("cde")
    world.host.table.evict_idle(world.loop.time())
    assert set(world.host.classes["Thing"].activations) == set("cde")


async def test_while_memory_is_not_short_a_sweep_looks_at_few_and_comes_again_at_once() -> None:
    """What has been idle for long is in no cache of the CPU: a sweep of a thousand took up to 43 ms."""
    world = World(Thing, idle_evict_s=10.0)
    for number in range(LOOKS_AT_LEISURE + 10):
        await world.ask(Thing, str(number), "put", "k", 1)
        await world.ask(Thing, str(number), "memory")  # It has kept something: its instance will leave.
    now_s, asleep = world.loop.time() + 12, [0]
    while world.host.table.evict_idle(now_s) == now_s:
        asleep.append(len(world.host.classes["Thing"].asleep))
    assert len(world.host.classes["Thing"].asleep) == LOOKS_AT_LEISURE + 10
    assert max(after - before for before, after in itertools.pairwise(asleep)) in range(1, LOOKS_AT_LEISURE + 1)


class Blank(DurableObject):
    async def count(self) -> int:
        number: int = await self.storage.get("n", 0)
        self.storage.put("n", number + 1)
        return number

    async def keep(self, what: str) -> None:
        LOG.append({"attribute": None, "itself": self, "storage": self.storage, "stub": self.stub("Blank", "b")}[what])
        if what == "attribute":
            self.kept = what

    async def set_timer(self) -> None:
        asyncio.get_running_loop().call_later(3_600, LOG.append, "rang")


class WithInit(Blank):
    def __init__(self) -> None:
        LOG.append("init")


class WithStart(Blank):
    async def on_start(self) -> None:
        LOG.append("start")


class WithSlots(Blank):
    __slots__ = ("slot",)


async def test_an_instance_that_has_kept_nothing_rests_and_leaves_memory_when_it_has_not_been_called_for_long() -> None:
    world = World(Blank, idle_evict_s=10.0)
    table, now_s = world.host.table, world.loop.time()
    world.now_s = now_s
    assert await world.ask(Blank, "a", "count") == 0
    activation, held = world.activation(Blank, "a"), table.budget.used_bytes
    for number in range(1, 4):
        table.evict_idle(world.now_s + 11)
        assert activation.gate.resting
        world.now_s += 20
        assert await world.ask(Blank, "a", "count") == number
        assert world.activation(Blank, "a") is activation
        assert not activation.gate.resting
        world.check()
    assert world.host.statistics().evictions == 0
    for later_s, stays in ((9, True), (11, True), (69, True), (71, False)):
        assert (table.evict_idle(world.now_s + later_s) is not None) is stays
        assert table.budget.used_bytes == held * stays
        assert len(table) == stays
    assert table.is_empty
    assert await world.ask(Blank, "a", "count") == 4


@pytest.mark.parametrize("what", ["attribute", "itself", "storage", "stub"])
async def test_an_instance_that_has_kept_something_or_is_kept_is_followed_by_a_new_one(what: str) -> None:
    world = World(Blank, idle_evict_s=10.0)
    await world.ask(Blank, "a", "keep", what)
    for _ in range(2):
        world.host.table.evict_idle(world.loop.time() + 12)
    assert set(world.host.classes["Blank"].asleep) == {"a"}
    assert world.host.classes["Blank"].activations == {}


@pytest.mark.parametrize("cls", [WithInit, WithStart, WithSlots])
async def test_an_instance_whose_class_has_something_to_start_is_followed_by_a_new_one(cls: type[Blank]) -> None:
    world = World(cls, idle_evict_s=10.0)
    assert await world.ask(cls, "a", "count") == 0
    started = len(LOG)
    for _ in range(2):
        world.host.table.evict_idle(world.loop.time() + 11)
    assert set(world.host.classes[cls.__name__].asleep) == {"a"}
    assert await world.ask(cls, "a", "count") == 1
    assert len(LOG) == 2 * started


async def test_one_that_rests_now_and_then_stays_while_it_is_called() -> None:
    world = World(Blank, idle_evict_s=10.0)
    now_s = world.loop.time()
    for step in range(40):
        world.now_s = now_s + step * 9
        assert await world.ask(Blank, "a", "count") == step
        world.host.table.evict_idle(world.now_s + (11 if step % 3 == 0 else 1))
        world.check()
    assert len(world.host.table) == 1


async def test_an_object_whose_timer_was_given_up_leaves_memory_too() -> None:
    world = World(Blank, idle_evict_s=10.0)
    await world.ask(Blank, "a", "set_timer")
    now_s = world.loop.time()
    for later_s in (11, 22, 60, 71, 82, 141, 153, 230):
        world.host.table.evict_idle(now_s + later_s)
    assert world.host.table.is_empty
    assert world.host.table.budget.used_bytes == 0
    assert world.host.classes["Blank"].asleep == {}


@pytest.mark.parametrize("use", ["storage.get('k')", "storage.put('k', 2)", "storage.list()", "spawn(0)", "stub('Thing', 'b')"])
async def test_who_keeps_an_instance_that_has_left_memory_reaches_the_object_no_more(use: str) -> None:
    world = World(Thing, idle_evict_s=10.0)
    await world.ask(Thing, "a", "put", "k", 1)
    kept: Any = world.activation(Thing, "a").instance
    storage, stub = kept.storage, kept.stub("Thing", "b")
    world.host.table.evict_idle(world.loop.time() + 11)
    with pytest.raises(ObjectReset, match="has left memory"):
        eval(f"kept.{use}")
    for reach in (lambda: storage.put("k", 2), lambda: storage.get("k"), lambda: stub.get("k")):
        with pytest.raises(ObjectReset, match="has left memory"):
            reach()
    assert await world.ask(Thing, "a", "get", "k") == 1


async def test_a_sleeping_object_that_cannot_be_started_is_answered_and_gives_its_memory_back(starting: type[Starting]) -> None:
    world = World(starting, idle_evict_s=10.0)
    assert await world.ask(starting, "a", "is_started")
    world.host.table.evict_idle(world.loop.time() + 11)
    starting.fails = 2
    with pytest.raises(StartFailed):
        await world.ask(starting, "a", "is_started")
    await world.settle()
    assert world.host.table.budget.used_bytes == 0
    assert await world.ask(starting, "a", "is_started")


async def test_memory_is_given_back_to_the_last_byte() -> None:
    world = World(Thing, Starting)
    for round_number, name in itertools.product(range(3), "abc"):
        await world.ask(Thing, name, "put", f"k{round_number}", "x" * 1_000)
        await world.ask(Thing, name, "list")
        if name == "b":
            with pytest.raises(ObjectReset):
                await world.ask(Thing, name, "abort_after_put", "k")
    await world.settle()
    world.evict_idle()
    assert world.host.table.budget.used_bytes == 0
    assert world.host.statistics().activations == 0
    assert world.host.table.is_empty


async def test_a_write_that_is_refused_for_its_size_takes_no_memory() -> None:
    world = World(Thing)
    await world.ask(Thing, "a", "put", "k", 1)
    cache = world.activation(Thing, "a").cache
    used, refused = world.host.table.budget.used_bytes, "x" * 2_000_000
    written = 0
    with pytest.raises(ValueError, match="written in one go"):  # noqa: PT012 - which of the writes is refused does not matter
        for number in range(20):
            cache.write(f"big{number}", encode(refused), refused)
            written += 1
    entries = sum(len(value) for value in cache.values.values() if isinstance(value, str))
    assert entries == written * len(refused)
    assert world.host.table.budget.used_bytes - used == written * (ENTRY_BYTES + len(refused))


async def test_statistics_count_what_happened() -> None:
    world = World(Thing)
    for _ in range(3):
        await world.ask(Thing, "a", "put", "k", random.random())
    with pytest.raises(ObjectReset):
        await world.ask(Thing, "a", "abort_after_put", "k")
    numbers = world.host.statistics()
    assert (numbers.calls, numbers.commits, numbers.resets, numbers.held_messages, numbers.queued_calls) == (4, 3, 1, 0, 0)
