"""What operators wish of one object: carried out behind its gate, durable when it is answered, and nothing comes into being."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import msgspec
import pytest

from tests.support.cold_world import Actor, ColdWorld, checkpoint
from tests.support.host_world import World
from tidegate.runtime.errors import (
    BadRequest,
    CallError,
    DeadlineExceeded,
    Moved,
    ObjectReset,
    Unavailable,
    UnknownClass,
    from_wire,
)
from tidegate.runtime.wire.plain_json import pack, with_values
from tidegate.runtime.wire.wishes import (
    MANY_BYTES_MAX,
    SHOWN_BYTES_MAX,
    CallMethod,
    Condition,
    Delete,
    Evict,
    Get,
    Inspect,
    Load,
    LoadMany,
    LoadOne,
    ObjectWish,
    Put,
    ReadMany,
    Show,
    TurnAlarm,
    digest_of,
)
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.host.many_wishes import AT_ONCE
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.interface import ShardDamaged


class Shop(DurableObject):
    started = 0
    rung: list[str] = []  # noqa: RUF012 - of the running test

    async def on_start(self) -> None:
        Shop.started += 1

    async def set(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)

    async def wake_later(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(hours=1))

    async def hold(self, event_number: int) -> None:
        async with self.storage.transaction():
            await self.storage.put("held", event_number)
            await EVENTS[event_number].wait()

    async def alarm(self, info: AlarmInfo) -> None:
        Shop.rung.append(self.id.name)

    async def boom(self) -> None:
        raise ValueError("no")


EVENTS: list[asyncio.Event] = []


class Wisher:
    """An operator at a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def begin(self, name: str, wish: ObjectWish, *, cls: str = "Shop", timeout_s: float = 5.0) -> asyncio.Future[dict[str, Any]]:
        future: asyncio.Future[dict[str, Any]] = self.world.loop.create_future()

        def answered(error: dict[str, Any] | None, result: dict[str, Any] | None) -> None:
            assert not future.done(), "a wish is answered once"
            if error is not None:
                future.set_exception(from_wire(error))
            else:
                assert result is not None
                future.set_result(with_values(msgspec.to_builtins(result)))  # As a command has it.

        self.world.host.wishes.begin(wish, cls, name, timeout_s, answered)
        return future

    async def ask(self, name: str, wish: ObjectWish, *, cls: str = "Shop", timeout_s: float = 5.0) -> dict[str, Any]:
        return await self.begin(name, wish, cls=cls, timeout_s=timeout_s)


def world_of(**settings: Any) -> tuple[World, Wisher]:
    Shop.started = 0
    Shop.rung.clear()
    EVENTS[:] = [asyncio.Event()]
    world = World(Shop, **settings)
    return world, Wisher(world)


@pytest.mark.parametrize("where", ["in memory", "asleep", "on disk"])
async def test_a_value_is_read_and_changed_wherever_the_object_is_and_none_of_its_code_runs(where: str) -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", [1, {"x": b"y"}])
    if where == "asleep":
        world.evict_idle()
    elif where == "on disk":
        world.crash()
    before = Shop.started
    assert (await wisher.ask("a", Get("k")))["value"] == [1, {"x": {"$bytes": "eQ=="}}]
    result = await wisher.ask("a", Put("k", pack(2), Condition(value=[1, {"x": {"$bytes": "eQ=="}}])))
    assert (result["before"]["value"], result["after"]["value"]) == ([1, {"x": {"$bytes": "eQ=="}}], 2)
    assert world.durable(Shop, "a") == {"k": 2}
    assert Shop.started == before
    assert (await wisher.ask("a", Delete("k")))["deleted"] == 1
    assert world.durable(Shop, "a") == {}
    world.check()


async def test_looking_creates_nothing_and_says_what_is_not_there() -> None:
    world, wisher = world_of()
    for wish in (Get("k"), Show(), Delete("k"), Delete(), Put("k", pack(1))):
        with pytest.raises(BadRequest, match="there is no object Shop/a") as info:
            await wisher.ask("a", wish)
        assert info.value.details == {"missing": True}
    await world.ask(Shop, "b", "set", "k", 1)
    with pytest.raises(BadRequest, match="Shop/b has no key 'x'"):
        await wisher.ask("b", Get("x"))
    with pytest.raises(BadRequest, match="480"):
        await wisher.ask("b", Get("x" * 500))
    assert len(world.host.table) == 1
    assert world.durable(Shop, "a") == {}


async def test_an_object_is_made_only_where_that_is_meant() -> None:
    world, wisher = world_of()
    await wisher.ask("new", Put("k", pack("v"), create=True))
    assert world.durable(Shop, "new") == {"k": "v"}
    assert await world.ask(Shop, "new", "set", "l", 1) is None
    assert world.durable(Shop, "new") == {"k": "v", "l": 1}


async def test_a_condition_that_is_not_met_changes_nothing_and_says_what_is_there() -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", {"a": 1, "b": 2})
    digest = (await wisher.ask("a", Get("k")))["digest"]
    for condition in (Condition(value=5), Condition(digest="0" * 16), Condition(missing=True), Condition(value=None)):
        with pytest.raises(BadRequest, match="nothing was changed") as info:
            await wisher.ask("a", Put("k", pack(3), condition))
        assert info.value.details == {"conflict": True, "digest": digest}
        with pytest.raises(BadRequest, match="nothing was changed"):
            await wisher.ask("a", Delete("k", condition))
    assert world.durable(Shop, "a") == {"k": {"a": 1, "b": 2}}
    await wisher.ask("a", Put("k", pack(3), Condition(value={"b": 2, "a": 1})))  # The order in a dict does not count.
    with pytest.raises(BadRequest):
        await wisher.ask("a", Put("k", pack(4), Condition(value=3.0)))
    with pytest.raises(BadRequest):
        await wisher.ask("a", Put("k", pack(4), Condition(digest=digest)))
    await wisher.ask("a", Put("k", pack(None), Condition(value=3)))
    await wisher.ask("a", Put("k", pack(True), Condition(value=None)))
    await wisher.ask("a", Put("l", pack(1), Condition(missing=True)))
    assert world.durable(Shop, "a") == {"k": True, "l": 1}


async def test_of_many_edits_with_one_condition_one_is_made() -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "n", 0)
    edits = [wisher.begin("a", Put("n", pack(number), Condition(value=0))) for number in range(1, 21)]
    outcomes = await asyncio.gather(*edits, return_exceptions=True)
    assert sum(isinstance(each, dict) for each in outcomes) == 1
    assert all(isinstance(each, dict | BadRequest) for each in outcomes)


async def test_what_cannot_be_stored_is_refused() -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", 1)
    for packed in (pack({"$ext": [5, ""]}), pack("x" * (3 << 20)), pack(1)[:-1], b"\xc1", pack(1) + b"\1", b"\xa1\xff"):
        with pytest.raises(BadRequest, match="cannot have this value"):
            await wisher.ask("a", Put("k", packed))
    assert world.durable(Shop, "a") == {"k": 1}


async def test_what_nests_too_deeply_is_refused_by_name() -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", 1)
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    packed = b"\x91" * 5_000 + b"\x90"
    for wish in (Put("k", packed), Load([("l", packed)], goes_on=True), CallMethod("set", ["k", deep])):
        with pytest.raises(BadRequest, match=r"nest(s|ed) too deeply|recursion"):
            await wisher.ask("a", wish)
    assert world.durable(Shop, "a") == {"k": 1}


async def test_what_is_not_durable_is_seen_and_told_once_it_is() -> None:
    world, wisher = world_of(auto=False)
    world.call(Shop, "a", "set", "k", 1)
    await world.settle()
    shown = wisher.begin("a", Show())
    await world.settle()
    assert not shown.done(), "the answer would reveal what may be lost"
    world.commit()
    page = await shown
    assert [row["value"] for row in page["rows"]] == [1]
    assert page["undurable"]
    changed = wisher.begin("b", Put("k", pack(2), create=True))
    await world.settle()
    assert not changed.done()
    world.commit()
    assert (await changed)["after"]["value"] == 2


@pytest.mark.parametrize("where", ["in memory", "on disk"])
async def test_an_edit_whose_commit_fails_says_so(where: str) -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", 1)
    if where == "on disk":
        world.crash()
    world.auto = False
    changed = wisher.begin("a", Put("k", pack(2)))
    await world.settle()
    world.fail_commit()
    with pytest.raises(ObjectReset, match="could not be made durable"):
        await changed
    world.auto = True
    assert (await wisher.ask("a", Get("k")))["value"] == 1


async def test_a_closed_gate_is_waited_for_and_after_its_time_a_wish_is_not_done_any_more() -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", 1)
    holding = world.call(Shop, "a", "hold", 0)
    await world.settle()
    late, patient = wisher.begin("a", Put("k", pack(2)), timeout_s=0.02), wisher.begin("a", Get("held"))
    with pytest.raises(DeadlineExceeded, match="gate of the object has not let it in") as info:
        await late
    assert info.value.outcome == "not_executed"
    assert not patient.done()
    EVENTS[0].set()
    assert (await patient)["value"] == 0
    await holding.reply
    assert world.durable(Shop, "a") == {"k": 1, "held": 0}


async def test_a_page_ends_at_its_limit_or_where_it_is_large_and_goes_on_behind_its_last_key() -> None:
    world, wisher = world_of()
    for number in range(45):
        await world.ask(Shop, "a", "set", f"p{number:02}", number)
    await world.ask(Shop, "a", "set", "other", 0)
    seen: list[str] = []
    page: dict[str, Any] = {"more": True}
    while page["more"]:
        page = await wisher.ask("a", Show("p", seen[-1] if seen else "", 20))
        assert len(page["rows"]) <= 20
        seen += [row["key"] for row in page["rows"]]
    assert seen == [f"p{number:02}" for number in range(45)]
    for number in range(5):
        await world.ask(Shop, "large", "set", f"k{number}", "x" * 100_000)
    page = await wisher.ask("large", Show())
    assert (len(page["rows"]), page["more"]) == (2, True)
    assert "value" not in page["rows"][0]
    assert page["rows"][0]["bytes"] == 100_005
    page = await wisher.ask("large", Show(whole=True))
    assert len(page["rows"][0]["value"]) == 100_000


@pytest.mark.parametrize("where", ["in memory", "asleep", "on disk"])
async def test_pages_say_whether_they_are_of_one_instant(where: str) -> None:
    world, wisher = world_of()
    for number in range(5):
        await world.ask(Shop, "a", "set", f"k{number}", number)
    if where == "asleep":
        world.evict_idle()
    elif where == "on disk":
        world.crash()

    async def since(after: str) -> int | None:
        return (await wisher.ask("a", Show(after=after, limit=2, whole=True)))["unchanged_since"]

    first = await since("")
    await world.ask(Shop, "b", "set", "k", 1)
    assert [await since("k1"), await since("k3")] == [first, first]
    await world.ask(Shop, "a", "wake_later")
    changed = await since("")
    assert changed is not None
    assert first is not None
    assert changed > first, "an alarm is a change"
    await wisher.ask("a", Put("k4", pack(5)))
    await wisher.ask("a", Put("k4", pack(4)))
    assert await since("k3") != changed, "though it is as it was"
    assert "unchanged_since" not in await wisher.ask("a", Show(whole=True)), "all of it is one page"


async def test_a_page_with_something_that_is_not_durable_is_of_no_instant_that_is_known() -> None:
    world, wisher = world_of(auto=False)
    for number in range(3):
        world.call(Shop, "a", "set", f"k{number}", number)
    await world.settle()
    shown = wisher.begin("a", Show(limit=2, whole=True))
    await world.settle()
    world.commit()
    assert (await shown)["unchanged_since"] is None


async def test_objects_of_a_class_that_the_app_no_longer_has_are_looked_at_and_changed() -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", 1)
    world.classes = []
    world.crash()
    assert (await wisher.ask("a", Get("k")))["value"] == 1
    await wisher.ask("a", Put("k", pack(2)))
    assert world.durable(Shop, "a") == {"k": 2}
    with pytest.raises(UnknownClass, match="no such object"):
        await wisher.ask("b", Put("k", pack(2), create=True))
    world.auto = False
    lost = wisher.begin("a", Put("k", pack(3)))
    await world.settle()
    world.fail_commit()
    with pytest.raises(ObjectReset):
        await lost
    world.auto = True
    await wisher.ask("a", Delete())
    assert world.durable(Shop, "a") == {}
    assert world.host.classes == {}


async def test_many_keys_come_at_once_into_an_object_that_is_new_or_is_to_be_replaced() -> None:
    world, wisher = world_of()
    await wisher.ask("a", Load([("k", pack(1)), ("l", pack({"$bytes": "eQ=="}))]))
    assert world.durable(Shop, "a") == {"k": 1, "l": b"y"}
    with pytest.raises(BadRequest, match="Shop/a exists; nothing was changed"):
        await wisher.ask("a", Load([("m", pack(1))]))
    await wisher.ask("a", Load([("m", pack(1))], goes_on=True))
    assert world.durable(Shop, "a") == {"k": 1, "l": b"y", "m": 1}
    with pytest.raises(BadRequest, match=r"cannot have this: o: "):
        await wisher.ask("a", Load([("n", pack(1)), ("o", b"\xa1")], replace=True))
    assert world.durable(Shop, "a") == {"k": 1, "l": b"y", "m": 1}, "all or none of them"
    await wisher.ask("a", Load([("z", pack(1))], replace=True))
    assert world.durable(Shop, "a") == {"z": 1}
    with pytest.raises(BadRequest, match="was deleted meanwhile"):
        await wisher.ask("b", Load([("z", pack(1))], goes_on=True))
    with pytest.raises(BadRequest, match="22 MiB"):
        await wisher.ask("b", Load([(f"k{number}", pack("x" * (2 << 20 - 1))) for number in range(23)]))
    assert world.durable(Shop, "b") == {}


@pytest.mark.parametrize("where", ["in memory", "on disk"])
async def test_a_scheduled_alarm_is_told_run_now_and_dropped(where: str) -> None:
    world, wisher = world_of()
    world.host.alarms.start()
    far_ms = (world.wall_us() // 1_000) + 3_600_000
    await wisher.ask("a", Load([("k", pack(1))], alarm_ms=far_ms))
    if where == "in memory":
        await world.ask(Shop, "a", "set", "k", 2)
    assert (await wisher.ask("a", Show()))["alarm"] == {"due_ms": far_ms, "retries": 0}
    for wish in (TurnAlarm("run", far_ms - 1), TurnAlarm("drop", far_ms + 1)):
        with pytest.raises(BadRequest, match="has another alarm now") as conflict:
            await wisher.ask("a", wish)
        assert conflict.value.details == {"conflict": True, "due_ms": far_ms}
    assert (await wisher.ask("a", Inspect()))["alarm_due_ms"] == far_ms
    await wisher.ask("a", TurnAlarm("run", far_ms))
    while not Shop.rung:
        await asyncio.sleep(0.001)
    assert Shop.rung == ["a"]
    with pytest.raises(BadRequest, match="has no alarm that is scheduled") as info:
        await wisher.ask("a", TurnAlarm("run"))
    assert info.value.details == {"missing": True}
    await wisher.ask("b", Load([], alarm_ms=far_ms))
    await wisher.ask("b", TurnAlarm("drop"))
    assert (await wisher.ask("b", Show()))["alarm"] is None
    world.host.alarms.stop()


async def test_a_method_is_called_as_callers_do_and_its_error_is_told() -> None:
    world, wisher = world_of()
    assert await wisher.ask("a", CallMethod("set", ["k", {"$bytes": "eQ=="}])) == {"result": None}
    assert world.durable(Shop, "a") == {"k": b"y"}
    with pytest.raises(CallError) as info:
        await wisher.ask("a", CallMethod("boom"))
    assert info.value.details["type"] == "ValueError"
    with pytest.raises(CallError, match="no public method 'nothing'"):
        await wisher.ask("a", CallMethod("nothing"))
    with pytest.raises(BadRequest, match="cannot be sent"):
        await wisher.ask("a", CallMethod("set", [{"$bytes": 1}]))


async def test_an_object_leaves_memory_unless_it_is_at_work() -> None:
    world, wisher = world_of()
    assert await wisher.ask("a", Evict()) == {"evicted": False}
    holding = world.call(Shop, "a", "hold", 0)
    await world.settle()
    with pytest.raises(BadRequest, match="is at work") as info:
        await wisher.ask("a", Evict())
    assert info.value.details == {"busy": True}
    EVENTS[0].set()
    await holding.reply
    started = Shop.started
    assert await wisher.ask("a", Evict()) == {"evicted": True}
    assert len(world.host.table) == 0
    await world.ask(Shop, "a", "set", "k", 1)
    assert Shop.started == started + 1
    world.evict_idle()
    world.check()
    assert await wisher.ask("a", Evict()) == {"evicted": False}


@pytest.mark.parametrize("alive", [False, True])
async def test_a_range_that_would_have_to_be_waited_for_is_read_beside_the_loop(alive: bool) -> None:
    """Though single keys are read by the loop. What comes after that finds its pages in memory."""
    world = ColdWorld()
    wisher = Wisher(world)
    await world.fill("a", {f"k{number}": number for number in range(30)})
    for store in world.stores.values():
        checkpoint(store)
    world.near(waits_at=4)
    if not alive:
        world.crash()
    assert len((await wisher.ask("a", Show(limit=2), cls=Actor.__name__))["rows"]) == 2
    assert world.reader.asked == 0
    asked = wisher.begin("a", Show(limit=20), cls=Actor.__name__)
    while not asked.done():
        world.reader.release()
        await asyncio.sleep(0)
    assert len((await asked)["rows"]) == 20
    assert world.reader.many_pages == [True]


async def test_what_is_on_disk_only_is_read_beside_the_loop() -> None:
    world = ColdWorld()
    wisher = Wisher(world)
    await world.fill("a", {f"k{number}": number for number in range(30)})
    for store in world.stores.values():
        checkpoint(store)
        store.reader = world.reader
    world.crash()
    for wish, expected in ((Get("k1"), 1), (Show(limit=5), 5), (Put("k1", pack(2)), 2)):
        asked = wisher.begin("a", wish, cls=Actor.__name__)
        while not asked.done():
            world.reader.release()
            await asyncio.sleep(0)
        result = await asked
        found = result.get("value", len(result["rows"]) if "rows" in result else result.get("after", {}).get("value"))
        assert found == expected
    assert world.reader.asked >= 6


def begin_many(world: World, wish: ReadMany | LoadMany, timeout_s: float = 5.0) -> asyncio.Future[list[Any]]:
    future: asyncio.Future[list[Any]] = world.loop.create_future()

    def answered(error: dict[str, Any] | None, result: dict[str, Any] | None) -> None:
        assert error is None
        assert result is not None
        future.set_result(with_values(msgspec.to_builtins(result))["pages"])

    world.host.wishes.begin_many(wish, timeout_s, answered)
    return future


def loads(*names: str) -> list[LoadOne]:
    return [LoadOne(f"Shop/{name}", [("k", pack(name)), ("l", pack(1))]) for name in names]


async def test_many_are_made_and_read_at_once_wherever_they_are_each_by_itself() -> None:
    world, _ = world_of()
    names = [f"o{number}" for number in range(30)]
    await world.ask(Shop, "o3", "set", "old", 1)
    made = await begin_many(world, LoadMany(loads(*names)))
    assert [page.get("rows") for page in made] == [2] * 3 + [None] + [2] * 26
    assert made[3]["error"]["conflict"], "it exists"
    assert world.durable(Shop, "o3") == {"old": 1}
    assert world.durable(Shop, "o4") == {"k": "o4", "l": 1}
    assert (await begin_many(world, LoadMany(loads("o3"), replace=True)))[0] == {"rows": 2}
    await world.ask(Shop, "o5", "set", "m", 1)
    pages = await begin_many(world, ReadMany([f"Shop/{name}" for name in (*names, "none")]))
    read = [{row["key"]: row["value"] for row in page["rows"]} for page in pages[:-1]]
    assert read == [{"k": name, "l": 1} | ({"m": 1} if name == "o5" else {}) for name in names]
    assert pages[-1]["error"]["missing"]
    assert await begin_many(world, ReadMany([])) == []
    world.check()


async def test_an_object_of_many_whose_gate_stays_closed_keeps_none_of_the_others() -> None:
    world, _ = world_of()
    await begin_many(world, LoadMany(loads("a", "b")))
    holding = world.call(Shop, "a", "hold", 0)
    await world.settle()
    pages = await begin_many(world, ReadMany(["Shop/a", "Shop/b"]), 0.05)
    assert pages[0]["error"]["code"] == "deadline_exceeded"
    assert len(pages[1]["rows"]) == 2
    EVENTS[0].set()
    await holding.reply


async def test_of_many_no_more_are_read_than_fit_and_the_others_are_left() -> None:
    world, _ = world_of()
    large = [LoadOne(f"Shop/{number}", [("k", pack("x" * (MANY_BYTES_MAX // 4)))]) for number in range(30)]
    assert await begin_many(world, LoadMany(large)) == [{"rows": 1}] * 30, "of those that are made all were sent"
    pages = await begin_many(world, ReadMany([each.object for each in large]))
    found = sum(page is not None for page in pages)
    assert 4 <= found <= 4 + AT_ONCE
    assert all(page is not None for page in pages[:found])


async def test_of_many_those_with_large_values_are_left_to_be_read_by_themselves() -> None:
    world, _ = world_of()
    large = [LoadOne(f"Shop/{number}", [("k", pack("x" * SHOWN_BYTES_MAX)), ("l", pack(number))], 5) for number in range(20)]
    await begin_many(world, LoadMany([*large, *loads("small")]))
    pages = await begin_many(world, ReadMany([*(each.object for each in large), "Shop/small"]))
    assert [(page["rows"], page["more"]) for page in pages[:-1]] == [([], True)] * 20
    assert len(pages[-1]["rows"]) == 2


async def test_a_shard_that_goes_while_a_wish_is_under_way_is_asked_for_elsewhere() -> None:
    world = ColdWorld()
    wisher = Wisher(world)
    await world.fill("a", {"k": 1})
    shard = world.shard_of(Actor.__name__, "a")
    store = world.stores[shard]
    checkpoint(store)
    store.reader = world.reader
    world.crash()
    store = world.stores[shard]
    store.reader = world.reader
    asked = wisher.begin("a", Get("k"), cls=Actor.__name__)
    await asyncio.sleep(0)
    assert world.reader.waiting
    del world.stores[shard]
    world.reader.release()
    store.be_closed()
    with pytest.raises(Moved, match="does not own shard"):
        await asked


async def test_a_shard_that_is_damaged_says_so_to_a_wish() -> None:
    world, wisher = world_of()
    await world.ask(Shop, "a", "set", "k", 1)
    world.evict_idle()
    world.crash()
    shard = world.shard_of("Shop", "a")
    error = ShardDamaged(shard, "read", "file", "a page is damaged", "tidegate repair")

    def fail(*_: object) -> bytes | None:
        raise error

    world.stores[shard].get = fail  # type: ignore[assignment]
    with pytest.raises(Unavailable, match="is stopped"):
        await wisher.ask("a", Get("k"))


def test_the_digest_is_of_the_bytes_that_are_stored() -> None:
    assert digest_of(b"\x01") == digest_of(b"\x01") != digest_of(b"\x02")
    assert len(digest_of(b"")) == 16
