"""What a call held is free when it is answered, and not when the collector comes by, which is rarely."""

from __future__ import annotations

import asyncio
import datetime
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.host_world import World
from tidegate import AlarmInfo, DurableObject
from tidegate.runtime.errors import CallError

HELD: list[weakref.ref[Any]] = []


class Big(msgspec.Struct, weakref=True):
    """An argument; each that is made is remembered."""

    number: int = 0

    def __post_init__(self) -> None:
        HELD.append(weakref.ref(self))
        if self.number < 0:
            raise ValueError("refused")


async def fails(big: Big) -> None:
    await asyncio.sleep(0)
    raise ValueError(big.number)


class Thing(DurableObject):
    failing_start = failing_init = False

    def __init__(self) -> None:
        big = Big()
        if Thing.failing_init:
            raise ValueError(big.number)

    async def on_start(self) -> None:
        big = Big()
        await asyncio.sleep(0)
        if Thing.failing_start:
            raise ValueError(big.number)

    async def alarm(self, info: AlarmInfo) -> None:
        big = Big()
        error = None
        try:
            await asyncio.sleep(0)
            raise ValueError(big.number)
        except ValueError as exc:
            error = exc
            raise error from None

    async def right(self, big: Big) -> int:
        return big.number

    async def right_later(self, big: Big) -> int:
        await asyncio.sleep(0)
        return big.number

    async def gives_back(self, big: Big) -> Any:
        return [1, big.number]

    async def raises(self, big: Big) -> None:
        raise ValueError(big.number)

    async def raises_later(self, big: Big) -> None:
        await asyncio.sleep(0)
        raise ValueError(big.number)

    async def knows_its_task(self, big: Big) -> None:
        task = asyncio.current_task()
        await asyncio.sleep(0)
        raise ValueError(big.number, str(task))

    async def knows_its_error(self, big: Big) -> None:
        error = None
        try:
            raise ValueError(big.number)
        except ValueError as exc:
            error = exc
        await asyncio.sleep(0)
        raise error

    async def chains(self, big: Big) -> None:
        try:
            try:
                raise KeyError(big.number)
            except KeyError as exc:
                inner = exc
                raise RuntimeError("second") from inner
        except RuntimeError as exc:
            outer = exc
            raise LookupError("third") from outer

    async def swallows(self, big: Big) -> int:
        try:
            await asyncio.create_task(fails(big))
        except ValueError:
            pass
        return 1

    async def gathers(self, big: Big) -> None:
        await asyncio.gather(fails(big), fails(big), return_exceptions=False)

    async def groups(self, big: Big) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails(big))
            group.create_task(fails(big))

    async def times_out(self, big: Big) -> None:
        async with asyncio.timeout(0) as scope:
            await asyncio.sleep(1)
            raise ValueError(big, scope)

    async def is_cancelled(self, big: Big) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)
        assert big

    async def exits(self, big: Big) -> None:
        await asyncio.sleep(0)
        raise SystemExit(big.number)

    async def spawns(self, big: Big) -> None:
        self.spawn(fails(big))

    async def breaks(self, big: Big) -> None:
        async with self.block_concurrency():
            await asyncio.sleep(0)
            raise ValueError(big.number)

    async def in_a_section(self, big: Big) -> Any:
        async with self.block_concurrency() as section:
            await asyncio.sleep(0)
            return [big.number, str(section)]

    async def in_a_transaction(self, big: Big) -> Any:
        async with self.storage.transaction() as txn:
            await txn.put("k", 1)
            await asyncio.sleep(0)
            raise ValueError(big.number)

    async def in_a_section_at_once(self, big: Big) -> int:
        async with self.block_concurrency():
            return big.number

    async def in_a_transaction_at_once(self, big: Big) -> int:
        async with self.storage.transaction() as txn:
            await txn.put("k", big.number)
        return big.number

    async def aborts(self, big: Big) -> None:
        await asyncio.sleep(0)
        self.abort(str(big.number))

    async def calls(self, big: Big) -> None:
        await self.stub(Thing, "b").raises_later(big)

    async def cannot_be_sent(self, big: Big) -> Any:
        return {"big": [big, object()]}

    async def asks(self, big: Big) -> int:
        return await self.stub(Thing, "b").right_later(big)

    async def fine(self) -> int:
        return 1


METHODS = [name for name in vars(Thing) if not name.startswith(("_", "failing")) and name not in ("on_start", "alarm", "fine")]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    HELD.clear()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def answered(world: World, method: str, *args: Any) -> None:
    try:
        await world.ask(Thing, "a", method, *args)
    except CallError:
        pass


async def free(world: World) -> bool:
    """Everything the runtime still does for the calls takes a few turns."""
    for _ in range(200):
        if not any(ref() for ref in HELD):
            return bool(HELD)
        await asyncio.sleep(0)
    return False


@pytest.mark.parametrize("number", [1, -1], ids=["taken", "refused"])
@pytest.mark.parametrize("method", METHODS)
async def test_what_a_call_held_is_free_when_it_is_answered(method: str, number: int) -> None:
    world = World(Thing)
    await answered(world, method, {"number": number})
    assert await free(world)


@pytest.mark.parametrize("method", METHODS)
async def test_it_is_free_where_each_call_has_a_task_of_its_own(method: str) -> None:
    world = World(Thing, spare_task=False)
    await answered(world, method, {"number": 1})
    assert await free(world)


@pytest.mark.parametrize("method", METHODS)
async def test_it_is_free_in_an_object_that_has_been_used_before_and_when_the_traceback_crosses(method: str) -> None:
    world = World(Thing, dev=True)
    for _ in range(3):
        await answered(world, method, {"number": 1})
    assert await free(world)


@pytest.mark.parametrize("use", ["get", "put", "section", "stub"])
async def test_who_uses_an_object_that_is_gone_again_and_again_leaves_nothing_in_its_error(use: str) -> None:
    world = World(Thing)
    await world.ask(Thing, "a", "fine")
    kept: Any = world.activation(Thing, "a").instance
    storage, stub = kept.storage, kept.stub(Thing, "b")
    await answered(world, "aborts", {"number": 1})

    async def once(big: Big) -> int:
        try:
            if use == "get":
                await storage.get("k")
            elif use == "put":
                await storage.put("k", big.number)
            elif use == "section":
                async with kept.block_concurrency():
                    pass
            else:
                await stub.fine()
        except CallError as exc:
            caught, length = exc.__traceback__, 0
            while caught is not None:
                caught, length = caught.tb_next, length + 1
            return length
        raise AssertionError("it was taken")

    lengths = [await once(Big()) for _ in range(3)]
    assert len(set(lengths)) == 1
    assert await free(world)


@pytest.mark.parametrize("where", ["failing_start", "failing_init"])
async def test_what_a_start_held_that_failed_is_free(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thing, where, True)
    world = World(Thing)
    await answered(world, "fine")
    assert await free(world)


async def test_what_an_alarm_handler_held_that_failed_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bell(Thing):
        async def ring(self) -> None:
            await self.storage.set_alarm(datetime.timedelta(0))

    world = World(Bell)
    world.host.alarms.start()
    await world.ask(Bell, "a", "ring")
    for _ in range(100):
        if world.host.alarms.rung:
            break
        await asyncio.sleep(0.001)
    assert world.host.alarms.rung == 1
    assert await free(world)


@pytest.mark.parametrize("method", ["in_a_section_at_once", "in_a_transaction_at_once"])
async def test_a_section_that_is_over_holds_no_task_so_that_the_next_call_runs_in_the_same_one(method: str) -> None:
    world = World(Thing)
    await world.ask(Thing, "a", "fine")
    driver = world.host._spare.task._driver
    assert await world.ask(Thing, "a", method, {"number": 7}) == 7
    assert world.host._spare.task._driver is driver
    gc.collect()
    assert await world.ask(Thing, "a", method, {"number": 7}) == 7
    assert not gc.collect()


async def test_a_start_that_is_over_leaves_nothing_to_the_collector() -> None:
    world = World(Thing)
    for name in ("a", "b"):
        gc.collect()
        assert await world.ask(Thing, name, "fine") == 1
        await world.settle()
    assert not gc.collect()
