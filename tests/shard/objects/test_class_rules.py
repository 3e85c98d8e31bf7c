"""What is wrong with a class is said when it is loaded, all of it at once."""

from __future__ import annotations

import abc
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import pytest

from tests.support.host_world import World
from tidegate import AlarmInfo, DurableObject
from tidegate.runtime.errors import UnknownMethod
from tidegate.shard.objects.methods import AppError, ObjectClass

T = TypeVar("T")


def serve(**members: Any) -> ObjectClass:
    return ObjectClass(type("Thing", (DurableObject,), {"__module__": __name__, **members}))


def problems(**members: Any) -> tuple[str, ...]:
    with pytest.raises(AppError) as caught:
        serve(**members)
    return caught.value.problems


def showing(shown: Callable[..., Any]) -> Callable[[Any], Any]:
    """What `functools.wraps(shown)` does to a function."""
    return functools.wraps(shown)


async def plain(self: Any) -> int:
    return 1


async def with_amount(self: Any, amount: int, note: str = "") -> int:
    return amount


@showing(with_amount)
async def wrapper_of_nothing_else(self: Any) -> int:
    return 1


@showing(with_amount)
async def wrapper_of_request(request: Any) -> int:
    return 1


@showing(with_amount)
async def wrapper_by_position(self: Any, *args: Any) -> int:
    return 1


@showing(with_amount)
async def wrapper_without_self() -> int:
    return 1


@showing(with_amount)
def plain_wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
    return with_amount(self, *args, **kwargs)


async def signed(self: Any) -> int:
    return 1


signed.__signature__ = inspect.signature(with_amount)  # type: ignore[attr-defined]  # which inspect looks for


async def no_self() -> int:
    return 1


async def only_keywords(**fields: Any) -> int:
    return 1


async def typed_first(amount: int) -> int:
    return amount


async def default_first(amount: Any = 1) -> Any:
    return amount


class Dispatched:
    @functools.singledispatchmethod
    async def take(self, value: Any) -> None: ...


class Cached:
    """What a decorator of a library makes of a method."""

    def __init__(self, function: Any) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any) -> None: ...


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (no_self, "Thing.it has no `self`; write `async def it(self, …)`"),
        (only_keywords, "Thing.it has no `self`"),
        (typed_first, "its first parameter is `amount`"),
        (default_first, "its first parameter is `amount=1`"),
        (wrapper_of_nothing_else, "its decorator takes (self) where the method shows (self: 'Any', amount: 'int'"),
        (wrapper_of_request, "write `async def wrapper(self, *args, **kwargs)` there"),
        (wrapper_by_position, "write `async def wrapper(self, *args, **kwargs)` there"),
        (wrapper_without_self, "Thing.it has no `self`"),
        (plain_wrapper, "its decorator makes it a plain `def`; write `async def` for the function that it returns"),
        (staticmethod(plain), "Thing.it is a staticmethod"),
        (classmethod(plain), "Thing.it is a classmethod"),
        (functools.partialmethod(with_amount, 1), "Thing.it is a partialmethod"),
        (functools.partial(with_amount, 1), "Thing.it is a partial"),
        (Dispatched.__dict__["take"], "Thing.it is a singledispatchmethod"),
        (property(plain), "is an `async def` made a property, which cannot be called"),
        (functools.cached_property(plain), "is an `async def` made a property"),
        (functools.lru_cache(plain), "is a _lru_cache_wrapper that a decorator has made of a method"),
        (Cached(plain), "is a Cached that a decorator has made of a method"),
        (lambda self: 1, "Thing.it is a plain `def`; write `async def it`, or name it _it"),
    ],
)
def test_a_public_method_that_could_not_be_called_is_refused_by_name(value: Any, says: str) -> None:
    (problem,) = problems(it=value)
    assert problem.startswith("Thing.it")
    assert says in problem


@pytest.mark.skipif(sys.version_info < (3, 12), reason="marks came with 3.12")
def test_a_plain_function_marked_as_a_coroutine_function_is_taken_for_one() -> None:
    assert "it" in serve(it=inspect.markcoroutinefunction(lambda self: plain(self))).methods  # type: ignore[attr-defined]  # since Python 3.12


async def hook(self: Any) -> None: ...
async def hook_with_info(self: Any, info: Any) -> None: ...
async def hook_with_more(self: Any, info: Any, more: Any) -> None: ...
async def optional(self: Any, info: Any = None, more: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("on_start", no_self, "takes (); write `async def on_start(self)`"),
        ("on_start", hook_with_info, "takes (self, info); write `async def on_start(self)`"),
        ("on_start", lambda self: None, "is a plain `def`; write `async def on_start(self)`"),
        ("on_start", staticmethod(hook), "is a staticmethod, but the runtime calls `on_start`"),
        ("on_start", 5, "is an int, but the runtime calls `on_start`"),
        ("alarm", hook, "takes (self); write `async def alarm(self, info: AlarmInfo)`"),
        ("alarm", hook_with_more, "takes (self, info, more); write"),
        ("alarm", lambda self, info: None, "is a plain `def`; write `async def alarm(self, info: AlarmInfo)`"),
        ("alarm", classmethod(hook_with_info), "is a classmethod, but the runtime calls `alarm`"),
        ("alarm", showing(hook_with_info)(hook), "takes (self); write"),
        ("alarm", 7.30, "is a float, but the runtime calls `alarm`"),
    ],
)
def test_a_hook_that_the_runtime_could_not_call_is_refused(name: str, value: Any, says: str) -> None:
    (problem,) = problems(**{name: value})
    assert problem.startswith(f"Thing.{name} ")
    assert says in problem


def test_hooks_may_have_more_parameters_with_defaults_and_an_inherited_alarm_can_be_taken_away() -> None:
    kept = serve(on_start=optional, alarm=optional)
    assert kept.starts
    assert kept.alarm is optional
    assert ObjectClass(type("Silent", (kept.cls,), {"alarm": None})).alarm is None


def needs(self: Any, name: str) -> None: ...
def needs_nothing(self: Any, name: str = "") -> None: ...
def needs_keyword(self: Any, *, name: str) -> None: ...


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"__init__": needs}, "Thing.__init__ takes (self, name), but an object is made without arguments"),
        ({"__init__": needs_keyword}, "Thing.__init__ takes (self, *, name), but an object is made without arguments"),
        ({"__init__": hook}, "Thing.__init__ is async; what has to be awaited belongs into `async def on_start(self)`"),
        ({"__new__": lambda cls: object.__new__(cls)}, "Thing.__new__: the runtime makes the instances"),
    ],
)
def test_a_class_whose_instances_the_runtime_could_not_make_is_refused(members: dict[str, Any], says: str) -> None:
    (problem,) = problems(**members)
    assert says in problem
    assert "__init__" in serve(__init__=needs_nothing).cls.__dict__


NAMES = ["id", "storage", "stub", "spawn", "block_concurrency", "fetch", "abort", "_activation"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [5, None, plain, property(lambda self: 1), staticmethod(plain), type("Inner", (), {})])
def test_what_would_replace_something_of_every_object_is_refused(name: str, value: Any) -> None:
    (problem,) = problems(**{name: value})
    assert problem == f"Thing.{name} replaces `{name}`, which the runtime gives to every object; choose another name"


@pytest.mark.parametrize("name", NAMES)
def test_slots_and_annotations_of_such_a_name_are_refused_too(name: str) -> None:
    (problem,) = problems(__slots__=(name,))
    assert f"Thing.{name} replaces" in problem
    if sys.version_info < (3, 14):
        (problem,) = problems(__annotations__={name: "Nowhere"})
        assert f"Thing.{name} is annotated, but the runtime gives" in problem


def test_such_a_name_of_a_mixin_is_named_with_the_mixin() -> None:
    class Audited:
        async def storage(self) -> None: ...
        def total(self) -> int:
            return 1

    with pytest.raises(AppError) as caught:
        ObjectClass(type("Thing", (DurableObject, Audited), {}))
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == ["Audited.storage", "Audited.total"]


def test_all_problems_of_a_class_are_said_at_once() -> None:
    async def unresolved(self: Any, value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    told = problems(one=no_self, two=staticmethod(plain), alarm=hook, storage=1, three=unresolved, __init__=needs)
    assert len(told) == 6
    assert all("\n" not in problem for problem in told)


class Deep(Generic[T], DurableObject, abc.ABC):
    """A class of everything that is in order."""

    LIMIT = 5
    Inner = dict

    class Settings: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __getattr__(self, name: str) -> int:
        return 1

    def _helper(self) -> int:
        return 1

    @staticmethod
    def _static() -> int:
        return 1

    @property
    def balance(self) -> int:
        return 1

    async def first(this, amount: int) -> int:  # noqa: N805  # any name will do
        return amount

    async def chained(self: Self, other: T) -> T:
        return other

    async def everything(*args: Any, **kwargs: Any) -> Any:
        return [args[1:], kwargs]

    @functools.wraps(with_amount)
    async def wrapped(self, *args: Any, **kwargs: Any) -> Any:
        return await with_amount(self, *args, **kwargs)

    async def alarm(self, info: AlarmInfo) -> None: ...


async def test_what_is_in_order_is_served_and_called() -> None:
    world = World(Deep)
    assert set(world.classes[0].methods) == {"first", "chained", "everything", "wrapped"}
    assert await world.ask(Deep, "a", "first", 3) == 3
    assert await world.ask(Deep, "a", "everything", 1, "x") == [[1, "x"], {}]
    assert await world.ask(Deep, "a", "wrapped", 7) == 7
    assert await world.ask(Deep, "a", "wrapped", amount=0, raw_args=b"\x81\xa6amount\x08") == 8


@pytest.mark.parametrize(
    ("name", "says"), [("LIMIT", "an int"), ("Inner", "a class"), ("Settings", "a class"), ("balance", "a property")]
)
async def test_who_calls_a_name_that_is_no_method_is_told_what_it_is(name: str, says: str) -> None:
    world = World(Deep)
    with pytest.raises(UnknownMethod, match=f"no public method '{name}' \\(it is {says}"):
        await world.ask(Deep, "a", name)


def test_defaults_and_types_that_cannot_be_shown_are_described_without_them() -> None:
    class Unshown:
        def __repr__(self) -> str:
            raise RuntimeError("not to be seen")

    class Model:
        @classmethod
        def model_validate(cls, value: Any) -> Any: ...
        @classmethod
        def model_json_schema(cls) -> Any:
            raise RuntimeError("no schema")

    async def take(self: Any, model: Any, amount: Any = Unshown()) -> None: ...  # noqa: B008  # made for this

    take.__annotations__["model"] = Model
    described = serve(take=take).describe()["methods"]["take"]
    assert described["signature"] == "(…)"
    assert described["arguments"]["properties"] == {"model": {}, "amount": {}}


def test_a_metaclass_that_misbehaves_is_no_way_around_and_no_crash() -> None:
    class Hiding(type):
        def __dir__(cls) -> Any:
            return []

        def __getattribute__(cls, name: str) -> Any:
            if name == "__mro__":
                return ()
            return super().__getattribute__(name)

    class Raising(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError("not today")

    class Lying(DurableObject, metaclass=Hiding):
        def total(self) -> int:
            return 1

    with pytest.raises(AppError, match=r"Lying\.total is a plain `def`"):
        ObjectClass(Lying)
    with pytest.raises(AppError, match="cannot be looked at: RuntimeError: not today"):
        ObjectClass(types.new_class("Refusing", (DurableObject,), {"metaclass": Raising}))
