"""Writing an object: what a class may look like, and what happens to the arguments of a call (contract, section 1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.support.host_world import World
from tidegate.runtime.errors import BadArguments, UnknownMethod
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.objects.object import DurableObject


@dataclass
class Line:
    article: str
    counts: list[int]


class Shared:
    """A base that is no durable object."""

    async def shared(self) -> str:
        return "shared"


class Shop(Shared, DurableObject):
    async def on_start(self) -> None: ...

    async def order(self, line: Line, /, urgent: bool = False, *more: int, note: str = "", **rest: float) -> list[Any]:
        return [line.article, sum(line.counts), urgent, list(more), note, rest]

    async def must(self, a: int, *, b: int) -> int:
        return a - b

    async def who(self) -> list[str]:
        return [self.id.class_name, self.id.name, str(self.id)]

    async def _private(self) -> None: ...

    @property
    def plain_property(self) -> int:
        raise AssertionError("never looked at")


METHODS = ObjectClass(Shop).methods
TEA = {"article": "tea", "counts": [1, 2]}


def bound(method: str, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same over both codecs."""
    over_messagepack = METHODS[method].arguments(msgspec.Raw(msgspec.msgpack.encode(given)), json=False)
    assert METHODS[method].arguments(msgspec.Raw(json.dumps(given).encode()), json=True) == over_messagepack
    return over_messagepack


def test_public_coroutine_methods_of_the_class_and_its_bases_can_be_called_and_nothing_else() -> None:
    assert set(METHODS) == {"order", "must", "who", "shared"}


@pytest.mark.parametrize("method", ["on_start", "alarm", "_private", "plain_property", "__init__", "spawn", "stub", "abort"])
async def test_hooks_private_methods_and_what_every_object_has_are_unknown_outside(method: str) -> None:
    world = World(Shop)
    with pytest.raises(UnknownMethod):
        await world.ask(Shop, "one", method)


def test_a_public_plain_method_is_refused_when_the_class_is_loaded_and_the_message_says_what_to_do() -> None:
    class Plain(DurableObject):
        def total(self) -> int:
            return 1

    with pytest.raises(AppError, match=r"Plain\.total is a plain `def`; write `async def total`, or name it _total"):
        ObjectClass(Plain)


def test_a_public_generator_and_an_annotation_nobody_can_decode_are_refused_too() -> None:
    class Generator(DurableObject):
        async def numbers(self) -> Any:
            yield 1

    class Unknown(DurableObject):
        async def take(self, what: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037  # unknown on purpose

    for cls in (Generator, Unknown):
        with pytest.raises(AppError, match=cls.__name__):
            ObjectClass(cls)


def test_positional_keyword_default_variable_and_keyword_only_arguments_work_as_in_python() -> None:
    tea = Line("tea", [1, 2])
    assert bound("order", [TEA]) == ((tea,), {})
    assert bound("order", [TEA, True, 7, 8]) == ((tea, True, 7, 8), {})
    assert bound("must", {"b": 1, "a": 2}) == ((), {"a": 2, "b": 1})
    assert bound("who", []) == bound("who", {}) == bound("who", None) == ((), {})


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("order", [{"article": "tea", "counts": [1, "two"]}], r"argument 'line'.*\$\.counts\[1\]"),
        ("order", [{"article": "tea"}], r"argument 'line'.*`counts`"),
        ("order", [TEA, "yes"], "argument 'urgent'.*`bool`"),
        ("order", [TEA, True, 7, "eight"], "argument"),
        ("must", {"a": 1}, r"missing a required.*'b'; it takes \(a: 'int', \*, b: 'int'\)"),
        ("must", {"a": 1, "b": 2, "c": 3}, "unexpected keyword argument 'c'"),
        ("must", [1, 2], "too many positional arguments"),
        ("must", {"a": 1, "b": 2.5}, "argument 'b'"),
        ("must", 3, "neither an array nor a map"),
        ("who", [1], "too many positional arguments"),
    ],
)
def test_an_argument_that_does_not_fit_is_named_with_its_path(method: str, given: Any, message: str) -> None:
    for encode, is_json in ((msgspec.msgpack.encode, False), (msgspec.json.encode, True)):
        with pytest.raises(BadArguments, match=message):
            METHODS[method].arguments(msgspec.Raw(encode(given)), json=is_json)


async def test_a_call_whose_arguments_do_not_fit_has_not_run() -> None:
    world = World(Shop)
    with pytest.raises(BadArguments) as caught:
        await world.ask(Shop, "one", "must", 1, 2, 3)
    assert caught.value.outcome == "not_executed"


async def test_an_object_knows_its_name_its_class_and_both_together() -> None:
    assert await World(Shop).ask(Shop, "alice", "who") == ["Shop", "alice", "Shop/alice"]
