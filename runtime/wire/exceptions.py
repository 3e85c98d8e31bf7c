"""Exceptions that cross from one process to another: how they are written, and which class of this process they are here.

Rule 1: nothing is imported, and no code of an app runs, because the wire says so. The class is one that was registered here, or
        one of its name in a module that is imported already; it derives from Exception; it is made by the built-in class that
        it derives from, never by its own constructor.
Rule 2: an exception comes back whole, with all its arguments and attributes, or not as itself.
Rule 3: what an exception says of itself is asked of Python, not of its class: names, arguments and attributes cannot misbehave,
        and whatever its text raises is caught.
"""

from __future__ import annotations

import ast
import builtins
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar, overload

from tidegate.runtime.errors import CallError, MethodRaised, sendable
from tidegate.runtime.limits import EXCEPTION_CAUSES_MAX, EXCEPTION_NAME_MAX, EXCEPTION_PARTS_MAX, EXCEPTION_TEXT_MAX

ExceptionT = TypeVar("ExceptionT", bound=Exception)

_BUILTIN = frozenset(kind for kind in builtins.__dict__.values() if isinstance(kind, type) and issubclass(kind, BaseException))
_UNRAISABLE = (StopIteration, StopAsyncIteration, GeneratorExit)
"""Python gives these a meaning of its own when they leave a coroutine."""

_CUT_MAX = 64
"""Characters that say how much was cut."""

_registered: dict[tuple[str, str], type[Exception]] = {}
_names: dict[type, tuple[str, str]] = {}
_homes: set[str] = set()
"""Modules of this process that belong to the app: of object classes that stubs were made of, of registered exceptions."""


@overload
def register_exception(kind: type[ExceptionT], /, *, name: str | None = None) -> type[ExceptionT]: ...
@overload
def register_exception(*, name: str) -> Callable[[type[ExceptionT]], type[ExceptionT]]: ...
def register_exception(kind: type[Exception] | None = None, /, *, name: str | None = None) -> Any:
    """A class decorator: the exception comes back as itself where it was raised by a method. Not needed for a class that is
    found by its module and name on both sides. `name`, as "shop.SoldOut", where these differ: the same on both sides."""
    if kind is None:
        return lambda kind: register_exception(kind, name=name)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, (CallError, *_UNRAISABLE)):
        raise TypeError(f"{kind!r} is no exception that can cross; register classes that derive from Exception")
    module, _, qualname = name.rpartition(".") if name is not None else (_of(kind, "__module__"), "", _of(kind, "__qualname__"))
    if not qualname:
        raise ValueError("the name of an exception is not empty")
    other = _registered.get((module, qualname), kind)
    if (_of(other, "__module__"), _of(other, "__qualname__")) != (_of(kind, "__module__"), _of(kind, "__qualname__")):
        raise ValueError(f"another exception is registered as {module}.{qualname}")
    _registered[module, qualname] = kind
    _names[kind] = (module, qualname)
    know_home(_of(kind, "__module__"))
    return kind


def know_home(module: str) -> None:
    """A module of this process in which the app's classes are, by whatever name the service knows it."""
    _homes.add(module)


# What an exception says of itself


def _of(kind: type, name: str) -> str:
    text = type.__dict__[name].__get__(kind)
    return plain(text) if isinstance(text, str) else ""


def plain(text: str) -> str:
    """The text itself, not a subclass that misbehaves, and no more of it than can be sent."""
    rest = str.__len__(text) - EXCEPTION_TEXT_MAX
    if rest <= _CUT_MAX:  # What was cut once is not cut again.
        return sendable(str.__getitem__(text, slice(None)))
    return f"{sendable(str.__getitem__(text, slice(0, EXCEPTION_TEXT_MAX)))}… ({rest} characters more)"


def name_of(error: BaseException) -> str:
    """The name of its class, in one line."""
    name: str = type.__dict__["__name__"].__get__(type(error))[:EXCEPTION_NAME_MAX]
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def text_of(error: BaseException) -> str:
    """What an exception says, if it can say anything."""
    try:
        return plain(str(error))
    except BaseException:
        return "an exception whose text cannot be made"


def line_of(error: BaseException) -> str:
    return f"{name_of(error)}: {text_of(error)}"


def story_of(error: BaseException, depth: int) -> str:
    """What it says; of a group also what its parts say."""
    parts = parts_of(error) if depth else ()
    told = "; ".join(f"{name_of(part)}: {story_of(part, depth - 1)}" for part in parts[:EXCEPTION_PARTS_MAX])
    if len(parts) > EXCEPTION_PARTS_MAX:
        told += f"; and {len(parts) - EXCEPTION_PARTS_MAX} more"
    return plain(f"{text_of(error)}: {told}") if told else text_of(error)


def address_of(error: BaseException) -> tuple[str, str]:
    """Module and qualified name by which the class is found elsewhere."""
    kind = type(error)
    return _names.get(kind) or (_of(kind, "__module__"), _of(kind, "__qualname__"))


def contents_of(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that make it, and its attributes. Raises whatever it may for what is not made as exceptions are."""
    base = _builtin_base(type(error))
    for kind in _mro(type(error)):
        if kind not in _mro(base) and type.__dict__["__dict__"].__get__(kind).get("__slots__"):
            raise TypeError("it has attributes that are not in its __dict__")
    state = base.__reduce__(error)
    attributes = state[2] if len(state) > 2 and state[2] else {}
    return state[1], attributes  # type: ignore[return-value]  # that is how exceptions are pickled


def parts_of(error: BaseException) -> tuple[BaseException, ...]:
    """Of an ExceptionGroup."""
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    parts: tuple[BaseException, ...] = BaseExceptionGroup.__dict__["exceptions"].__get__(error)
    return parts


def cause_of(error: BaseException) -> str:
    """The exceptions that it was raised from, as text."""
    lines = []
    seen = error
    for _ in range(EXCEPTION_CAUSES_MAX):
        cause = BaseException.__dict__["__cause__"].__get__(seen)
        if cause is None:
            break
        if issubclass(type(cause), MethodRaised) and cause.type == name_of(seen):  # It came from elsewhere, by this.
            lines += [cause.cause] if cause.cause else []
            break
        lines.append(line_of(cause))
        seen = cause
    return plain(", caused by ".join(lines))


# Back again


def rebuild(error: MethodRaised) -> Exception | None:
    """The exception that the method raised, if it is one here; None otherwise."""
    details = error.details
    kind = _find(details.get("module", "builtins"), details.get("qualname", error.type))
    if kind is None:
        return None
    args = details.get("args")
    try:
        if isinstance(details.get("parts"), list):
            args = [*args, [_part(part) for part in details["parts"]]] if isinstance(args, list) else None
        if not isinstance(args, list):  # It could not be carried.
            return _by_message(kind, error.message) if kind in _BUILTIN else None
        return _make(kind, args, details.get("attributes") or {})
    except Exception:  # Other arguments than its base takes.
        return None


def _find(module: Any, qualname: Any) -> type[Exception] | None:
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    kind = _registered.get((module, qualname)) or _in_module(module, qualname)
    if kind is None:
        last = module.rpartition(".")[2]
        elsewhere = {home for home in _homes if home.rpartition(".")[2] == last} | {"__main__"} & {_main_for(last)}
        elsewhere |= {f"{package}.{module}" for home in _homes if (package := home.rpartition(".")[0])}  # Beside the app's file.
        found = {kind for home in elsewhere if (kind := _in_module(home, qualname)) is not None}
        kind = found.pop() if len(found) == 1 else None
    return kind


def _main_for(stem: str) -> str:
    """The program that runs here, if it is the file which the service has loaded under this name."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return "__main__" if isinstance(path, str) and path.rpartition("/")[2] == f"{stem}.py" else ""


def _in_module(module: str, qualname: str) -> type[Exception] | None:
    place: Any = sys.modules.get(module)
    if not isinstance(place, types.ModuleType):
        return None
    held = object.__getattribute__(place, "__dict__")  # Never `getattr`, for which a module may import something.
    for name in qualname.split("."):
        place = held.get(name)
        if not isinstance(place, type):
            return None
        held = type.__dict__["__dict__"].__get__(place)
    found: type = place
    if not issubclass(found, Exception) or issubclass(found, (CallError, *_UNRAISABLE)) or _of(found, "__qualname__") != qualname:
        return None
    return found


def _builtin_base(kind: type) -> type[BaseException]:
    return next(base for base in _mro(kind) if base in _BUILTIN)


def _mro(kind: type) -> tuple[type, ...]:
    mro: tuple[type, ...] = type.__dict__["__mro__"].__get__(kind)
    return mro


def _make(kind: type[Exception], args: list[Any], attributes: dict[str, Any]) -> Exception:
    base = _builtin_base(kind)
    raised = base.__new__(kind, *args)
    base.__init__(raised, *args)
    for name, value in attributes.items():
        slot: Any = base.__dict__.get(name)
        if hasattr(slot, "__set__"):  # ImportError keeps its `name` in a place of its own.
            slot.__set__(raised, value)
        else:
            BaseException.__dict__["__dict__"].__get__(raised)[name] = value
    assert isinstance(raised, Exception)
    return raised


def _by_message(kind: type[Exception], message: str) -> Exception:
    return kind(_key_of(message) if kind is KeyError else message)


def _key_of(message: str) -> Any:
    """The text of a KeyError is the repr of its key; raised as it is, the quotes would double."""
    try:
        return ast.literal_eval(message)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return message


def _part(details: Any) -> Exception:
    """One of the exceptions in a group."""
    part = MethodRaised(str(details.get("message", "")), details=details)
    return rebuild(part) or part


def raised_by_caller(error: MethodRaised) -> Exception:
    """What to raise where the method was called."""
    raised = rebuild(error)
    if raised is None:
        return error
    BaseException.__dict__["__cause__"].__set__(raised, error)
    return raised
