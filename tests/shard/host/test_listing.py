"""Pages of objects: all that exist, in order, durable or not, wherever they are; and how many of each class."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from tests.support.cold_world import Actor, ColdWorld, checkpoint
from tests.support.host_world import World
from tidegate.runtime.errors import CallError, ObjectReset, from_wire
from tidegate.runtime.ids import object_key
from tidegate.runtime.wire.wishes import ListAlarms, ListClasses, ListNames, Weigh
from tidegate.shard.core.alarms import ABANDONED_KEY, AlarmInfo, abandoned_now, abandoned_row, to_datetime
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.checkpoints.checkpoint import checkpoint_steps


class Shop(DurableObject):
    async def set(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)

    async def clear(self) -> None:
        await self.storage.delete_all()


class Cart(Shop):
    pass


class Timed(DurableObject):
    async def at(self, after_s: float, relative: bool) -> None:
        after = datetime.timedelta(seconds=after_s)
        await self.storage.set_alarm(after if relative else datetime.datetime.now(datetime.UTC) + after)

    async def alarm(self, info: AlarmInfo) -> None:
        pass


def begin(world: World, wish: ListNames | ListClasses | ListAlarms | Weigh) -> asyncio.Future[dict[str, Any]]:
    future: asyncio.Future[dict[str, Any]] = world.loop.create_future()

    def answered(error: dict[str, Any] | None, result: dict[str, Any] | None) -> None:
        if error is not None:
            future.set_exception(from_wire(error))
        else:
            assert result is not None
            future.set_result(result)

    world.host.listing.begin(wish, answered)
    return future


async def names(world: World, **wish: Any) -> list[str]:
    """Page by page."""
    found: list[str] = []
    page: dict[str, Any] = {"more": True}
    after = wish.pop("after", None)
    while page["more"]:
        page = await begin(world, ListNames(after=after, **wish))
        found += [f"{each['class']}/{each['name']}" for each in page["objects"]]
        assert len(page["objects"]) <= wish.get("limit", 100)
        if page["more"]:
            after = page["objects"][-1]["class"], page["objects"][-1]["name"]
    return found


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_all_objects_are_listed_in_order_whether_in_a_commit_a_memtable_or_the_state(limit: int) -> None:
    world = World(Shop, Cart)
    expected = []
    for number in range(60):
        cls = (Shop, Cart)[number % 2]
        await world.ask(cls, f"n{number * 7 % 60:02}", "set", "k", 1)
        expected.append(f"{cls.__name__}/n{number * 7 % 60:02}")
        if number in (20, 40):
            for store in world.stores.values():
                checkpoint(store)
    world.auto = False
    world.call(Shop, "undurable", "set", "k", 1)
    world.call(Shop, "n00", "clear")
    await world.settle()
    expected = sorted({*expected, "Shop/undurable"} - {"Shop/n00"})
    first = begin(world, ListNames(limit=limit))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not first.done(), "it would reveal what may be lost"
    world.auto = True
    world.commit()
    assert [f"{each['class']}/{each['name']}" for each in (await first)["objects"]] == expected[:limit]
    assert await names(world, limit=limit) == expected
    assert await names(world, class_name="Shop", limit=limit) == [each for each in expected if each.startswith("Shop/")]
    assert await names(world, class_name="Shop", prefix="n1", limit=limit) == [e for e in expected if e.startswith("Shop/n1")]
    assert await names(world, prefix="Cart/n1", limit=limit) == [each for each in expected if each.startswith("Cart/n1")]
    assert await names(world, class_name="Cart", after=("Cart", "n30"), limit=limit) == [
        e for e in expected if "Cart/n30" < e < "D"
    ]
    assert await names(world, class_name="None", limit=limit) == []


async def test_a_page_whose_undurable_part_is_lost_is_refused() -> None:
    world = World(Shop, auto=False)
    world.call(Shop, "a", "set", "k", 1)
    await world.settle()
    page = begin(world, ListNames())
    await world.settle(100)
    world.fail_commit()
    with pytest.raises(ObjectReset):
        await page
    world.auto = True
    assert await names(world) == []


async def test_sizes_are_those_of_keys_and_values_and_small_steps_do_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.listing.SIZED_ROWS", 3)
    world = World(Shop)
    for number in range(10):
        await world.ask(Shop, "a", "set", f"k{number}", "x" * 10)
    page = await begin(world, ListNames(sizes=True))
    assert page == {
        "objects": [{"class": "Shop", "name": "a", "in_memory": True, "keys": 10, "bytes": 10 * (2 + 11)}],
        "more": False,
    }


@pytest.mark.parametrize("cold", [False, True])
async def test_the_heaviest_objects_are_found_part_by_part(monkeypatch: pytest.MonkeyPatch, cold: bool) -> None:
    monkeypatch.setattr("tidegate.shard.host.listing.WEIGHED_ROWS", 4)
    monkeypatch.setattr("tidegate.shard.host.listing.WEIGH_S", 0.0)
    world = ColdWorld()
    sizes = {}
    for number in range(25):
        keys = number * 7 % 25
        await world.fill(f"n{number:02}", {f"k{key:02}": "x" * 10 for key in range(keys)} or {"none": None})
        sizes[f"n{number:02}"] = (keys, keys * (3 + 11)) if keys else (1, 4 + 1)
    for store in world.stores.values():
        checkpoint(store)
        if cold:
            store.reader = world.reader
    found: list[dict[str, Any]] = []
    seen, after, parts = 0, "", 0
    while True:
        answer = begin(world, Weigh("Actor", count=3, after={"0": after} if after else {}))
        while not answer.done():
            world.reader.release()
            await asyncio.sleep(0)
        told = await answer
        found, seen, parts = found + told["objects"], seen + told["seen"], parts + 1
        assert len(told["objects"]) <= 3
        if told["next"] is None:
            break
        after = told["next"]
    assert parts > 5
    assert seen == 25
    best = sorted(found, key=lambda each: -each["bytes"])[:3]
    expected = sorted(sizes, key=lambda name: -sizes[name][1])[:3]
    assert [(each["name"], each["keys"], each["bytes"]) for each in best] == [(name, *sizes[name]) for name in expected]
    assert (await begin(world, Weigh(after={"1": "0."})))["next"] is None, "it has ended before"


async def test_objects_of_a_class_that_the_app_lacks_are_orphans_and_counted() -> None:
    world = World(Shop, Cart)
    for name in "abc":
        await world.ask(Shop, name, "set", "k", 1)
        await world.ask(Cart, name, "set", "k", 1)
    for store in world.stores.values():
        checkpoint(store)
    await world.ask(Cart, "d", "set", "k", 1)
    await world.ask(Shop, "a", "clear")
    world.classes = [each for each in world.classes if each.name == "Cart"]
    world.crash()
    assert await names(world, orphans=True, limit=1) == ["Shop/b", "Shop/c"]
    assert (await begin(world, ListClasses()))["classes"] == {
        "Cart": {"objects": 4, "in_memory": 0, "in_app": True},
        "Shop": {"objects": 2, "in_memory": 0, "in_app": False},
    }


async def test_objects_that_a_checkpoint_moves_while_they_are_counted_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.listing.SLICE_S", -1.0)
    world = World(Shop)
    for number in range(80):
        await world.ask(Shop, f"n{number}", "set", "k", 1)
    last_steps = []
    for store in world.stores.values():
        assert store.freeze()
        steps = checkpoint_steps(store)
        last_steps.append((store, next(step for step in steps if step is not None)))
    counting = begin(world, ListClasses())
    for _ in range(5):
        await asyncio.sleep(0)
    for store, batch in last_steps:
        batch.commit()
        store.drop_frozen()
    assert (await counting)["classes"]["Shop"]["objects"] == 80


async def test_alarms_are_listed_those_due_first_come_first_with_both_clocks_and_those_abandoned() -> None:
    world = World(Shop, Cart, Timed)
    now_ms = world.wall_us() // 1_000
    for name, after_s, relative in (("c", 30, True), ("a", 10, False), ("b", 20, True), ("d", -5, False)):
        await world.ask(Timed, name, "at", after_s, relative)
    shard = world.shard_of("Timed", "gone")
    row = abandoned_row(object_key("Timed", "gone"), abandoned_now("Timed", "gone", to_datetime(5_000_000), "no", 9_000_000))
    world.host.output_gate.write_own(shard, ABANDONED_KEY, *row, wanted=True)
    await world.ask(Shop, "x", "set", "k", 1)
    found = await begin(world, ListAlarms())
    assert [each["name"] for each in found["alarms"]] == ["d", "a", "b", "c"]
    due = [round((each["due_ms"] - now_ms) / 1_000) for each in found["alarms"]]
    assert due[1:] == [10, 20, 30]
    assert due[0] <= 0
    assert [(each["name"], each["error"]) for each in found["abandoned"]] == [("gone", "no")]
    page = await begin(world, ListAlarms(limit=2))
    assert ([each["name"] for each in page["alarms"]], page["more"]) == (["d", "a"], True)
    page = await begin(world, ListAlarms(from_ms=page["alarms"][-1]["due_ms"] + 1))
    assert [each["name"] for each in page["alarms"]] == ["b", "c"]
    assert (await begin(world, ListAlarms("Shop")))["alarms"] == []


async def test_what_is_on_disk_only_is_listed_beside_the_loop() -> None:
    world = ColdWorld()
    for number in range(20):
        await world.fill(f"a{number:02}", {"k": number})
    for store in world.stores.values():
        checkpoint(store)
        store.reader = world.reader
    listing = begin(world, ListNames(sizes=True))
    while not listing.done():
        world.reader.release()
        await asyncio.sleep(0)
    assert [each["name"] for each in (await listing)["objects"]] == [f"a{number:02}" for number in range(20)]
    assert all(each["class"] == Actor.__name__ and each["keys"] == 1 for each in (await listing)["objects"])


@pytest.mark.parametrize("wish", [ListNames(sizes=True), Weigh(), ListClasses()], ids=lambda wish: type(wish).__name__)
async def test_what_a_page_would_have_to_wait_for_is_read_beside_the_loop_and_is_the_same(
    wish: ListNames | Weigh | ListClasses,
) -> None:
    """On a disk that is quick, too, where the loop may wait for single keys."""
    world = ColdWorld()
    for number in range(40):
        await world.fill(f"a{number:02}", {"k": number, "l": 1})
    for store in world.stores.values():
        checkpoint(store)
    for number in range(30, 50):
        await world.fill(f"a{number:02}", {"m": number})
    at_once = await begin(world, wish)
    world.near(waits_at=1)
    if isinstance(wish, ListClasses):
        for store in world.stores.values():
            store.reader = world.reader
    listing = begin(world, wish)
    while not listing.done():
        world.reader.release()
        await asyncio.sleep(0)
    assert await listing == at_once
    assert world.reader.many_pages
    assert all(world.reader.many_pages)


async def test_a_prefix_may_be_longer_than_a_row_is() -> None:
    world = World(Shop)
    stem = "ü" * 230
    expected = [f"Shop/{stem}{rest}" for rest in ("a", "ab", "b")]
    for each in expected[:2]:
        await world.ask(Shop, each.removeprefix("Shop/"), "set", "k", 1)
    for store in world.stores.values():
        checkpoint(store)
    world.auto = False
    world.call(Shop, f"{stem}b", "set", "k", 1)
    await world.settle()
    page = begin(world, ListNames("Shop", f"{stem}b"))
    await world.settle(100)
    world.auto = True
    world.commit()
    assert [each["name"] for each in (await page)["objects"]] == [f"{stem}b"]
    assert sorted(await names(world, class_name="Shop", prefix=stem, limit=1)) == expected
    assert sorted(await names(world, prefix=f"Shop/{stem}a", limit=1)) == expected[:2]
    assert await names(world, class_name="Shop", prefix=f"{stem}ab") == expected[1:2]
    assert await names(world, class_name="Shop", prefix=f"{stem}{'z' * 800}") == []
    key = object_key("Shop", f"{stem}a").hex()
    assert await names(world, prefix=f"Shop/{stem}"[:226] + key) == [], "it is not what rows are made of"


@pytest.mark.parametrize("what", ["ends", "takes over what came meanwhile"])
async def test_a_checkpoint_that_gets_on_while_names_are_read_hides_no_object(what: str) -> None:
    """The rows were read before its last commit, and what it had in memory was gone when they had come."""
    world = ColdWorld()
    for number in range(20):
        await world.fill(f"a{number:02}", {"k": number})
    last_steps = []
    for store in world.stores.values():
        assert store.freeze()
        steps = checkpoint_steps(store)
        batch = next(step for step in steps if step is not None)
        last_steps.append((store, steps, batch))
    for number in range(20, 40):
        await world.fill(f"a{number:02}", {"k": number})
    for store in world.stores.values():
        store.reader = world.reader
    listing = begin(world, ListNames())
    for _ in last_steps:  # One shard after the other.
        while not world.reader.waiting:
            await asyncio.sleep(0)
        for store, steps, batch in last_steps:
            if what != "ends":
                while store.freeze_more(1):
                    pass
            elif store.frozen is not None and store.reads:
                batch.commit()
                assert next(steps, None) is None
                store.drop_frozen()
        world.reader.release()
        await asyncio.sleep(0)
    while not listing.done():
        world.reader.release()
        await asyncio.sleep(0)
    assert [each["name"] for each in (await listing)["objects"]] == [f"a{number:02}" for number in range(40)]
    for _, steps, _ in last_steps:
        steps.close()


@pytest.mark.parametrize("what", ["comes into being", "is deleted", "is lost"])
async def test_what_becomes_durable_after_its_shard_was_looked_at_is_as_it_is_then(what: str) -> None:
    world = ColdWorld()
    first = next(iter(world.stores))
    there, mine = (
        f"{stem}{next(number for number in range(100) if world.shard_of('Actor', f'{stem}{number}') == first)}" for stem in "ab"
    )
    for name in (there, mine)[: 2 if what == "is deleted" else 1]:
        await world.fill(name, {"k": 1})
    for store in world.stores.values():
        checkpoint(store)
    world.auto = False

    async def change(actor: Actor) -> None:
        await (actor.storage.delete_all() if what == "is deleted" else actor.storage.put("k", 1))

    world.act(mine, change)
    await world.settle()
    for store in world.stores.values():
        store.reader = world.reader
    listing = begin(world, ListNames())
    while not world.reader.waiting:
        await asyncio.sleep(0)
    world.reader.release(1)
    while not world.reader.waiting:  # Now it looks at the next shard.
        await asyncio.sleep(0)
    assert not listing.done()
    world.auto = True
    if what == "is lost":
        world.fail_commit()
    else:
        world.commit()
    while not listing.done():
        world.reader.release()
        await asyncio.sleep(0)
    found = [each["name"] for each in (await listing)["objects"]]
    assert found == ([there, mine] if what == "comes into being" else [there])


async def test_a_damaged_shard_is_told() -> None:
    world = World(Shop)
    await world.ask(Shop, "a", "set", "k", 1)
    world.damage(world.shard_of("Shop", "a"))
    with pytest.raises(CallError, match="checksum"):
        await begin(world, ListNames())
