"""Exceptions of methods: written by who raised them, made again where the method was called."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import tidegate.runtime.wire.exceptions as exceptions
from tidegate.runtime.errors import MethodRaised, Overloaded, TidegateError
from tidegate.runtime.limits import (
    EXCEPTION_BYTES_MAX,
    EXCEPTION_CAUSES_MAX,
    EXCEPTION_NAME_MAX,
    EXCEPTION_PARTS_MAX,
    EXCEPTION_TEXT_MAX,
)
from tidegate.runtime.wire.encoding import error_from_raw, exception_for_caller
from tidegate.runtime.wire.exceptions import know_home, line_of, register_exception
from tidegate.runtime.wire.protocol import encode, encode_json
from tidegate.shard.objects.refusals import method_raised

MADE: list[str] = []


class SoldOut(Exception):
    """Its constructor must not run when it comes back."""

    def __init__(self, article: str, left: int = 0) -> None:
        super().__init__(f"{article} is sold out")
        self.article, self.left = article, left
        MADE.append(article)


class Worse(SoldOut, LookupError):
    class Worst(TidegateError):
        pass


@dataclasses.dataclass
class Declared(Exception):
    code: int
    when: datetime.datetime


class Slotted(Exception):
    __slots__ = ("left",)


class Refusing(ValueError):
    def __new__(cls, *args: Any) -> Refusing:
        MADE.append("new")
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        MADE.append(name)
        super().__setattr__(name, value)


def cross(error: BaseException, *, dev: bool = False) -> Exception:
    """One hop."""
    return exception_for_caller(error_from_raw(encode(method_raised(error, dev=dev).to_wire())))


def raised(error: Exception, cause: BaseException | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as exc:
        return exc


NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
WHOLE: list[Exception] = [
    SoldOut("tea", 3), Worse("milk"), Worse.Worst("x"), Declared(7, NOON), ValueError(), ValueError("a", 1), KeyError("k"),
    KeyError(1), KeyError(b"k"), OSError(2, "gone", "name"), ConnectionResetError("x"),
    UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad"),
    asyncio.QueueFull("x"), TimeoutError(), ImportError("no", name="n", path="p"), Refusing("x"),
    ArithmeticError([1, {"a": None}]),
]  # fmt: skip


@pytest.mark.parametrize("error", WHOLE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("hops", [1, 2, 5])
def test_an_exception_that_is_known_here_comes_back_whole_and_no_code_of_its_class_runs(error: Exception, hops: int) -> None:
    MADE.clear()
    seen = error
    for _ in range(hops):
        seen = cross(seen)
    assert type(seen) is type(error)
    assert (seen.args, str(seen), seen.__dict__) == (error.args, str(error), error.__dict__)
    if isinstance(error, OSError):
        assert (seen.errno, seen.filename) == (error.errno, error.filename)  # type: ignore[attr-defined]  # of the class that was sent
    if isinstance(error, ImportError):
        assert (seen.name, seen.path) == ("n", "p")  # type: ignore[attr-defined]  # of the class that was sent
    assert MADE == []
    assert isinstance(seen.__cause__, MethodRaised)
    assert seen.__cause__.type == type(error).__name__


def test_notes_on_an_exception_cross_with_it() -> None:
    error = SoldOut("tea")
    error.add_note("on Monday")
    assert cross(error).__notes__ == ["on Monday"]


def local() -> type[Exception]:
    class Local(Exception):
        pass

    return Local


class Lookalike(Exception):
    pass


Lookalike.__qualname__ = "SoldOut"
Lookalike.__module__ = "nowhere"


def strange(name: str) -> Exception:
    made: type[Exception] = type(name, (Exception,), {"__module__": "nowhere.at_all"})
    return made("first")


PARTLY: list[Exception] = [
    SoldOut("tea", decimal.Decimal(3)), SoldOut("tea", (1, 2)), Declared(7, datetime.datetime(2026, 1, 1)), Slotted("x"),  # type: ignore[arg-type]  # wrong on purpose
    local()("first"), Lookalike("x"), strange("Strange"), Overloaded("full"), SoldOut("\ud800"),
    SoldOut("x" * EXCEPTION_BYTES_MAX),
    StopAsyncIteration("x"), Exception.__new__(local(), object()),
]  # fmt: skip


@pytest.mark.parametrize("error", PARTLY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("hops", [1, 2, 5])
def test_what_is_not_known_or_not_whole_keeps_its_first_name_and_text_over_many_hops(error: Exception, hops: int) -> None:
    first = cross(raised(error, OSError("disk")))
    seen = first
    for _ in range(hops - 1):
        seen = cross(seen)
    assert type(seen) is MethodRaised
    assert seen.type == type(error).__name__
    assert seen.message == str(first)
    assert seen.details == first.details  # type: ignore[attr-defined]  # of a MethodRaised
    assert seen.outcome == "executed"


def test_a_built_in_exception_whose_arguments_cannot_cross_comes_back_with_its_text() -> None:
    seen = cross(ValueError(decimal.Decimal("1.5")))
    assert (type(seen), seen.args) == (ValueError, ("1.5",))


def test_the_cause_crosses_as_text_once_whatever_the_number_of_hops() -> None:
    error = raised(SoldOut("tea"), raised(LookupError("shelf"), OSError("disk")))
    for _ in range(3):
        error = cross(error)
        assert isinstance(error.__cause__, MethodRaised)
        assert error.__cause__.cause == "LookupError: shelf, caused by OSError: disk"
    again = cross(raised(ValueError("more"), error))
    assert again.__cause__.cause == "SoldOut: tea is sold out, caused by LookupError: shelf, caused by OSError: disk"  # type: ignore[union-attr]  # it has one


def test_a_group_shows_its_parts_and_is_a_group_again() -> None:
    inner = ExceptionGroup("inner", [KeyError("k")])
    group = ExceptionGroup("two failed", [SoldOut("tea"), strange("Strange"), inner])
    seen = cross(cross(group))
    assert isinstance(seen, ExceptionGroup)
    assert seen.message == "two failed"
    assert [type(part).__name__ for part in seen.exceptions] == ["SoldOut", "MethodRaised", "ExceptionGroup"]
    parts: Any = seen.exceptions
    assert (parts[1].type, str(parts[1])) == ("Strange", "first")
    assert parts[2].exceptions[0].args == ("k",)
    text = method_raised(group, dev=False).message
    parts = "SoldOut: tea is sold out; Strange: first; ExceptionGroup: inner (1 sub-exception): KeyError: 'k'"
    assert text == f"two failed (3 sub-exceptions): {parts}"
    with pytest.raises(ExceptionGroup) as caught:
        raise seen
    assert caught.value.subgroup(SoldOut) is not None


def test_a_group_of_many_or_deep_is_bounded() -> None:
    deep: Exception = ValueError("x")
    for _ in range(50):
        deep = ExceptionGroup("deep", [deep])
    many = ExceptionGroup("many", [ValueError("y" * EXCEPTION_TEXT_MAX)] * 1_000)
    for error in (deep, many):
        seen = cross(error)
        assert isinstance(seen, (ExceptionGroup, MethodRaised))
        assert len(encode(method_raised(error, dev=False).to_wire())) < EXCEPTION_BYTES_MAX * 5
    few = cross(ExceptionGroup("few", [ValueError("y")] * (EXCEPTION_PARTS_MAX + 1)))
    assert isinstance(few, MethodRaised), "not whole, so not itself"
    assert few.message.endswith("ValueError: y; and 1 more")


def test_text_name_and_chain_of_causes_are_bounded() -> None:
    error = raised(strange("N" * 10_000).with_traceback(None))
    for _ in range(100):
        error = raised(type("N" * 10_000, (Exception,), {})("x" * 1_000_000), error)
    wire = method_raised(error, dev=True).to_wire()
    assert len(wire["type"]) == EXCEPTION_NAME_MAX
    assert wire["message"].endswith(f"… ({1_000_000 - EXCEPTION_TEXT_MAX} characters more)")
    assert wire["cause"].count("caused by") < EXCEPTION_CAUSES_MAX
    assert len(encode(wire)) < 6 * EXCEPTION_TEXT_MAX


def test_a_name_with_line_breaks_is_one_line() -> None:
    error = type("Fine\n12:00:00 ERROR  forged\x1b[2J", (Exception,), {})("text")
    assert line_of(error) == "Fine\\n12:00:00 ERROR  forged\\x1b[2J: text"


# Exceptions that misbehave


class OddClass(type):
    def __getattribute__(cls, name: str) -> Any:
        raise SystemExit("no")


class OddHash(type):
    def __hash__(cls) -> int:
        raise SystemExit("no")

    __eq__ = __getattribute__ = __hash__  # type: ignore[assignment, misc]  # wrong on purpose


class Text(str):
    def __getitem__(self, key: Any) -> Any:
        raise SystemExit("no")

    encode = isascii = __len__ = __format__ = __getitem__  # type: ignore[assignment]  # wrong on purpose


def says(how: Any) -> Any:
    def __str__(self: Any) -> Any:  # noqa: N807  # it is one
        if isinstance(how, str):
            return how
        raise how

    return __str__


def lie(self: Any) -> Any:
    raise SystemExit("no")


def recursive(self: Any) -> str:
    return str(self) + "x"


LIES = ("args", "__dict__", "__cause__", "__class__", "__traceback__")
ODD: dict[str, Exception] = {
    "class": OddClass("Odd", (Exception,), {})("x"),
    "hash": OddHash("Odd", (Exception,), {})("x"),
    "text": type("Odd", (Exception,), {"__str__": says(Text("text"))})(),
    "no text": type("Odd", (Exception,), {"__str__": says(1)})(),
    "exit": type("Odd", (Exception,), {"__str__": says(SystemExit()), "__repr__": says(SystemExit())})(),
    "cancelled": type("Odd", (Exception,), {"__str__": says(asyncio.CancelledError())})(),
    "keyboard": type("Odd", (Exception,), {"__str__": says(KeyboardInterrupt())})(),
    "recursion": type("Odd", (Exception,), {"__str__": recursive})(),
    "everything": type("Odd", (Exception,), {name: property(lie) for name in LIES})(),
    "reduce": type("Odd", (Exception,), {"__reduce__": lie, "__reduce_ex__": lie, "__getstate__": lie})(),
    "module": type("Odd", (Exception,), {"__module__": 7})(),
    "itself": ValueError(),
    "keys": type("Odd", (Exception,), {})(),
    "groups": type("Odd", (ExceptionGroup,), {"exceptions": property(lie)})("g", [ValueError()]),
}  # fmt: skip
ODD["itself"].args = (ODD["itself"], [ODD["itself"]])
ODD["keys"].__dict__[1] = {None: 1.5, b"x": 2}  # type: ignore[index]  # wrong on purpose
for one, other in (("itself", "keys"), ("keys", "itself")):
    ODD[one].__cause__ = ODD[other]


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("dev", [False, True])
def test_whatever_an_exception_does_when_it_is_asked_it_crosses_as_something(what: str, dev: bool) -> None:
    for error in (ODD[what], raised(ValueError("x"), ODD[what]), ExceptionGroup("g", [ODD[what]])):
        wire = method_raised(error, dev=dev).to_wire()
        assert encode_json(wire)
        assert isinstance(cross(error, dev=dev), Exception)
        assert wire["code"] == "exception"


# Which class it is here


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    kept = (dict(exceptions._registered), dict(exceptions._names), set(exceptions._homes), dict(sys.modules))
    yield
    tables: list[Any] = [exceptions._registered, exceptions._names]
    for now, before in zip(tables, kept, strict=False):
        now.clear()
        now.update(before)
    exceptions._homes.clear()
    exceptions._homes.update(kept[2])
    for name in sys.modules.keys() - kept[3].keys():
        del sys.modules[name]


def module(name: str, **contents: Any) -> types.ModuleType:
    made = sys.modules[name] = types.ModuleType(name)
    made.__dict__.update(contents)
    return made


def wire(module: Any, qualname: Any, **others: Any) -> Exception:
    details = {"code": "exception", "message": "m", "type": str(qualname), "module": module, "qualname": qualname, "args": ["a"]}
    return exception_for_caller(error_from_raw(encode({**details, **others})))


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        ("os", "system"), ("builtins", "eval"), ("builtins", "SystemExit"), ("builtins", "KeyboardInterrupt"),
        ("builtins", "int"),
        ("builtins", "StopIteration"), ("subprocess", "Popen"), ("antigravity", "X"), ("tidegate.runtime.errors", "Overloaded"),
        ("tidegate.runtime.errors", "TidegateError.__subclasses__"), ("", ""), (None, None), (7, b"x"), ("os", "error.__class__"),
        ("tests.runtime.wire.test_exceptions", "Alias"), ("asyncio", "CancelledError"), ("lazy", "Error"),
        ("not_a_module", "Error"),
    ],
)  # fmt: skip
def test_nothing_is_imported_or_called_because_the_wire_says_so(module: Any, qualname: Any) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("an attribute of a lazy module imports it")

    sys.modules["lazy"] = Lazy("lazy")
    sys.modules["not_a_module"] = types.SimpleNamespace(Error=SoldOut)  # type: ignore[assignment]  # as it is called
    before = set(sys.modules)
    assert type(wire(module, qualname)) is MethodRaised
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "odd", [{"args": 7}, {"args": {"a": 1}}, {"attributes": [1]}, {"attributes": {"args": 1, "__class__": 2}}, {"parts": 3},
            {"parts": [1]}, {"parts": [{}]}, {"cause": 7}, {"args": None}, {"type": None}, {"message": [1]}, {"traceback": {}}]
)  # fmt: skip
def test_an_odd_error_map_is_some_exception(odd: dict[str, Any]) -> None:
    for qualname in ("SoldOut", "ExceptionGroup"):
        assert isinstance(wire(__name__ if qualname == "SoldOut" else "builtins", qualname, **odd), Exception)


def test_the_wrong_number_of_arguments_is_no_error_of_the_caller() -> None:
    assert type(wire("builtins", "UnicodeDecodeError")) is MethodRaised


class ShopError(Exception):
    pass


def test_a_class_is_found_in_the_module_of_a_stub_s_class_whatever_the_service_calls_that_module() -> None:
    here = type("SoldOut", (Exception,), {"__module__": "pkg.app", "__qualname__": "SoldOut"})
    module("pkg.app", SoldOut=here)
    module("other.app", SoldOut=type("SoldOut", (Exception,), {"__module__": "other.app", "__qualname__": "SoldOut"}))
    assert type(wire("app", "SoldOut")) is MethodRaised, "any module of that name would be a guess"
    know_home("pkg.app")
    assert type(wire("app", "SoldOut")) is here
    know_home("other.app")
    assert type(wire("app", "SoldOut")) is MethodRaised, "which of the two?"


def test_a_class_is_found_beside_the_module_of_a_stub_s_class_too() -> None:
    here = type("NoStock", (Exception,), {"__module__": "pkg.errors", "__qualname__": "NoStock"})
    module("pkg.errors", NoStock=here)
    assert type(wire("errors", "NoStock")) is MethodRaised
    know_home("pkg.app")
    assert type(wire("errors", "NoStock")) is here


def test_a_program_that_is_the_app_s_file_itself_finds_its_own_classes() -> None:
    main = sys.modules["__main__"]
    here = type("ShopError", (Exception,), {"__module__": "__main__", "__qualname__": "ShopError"})
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["__main__"].__dict__.update(__file__="/srv/shop/shop.py", ShopError=here)
    try:
        assert type(wire("shop", "ShopError")) is here
        assert type(wire("other", "ShopError")) is MethodRaised
    finally:
        sys.modules["__main__"] = main


def test_an_exception_can_be_registered_under_a_name_that_both_sides_know() -> None:
    there = register_exception(local(), name="shop.SoldOut")
    error = method_raised(there("x"), dev=False)
    assert (error.details["module"], error.details["qualname"]) == ("shop", "SoldOut")
    exceptions._registered.clear()

    @register_exception(name="shop.SoldOut")
    class Here(Exception):
        pass

    assert type(wire("shop", "SoldOut")) is Here
    with pytest.raises(ValueError, match=r"another exception is registered as shop\.SoldOut"):
        register_exception(SoldOut, name="shop.SoldOut")


def test_a_module_that_is_loaded_again_registers_its_exceptions_again() -> None:
    kinds = [register_exception(local(), name="shop.SoldOut") for _ in range(2)]
    assert type(wire("shop", "SoldOut")) is kinds[1]


def test_a_registered_class_of_a_function_comes_back_as_itself() -> None:
    kind = register_exception(local())
    assert type(cross(kind("x"))) is kind


@pytest.mark.parametrize("kind", [int, KeyboardInterrupt, StopIteration, Overloaded, "SoldOut"])
def test_only_exceptions_that_can_cross_are_registered(kind: Any) -> None:
    with pytest.raises(TypeError):
        register_exception(kind, name="x")(kind)
