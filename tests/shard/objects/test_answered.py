"""A forgotten `await`: wherever an awaitable is used in the place of its value, the error says `await`."""

from __future__ import annotations

import asyncio
import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support.host_world import World
from tests.support.storage_world import StorageWorld
from tidegate.runtime.errors import BadArguments, MethodRaised
from tidegate.runtime.wire.pending import CoroutineFuture
from tidegate.shard.loop.done import DONE
from tidegate.shard.loop.task import StorageFuture
from tidegate.shard.objects.answered import Answered
from tidegate.shard.objects.object import DurableObject


@dataclasses.dataclass
class Holder:
    held: Any


class HolderStruct(msgspec.Struct):
    held: Any


WRAPS: dict[str, Callable[[Any], Any]] = {
    "bare": lambda value: value,
    "list": lambda value: [value],
    "dict": lambda value: {"k": value},
    "tuple": lambda value: (1, value),
    "dataclass": Holder,
    "Struct": HolderStruct,
}


COROUTINES: list[Any] = []


class Forgetful(DurableObject):
    def _awaitable(self, what: str) -> Any:
        async def later() -> int:
            return 1

        match what:
            case "get":
                return self.storage.get("n", 0)
            case "list":
                return self.storage.list()
            case "put":
                return self.storage.put("n", 1)
            case "stub call":
                return self.stub(Forgetful, "other").nothing()
            case "future":
                return asyncio.get_running_loop().create_future()
            case "task":
                return asyncio.ensure_future(later())
            case "coroutine":
                COROUTINES.append(later())
                return COROUTINES[-1]
        raise ValueError(what)

    async def answer(self, what: str, wrap: str) -> Any:
        return WRAPS[wrap](self._awaitable(what))

    async def store(self, what: str, wrap: str) -> None:
        self.storage.put("stored", WRAPS[wrap](self._awaitable(what)))

    async def send(self, what: str, wrap: str) -> None:
        await self.stub(Forgetful, "other").take(WRAPS[wrap](self._awaitable(what)))

    async def take(self, anything: Any) -> None:
        self.storage.put("taken", True)

    async def nothing(self) -> None: ...

    async def stored(self) -> Any:
        return await self.storage.get("stored"), await self.storage.get("taken")

    async def itself(self, what: str) -> Any:
        return {"self": self, "storage": self.storage, "stub": self.stub("Forgetful", "other"), "id": self.id}[what]


AWAITABLES = ["get", "list", "put", "stub call", "future", "task", "coroutine"]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("what", AWAITABLES)
async def test_an_awaitable_is_no_result_no_argument_and_no_stored_value_and_the_error_says_await(what: str, wrap: str) -> None:
    world = World(Forgetful)
    for method, expected in (("answer", MethodRaised), ("store", MethodRaised), ("send", MethodRaised)):
        with pytest.raises(expected) as caught:
            await world.ask(Forgetful, "one", method, what, wrap)
        if (method, wrap) != ("store", "tuple"):  # There the tuple is refused before.
            assert "was not awaited; write `await`" in str(caught.value), caught.value
        if method == "send":
            assert caught.value.type == BadArguments.__name__
    while COROUTINES:
        COROUTINES.pop().close()
    assert await world.ask(Forgetful, "one", "stored") == [None, None]
    assert await world.ask(Forgetful, "other", "stored") == [None, None]


@pytest.mark.parametrize("what", ["self", "storage", "stub"])
async def test_an_object_its_storage_and_a_stub_are_no_results_and_asking_a_stub_sends_nothing(what: str) -> None:
    world = World(Forgetful)
    with pytest.raises(MethodRaised, match="cannot carry"):
        await world.ask(Forgetful, "one", "itself", what)
    assert world.host.statistics().calls == 1


USES: list[Callable[[Any], Any]] = [
    lambda value: value + 1, lambda value: 1 + value, lambda value: value - 1, lambda value: value * 2, lambda value: 2 / value,
    lambda value: value == 1, lambda value: value != 1, lambda value: value < 1,
    lambda value: value >= 1, lambda value: not value,
    bool, int, float, str, len, list, "{}".format, operator.index, operator.neg, round, lambda value: divmod(value, 2),
    lambda value: value[0], lambda value: 1 in value, lambda value: f"user:{value}",
    lambda value: "a" + value, lambda value: [*value], lambda value: value | {}, lambda value: operator.setitem(value, 0, 1),
]  # fmt: skip


@pytest.mark.parametrize("use", [pytest.param(use, id=str(number)) for number, use in enumerate(USES)])
def test_a_storage_operation_used_as_its_value_says_await(use: Callable[[Any], Any]) -> None:
    world = StorageWorld()
    world.put("n", 1)
    for awaitable in (world.storage.get("n"), world.storage.get("none"), world.storage.list(), world.storage.put("n", 1)):
        with pytest.raises(TypeError, match="was not awaited; write `await`"):
            use(awaitable)


@pytest.mark.parametrize("member", ["items", "get", "append", "startswith", "isoformat", "real", "decode"])
async def test_a_member_of_the_value_that_is_asked_for_too_early_is_missing_because_of_the_await(member: str) -> None:
    for awaitable in (StorageWorld().storage.list(), StorageFuture(), CoroutineFuture[int]()):
        with pytest.raises(AttributeError, match=f"'{member}': a (call|storage operation) was not awaited; write `await`"):
            getattr(awaitable, member)
        assert not hasattr(awaitable, member)


async def test_a_call_used_as_its_result_says_await_and_is_made_all_the_same() -> None:
    future = CoroutineFuture[int]()
    uses: list[Callable[[Any], Any]] = [
        bool,
        lambda value: value + 1,
        lambda value: value[0],
        len,
        "{}".format,
        int,
        lambda value: value > 1,
    ]
    for use in uses:
        with pytest.raises(TypeError, match="a call was not awaited; write `await`"):
            use(future)
    future.set_result(7)
    assert await future == 7
    assert list(await asyncio.gather(future, future)) == [7, 7]
    assert len({future, CoroutineFuture[int]()}) == 2


async def test_one_that_had_to_be_fetched_says_so_too_and_all_stay_what_asyncio_can_wait_for() -> None:
    future = StorageFuture()
    uses: list[Callable[[Any], Any]] = [bool, lambda value: value + 1, lambda value: value[0], len, "{}".format, int]
    for use in uses:
        with pytest.raises(TypeError, match="was not awaited"):
            use(future)
    asyncio.get_running_loop().call_soon(future.set_result, 7)
    assert list(await asyncio.gather(future, Answered(1), Answered(1), DONE, DONE)) == [7, 1, 1, None, None]
    assert len({DONE, DONE, Answered(1), Answered(1)}) == 3
    assert (
        repr(Answered(1))
        == "<a storage operation was not awaited; write `await` in front of the call, as in `await self.storage.get(…)`>"
    )


async def test_what_is_done_already_belongs_to_no_running_loop_and_is_taken_for_a_coroutine_as_a_value_that_is_answered() -> None:
    assert (asyncio.isfuture(DONE), asyncio.iscoroutine(DONE)) == (False, True)
    assert [await DONE, await asyncio.create_task(DONE), await asyncio.wait_for(DONE, 60)] == [None, None, None]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(DONE)
    assert task.result() is None
    with pytest.raises(RuntimeError, match="closed"):
        DONE.add_done_callback(print)
