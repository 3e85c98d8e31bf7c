"""Every call is answered, by a result or by the error that says what was wrong with it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from typing import Any

import msgspec
import pytest

from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, LOG, Counter, Thing
from tidegate.runtime.errors import (
    BadArguments,
    BadRequest,
    Internal,
    MethodRaised,
    Moved,
    TooLarge,
    UnknownClass,
    UnknownMethod,
)
from tidegate.runtime.limits import REPLY_BYTES_MAX
from tidegate.runtime.wire.protocol import Message, Origin, Request
from tidegate.shard.objects.object import DurableObject


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


# Who and what can be called


@pytest.mark.parametrize("method", ["nothing", "on_start", "alarm", "_put", "__init__", "storage", "id", "abort", "stub", ""])
async def test_what_is_no_public_method_is_unknown(method: str) -> None:
    world = World(Thing)
    with pytest.raises(UnknownMethod, match="put_nothing"):
        await world.ask(Thing, "a", method)
    assert world.host.statistics().activations == 0, "nothing was activated for it"
    await world.ask(Thing, "a", "put_nothing")
    with pytest.raises(UnknownMethod):
        await world.ask(Thing, "a", method)


async def test_an_unknown_class_is_told_with_those_that_are_known() -> None:
    world = World(Thing, Counter)
    with pytest.raises(UnknownClass, match="Counter, Thing") as caught:
        await world.ask("Nothing", "a", "method")
    assert caught.value.outcome == "not_executed"


@pytest.mark.parametrize("name", ["", "x" * 1_025, "é" * 513])
async def test_a_name_out_of_bounds_is_a_bad_request(name: str) -> None:
    with pytest.raises(BadRequest):
        await World(Thing).ask(Thing, name, "put_nothing")


async def test_a_name_may_be_any_text_up_to_1024_bytes() -> None:
    world = World(Thing)
    for name in ("x" * 1_024, "é" * 512, "a/b", "{tag}x", "\0", " "):
        await world.ask(Thing, name, "put", "k", name)
        assert world.durable(Thing, name) == {"k": name}


async def test_a_fault_of_ours_before_a_call_is_delivered_is_the_error_of_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    world = World(Thing)
    monkeypatch.setattr(type(world.host.deadlines), "watch", fault)
    with pytest.raises(Internal):
        await asyncio.wait_for(world.ask(Thing, "a", "put_nothing", deadline_ms=1_000), 1)
    await world.ask(Thing, "a", "put_nothing")


async def test_an_object_of_a_shard_that_is_not_here_has_moved() -> None:
    world = World(Thing)
    world.host.stores = {}
    with pytest.raises(Moved):
        await world.ask(Thing, "a", "put_nothing")


# Results


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Pair:
    left: Point
    when: datetime.datetime


class Results(DurableObject):
    async def get(self, what: str) -> Any:
        return RESULTS[what]

    async def put_and_get(self, what: str) -> Any:
        await self.storage.put("k", 1)
        return RESULTS[what]

    async def raise_odd(self, what: str) -> None:
        raise ODD[what]

    async def mutate(self) -> Any:
        result = [1]
        self.kept = result
        self.storage.put("k", 1)
        asyncio.get_running_loop().call_soon(result.append, 2)
        return result


NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
RESULTS: dict[str, Any] = {
    "none": None, "list": [1, {"a": b"x"}], "struct": Point(1), "dataclass": Pair(Point(2), NOON), "tuple": (1, 2), "text": "é",
    "object": object(), "lambda": [lambda: 1], "large int": [2**70], "surrogate": ["\ud800"],
    "too large": ["x" * REPLY_BYTES_MAX], "largest": ["x" * (REPLY_BYTES_MAX - 100)],
}  # fmt: skip


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ODD: dict[str, Exception] = {
    "unprintable": Unprintable(), "surrogate": ValueError("\ud800"), "many": ValueError(1, 2), "key": KeyError("k"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("none", None), ("list", [1, {"a": b"x"}]), ("struct", {"x": 1}), ("tuple", [1, 2]), ("text", "é"),
        ("dataclass", {"left": {"x": 2}, "when": NOON}),
    ],
)  # fmt: skip
async def test_a_result_crosses_as_messagepack_carries_it(what: str, shown: Any) -> None:
    assert await World(Results).ask(Results, "a", "get", what) == shown


@pytest.mark.parametrize("what", ["object", "lambda", "large int", "surrogate"])
async def test_a_result_that_cannot_be_sent_is_an_error_of_the_method_which_ran(what: str) -> None:
    world = World(Results, auto=False)
    call = world.call(Results, "a", "put_and_get", what)
    await world.settle()
    assert not call.answered, "it is held like any other"
    world.commit()
    assert isinstance(call.error, MethodRaised)
    assert "cannot be sent" in str(call.error)
    assert call.error.outcome == "executed"


async def test_a_result_over_the_limit_of_a_message_is_too_large_and_was_executed() -> None:
    world = World(Results)
    with pytest.raises(TooLarge) as caught:
        await world.ask(Results, "a", "get", "too large")
    assert caught.value.outcome == "executed"
    assert len((await world.ask(Results, "a", "get", "largest"))[0]) > REPLY_BYTES_MAX - 1_000


async def test_a_result_is_a_snapshot_of_the_moment_in_which_it_was_returned() -> None:
    world = World(Results, auto=False)
    call = world.call(Results, "a", "mutate")
    await world.settle()
    world.commit()
    assert await call.reply == [1]


@pytest.mark.parametrize("what", ODD)
async def test_whatever_an_exception_says_of_itself_it_is_answered_and_can_be_sent(what: str) -> None:
    world = World(Results)
    call = world.call(Results, "a", "raise_odd", what)
    await world.settle()
    assert isinstance(call.error, MethodRaised)
    assert msgspec.msgpack.encode(call.error.to_wire())


async def test_a_traceback_crosses_only_in_development() -> None:
    for dev in (False, True):
        with pytest.raises(MethodRaised) as caught:
            await World(Results, dev=dev).ask(Results, "a", "raise_odd", "key")
        assert ("traceback" in caught.value.details) is dev
        assert (caught.value.type, str(caught.value)) == ("KeyError", "'k'")


# Batches


async def test_the_calls_of_one_message_run_in_order_and_one_that_fails_spoils_no_other() -> None:
    world = World(Thing, Counter)
    calls = world.batch(
        (Counter, "a", "plain"), (Thing, "t", "nothing"), (Counter, "a", "plain"), (Thing, "", "put_nothing"),
        (Thing, "t", "get"), (Counter, "b", "plain"), (Counter, "a", "plain"),
    )  # fmt: skip
    await world.settle()
    kinds = [type(call.error) if call.reply.exception() else call.result for call in calls]
    assert kinds == [0, UnknownMethod, 1, BadRequest, BadArguments, 0, 2]


async def test_arguments_that_raise_anything_at_all_spoil_no_other_call_of_the_message() -> None:
    class Picky(DurableObject):
        async def take(self, value: Explosive) -> None: ...

        async def keyword(self, value: int, *, other: int) -> int:
            return value + other

    world = World(Picky, Counter)
    for method, args in (("take", [{"value": 1}]), ("keyword", [1])):
        origin = Origin(b"test", envelope=None, json=False, single=False, requests=2)
        calls = []
        requests = []
        for cls, name, call_args in (("Picky", method, args), ("Counter", "plain", [])):
            number = next(world.numbers)
            calls.append(Call(world.loop))
            world.calls[number] = calls[-1]
            requests.append(Request(number, cls, "a", name, msgspec.Raw(msgspec.msgpack.encode(call_args))))
        world.loop.call_soon(world._handle, Message(origin, requests, []))
        await world.settle()
        assert isinstance(calls[0].error, BadArguments)
        assert isinstance(calls[1].result, int)


@dataclasses.dataclass
class Explosive:
    value: int

    def __post_init__(self) -> None:
        raise KeyError("anything")


# Errors whose text is odd


class Odd(DurableObject):
    kind = ""

    def __init__(self) -> None:
        if Odd.kind == "init":
            raise ODD[self.id.name]

    async def on_start(self) -> None:
        if Odd.kind == "start":
            raise ODD[self.id.name]

    async def run(self, how: str) -> None:
        if how == "section":
            async with self.block_concurrency():
                raise ODD[self.id.name]
        if how == "abort":
            self.abort("\ud800")
        if how == "later":
            await asyncio.sleep(0)
        raise ODD[self.id.name]

    async def take(self, value: OddArgument) -> None: ...


@dataclasses.dataclass
class OddArgument:
    value: str

    def __post_init__(self) -> None:
        raise ODD[self.value]


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("how", ["init", "start", "section", "abort", "later", "argument"])
@pytest.mark.parametrize("dev", [False, True])
async def test_wherever_an_odd_exception_is_raised_the_call_is_answered_by_an_error_that_can_be_sent(
    what: str, how: str, dev: bool
) -> None:
    Odd.kind = how
    world = World(Odd, Counter, dev=dev)
    calls = [
        world.call(Odd, what, "take", {"value": what}) if how == "argument" else world.call(Odd, what, "run", how),
        world.call(Counter, "a", "plain"),
    ]
    await world.settle()
    codes = {"init": "start_failed", "start": "start_failed", "section": "object_reset", "abort": "object_reset"}
    assert calls[0].error.code == codes.get(how, "bad_arguments" if how == "argument" else "exception")
    assert msgspec.msgpack.encode(calls[0].error.to_wire())
    assert calls[1].result == 0
