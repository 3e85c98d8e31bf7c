"""Stubs: what they send, what they refuse, what their results are decoded as."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from tidegate.runtime.wire.stub import MethodShape, Stub, bind_call, method_shape

if TYPE_CHECKING:
    from somewhere import Elsewhere  # type: ignore[import-not-found]  # only the service has it


class Item(msgspec.Struct):
    price: int


class Inherited:
    async def inherited(self) -> bytes: ...


class Shop(Inherited):
    limit = 3

    async def buy(self, item: Item, count: int = 1, *, gift: bool = False) -> Item: ...
    async def note(self, *lines: str, **more: str) -> None: ...
    async def first(self, a: int, /, b: int) -> int: ...
    async def untold(self, x): ...  # type: ignore[no-untyped-def]  # untold on purpose
    async def when(self) -> Annotated[datetime.datetime, msgspec.Meta(tz=True)]: ...
    async def foreign_argument(self, x: Elsewhere) -> int: ...
    async def foreign_result(self) -> Elsewhere: ...
    def plain(self) -> int: ...
    async def on_start(self) -> None: ...


class Recorder:
    """A binder that keeps what it was asked to send."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def call(self, *call: Any) -> None:
        self.calls.append(call)

    def bind(self, class_name: str, name: str, method: str, shape: MethodShape | None) -> Callable[..., Any]:
        return bind_call(self.call, class_name, name, method, shape)


@pytest.fixture
def caller() -> Recorder:
    return Recorder()


def test_a_stub_made_from_a_class_sends_its_name_and_the_results_type(caller: Recorder) -> None:
    stub = Stub(caller, Shop, "corner")
    stub.buy(Item(1))
    stub.inherited()
    assert caller.calls == [("Shop", "corner", "buy", (Item(1),), {}, Item), ("Shop", "corner", "inherited", (), {}, bytes)]


def test_a_stub_made_from_a_name_sends_whatever_it_is_given(caller: Recorder) -> None:
    Stub(caller, "Shop", "corner").anything(1, x=2)
    assert caller.calls == [("Shop", "corner", "anything", (1,), {"x": 2}, Any)]


def test_positional_and_keyword_arguments_together_are_bound_to_names(caller: Recorder) -> None:
    Stub(caller, Shop, "s").buy(Item(1), gift=True)
    Stub(caller, Shop, "s").note(a="1", b="2")
    assert [call[3:5] for call in caller.calls] == [((), {"item": Item(1), "gift": True}), ((), {"a": "1", "b": "2"})]


def test_arguments_that_cannot_be_named_are_refused_when_mixed_and_fine_alone(caller: Recorder) -> None:
    stub = Stub(caller, Shop, "s")
    with pytest.raises(TypeError, match=r"Shop\.note: `lines`"):
        stub.note("x", a="1")
    with pytest.raises(TypeError, match=r"Shop\.first: `a`"):
        stub.first(1, b=2)
    with pytest.raises(TypeError, match=r"Shop\.buy: .*unexpected"):
        stub.buy(Item(1), colour="red")
    assert caller.calls == []
    stub.first(1, 2)
    assert caller.calls[0][3:5] == ((1, 2), {})


def test_annotations_are_read_where_they_can_be(caller: Recorder) -> None:
    assert method_shape(Shop, "untold").result_type is Any
    assert method_shape(Shop, "when").result_type == Annotated[datetime.datetime, msgspec.Meta(tz=True)]
    assert method_shape(Shop, "foreign_argument").result_type is int
    with pytest.raises(TypeError, match=r"Shop\.foreign_result.*Elsewhere"):
        method_shape(Shop, "foreign_result")


@pytest.mark.parametrize(
    ("attribute", "why"),
    [
        ("typo", "has no method"),
        ("plain", "async def"),
        ("limit", "async def"),
        ("_private", "not public"),
        ("on_start", "hook"),
        ("alarm", "hook"),
    ],
)
def test_what_cannot_be_called_is_an_attribute_error_that_says_why(caller: Recorder, attribute: str, why: str) -> None:
    with pytest.raises(AttributeError, match=why):
        getattr(Stub(caller, Shop, "s"), attribute)


@pytest.mark.parametrize("name", [5, None, b"corner", ["corner"]])
def test_a_name_that_is_no_text_is_refused_where_it_is_given(caller: Recorder, name: Any) -> None:
    with pytest.raises(TypeError, match="the name of an object is a text"):
        Stub(caller, Shop, name)


@pytest.mark.parametrize("target", [Shop(), None, 5, b"Shop"])
def test_a_target_that_is_neither_a_class_nor_a_name_of_one_is_refused(caller: Recorder, target: Any) -> None:
    with pytest.raises(TypeError, match="made from a class or the name of one"):
        Stub(caller, target, "corner")


def test_a_method_is_made_once_per_stub(caller: Recorder) -> None:
    stub = Stub(caller, Shop, "s")
    assert stub.buy is stub.buy
