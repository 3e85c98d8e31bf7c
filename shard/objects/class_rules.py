"""What a class must be to be served: found out when it is loaded, not by the first call.

Rule 1: every problem is found in one pass, and each is one line: the place, what is wrong, what to write instead.
Rule 2: what counts is the callable that Python will really call. `functools.wraps` shows the signature of another one.
Rule 3: the class is looked at as it is (`__mro__` and the dictionaries of its bases), not as its metaclass shows it.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.ids import check_object_id
from tidegate.runtime.wire.annotations import signature_of
from tidegate.runtime.wire.stub import HOOKS
from tidegate.shard.objects.object import ALARM, DurableObject

_MRO = type.__dict__["__mro__"]
_DICT = type.__dict__["__dict__"]

RESERVED = frozenset(
    name
    for name in (*_DICT.__get__(DurableObject), *DurableObject.__annotations__)
    if not name.startswith("__") and name not in HOOKS
)  # fmt: skip
"""What the runtime puts into every object."""

_NOT_METHODS = {
    staticmethod: "a staticmethod, which has no object to work on",
    classmethod: "a classmethod, which has no object to work on",
    functools.partialmethod: "a partialmethod, whose signature nobody can see",
    functools.partial: "a partial, which Python does not bind to the object",
    functools.singledispatchmethod: "a singledispatchmethod, which has no one signature",
}

_VALUES = frozenset({"bool", "bytes", "dict", "float", "int", "list", "str"})


def class_name(cls: type) -> str:
    name: str = type.__dict__["__name__"].__get__(cls)
    return name


def a(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def members(cls: type) -> Iterator[tuple[str, type, Any]]:
    """Name, owner and value of everything that instances have by their class, apart from what every object has."""
    seen: set[str] = set()
    for owner in _MRO.__get__(cls):
        if owner in (DurableObject, object):
            continue
        for name, value in _DICT.__get__(owner).items():
            if name not in seen:
                seen.add(name)
                yield name, owner, value


def problems_of(cls: type[DurableObject]) -> list[str]:
    """Everything that is wrong with a class, apart from the annotations of its methods."""
    found: list[str] = []
    if (problem := check_object_id(class_name(cls), "name")) is not None:
        found.append(f"{class_name(cls)}: {problem}; give the class another name")
    for name, owner, value in members(cls):
        where = f"{class_name(owner)}.{name}"
        if name in RESERVED:
            found.append(f"{where} replaces `{name}`, which the runtime gives to every object; choose another name")
        elif name in HOOKS:
            found += _hook_problems(where, name, value)
        elif name == "__init__":
            found += _init_problems(where, value)
        elif name == "__new__" and owner.__module__ not in ("builtins", "typing"):
            found.append(f"{where}: the runtime makes the instances, one for each object; prepare them in __init__ or on_start")
        elif not name.startswith("_"):
            found += _public_problems(where, name, value)
    for owner in _MRO.__get__(cls):
        if owner not in (DurableObject, object):
            for name in sorted(RESERVED & set(annotated(owner)) - set(_DICT.__get__(owner))):
                found.append(f"{class_name(owner)}.{name} is annotated, but the runtime gives `{name}` to every object; choose "
                             "another name")  # fmt: skip
    return found


def annotated(of: Any) -> Any:
    """The annotations of a class's own body, or of a function. Nothing is evaluated."""
    if sys.version_info >= (3, 14):
        import annotationlib  # New there.

        return annotationlib.get_annotations(of, format=annotationlib.Format.FORWARDREF)
    return _DICT.__get__(of).get("__annotations__", {}) if isinstance(of, type) else of.__annotations__


def public_methods(cls: type[DurableObject]) -> Iterator[tuple[str, type, types.FunctionType]]:
    for name, owner, value in members(cls):
        if not name.startswith("_") and name not in HOOKS and isinstance(value, types.FunctionType):
            yield name, owner, value


def what_it_is(cls: type, name: str) -> str:
    """What a public name of a class is that is no method; empty for what is no name of it."""
    value = next((value for known, _, value in members(cls) if known == name and not name.startswith("_")), None)
    if value is None or name in HOOKS:
        return ""
    return "a class" if isinstance(value, type) else f"{a(type(value).__name__)}, not an `async def`"


def _public_problems(where: str, name: str, value: Any) -> list[str]:
    hide = f"name it _{name} if it is not to be called from outside"
    if isinstance(value, types.FunctionType):
        return _method_problems(where, name, value)
    for kind, what in _NOT_METHODS.items():
        if isinstance(value, kind):
            return [f"{where} is {what}; write `async def {name}(self, …)`, or {hide}"]
    getter = value.fget if isinstance(value, property) else value.func if isinstance(value, functools.cached_property) else None
    if getter is not None and inspect.iscoroutinefunction(getter):
        return [f"{where} is an `async def` made a property, which cannot be called; leave the decorator out, or {hide}"]
    if callable(value) and not isinstance(value, type) and "__wrapped__" in getattr(value, "__dict__", ()):
        return [f"{where} is {a(type(value).__name__)} that a decorator has made of a method; decorate it by a function that "
                f"returns an `async def`, or {hide}"]  # fmt: skip
    return []


def _method_problems(where: str, name: str, function: types.FunctionType) -> list[str]:
    hide = f"name it _{name} if it is not to be called from outside"
    wrapped = getattr(function, "__wrapped__", None)
    if inspect.isasyncgenfunction(function):
        return [f"{where} is an async generator; return a list, or {hide}"]
    if not inspect.iscoroutinefunction(function):
        if wrapped is not None and inspect.iscoroutinefunction(inspect.unwrap(function)):
            return [f"{where}: its decorator makes it a plain `def`; write `async def` for the function that it returns, and "
                    "await the method there"]  # fmt: skip
        return [f"{where} is a plain `def`; write `async def {name}`, or {hide}"]
    real = real_signature(function)
    first = next(iter(real.parameters.values()), None)
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        return [f"{where} has no `self`; write `async def {name}(self, …)`"]
    if first.name != "self" and (first.default is not first.empty or _is_of_value(annotated(function).get(first.name))):
        return [f"{where} has no `self`: its first parameter is `{first}`; write `async def {name}(self, {first}, …)`"]
    return [] if wrapped is None else _decorator_problems(where, function, real)


def _is_of_value(annotation: Any) -> bool:
    """Whether it annotates something else than the object itself."""
    if isinstance(annotation, type):
        return not issubclass(annotation, DurableObject)
    return isinstance(annotation, str) and annotation in _VALUES


def _decorator_problems(where: str, function: types.FunctionType, real: inspect.Signature) -> list[str]:
    """A call is checked against the signature that the method shows, and made with that of the decorator's own function."""
    try:
        shown = list(signature_of(function).parameters.values())
    except (TypeError, ValueError) as exc:
        return [f"{where}: its signature cannot be read: {exc}"]
    positional = [each for each in shown if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    required = [each for each in positional if each.default is each.empty]
    named = {each.name for each in shown[1:] if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    only_named = {each.name for each in shown if each.kind is each.KEYWORD_ONLY}
    only_positional = sum(each.kind is each.POSITIONAL_ONLY for each in shown[1:])
    ways = (
        (max(1, len(required)), {each.name for each in shown if each.kind is each.KEYWORD_ONLY and each.default is each.empty}),
        (max(1, len(positional)), only_named),
        (1 + only_positional, named),
    )
    if all(_takes(real, count, names) for count, names in ways):
        return []
    return [f"{where}: its decorator takes {real} where the method shows {signature_of(function)}; write "
            "`async def wrapper(self, *args, **kwargs)` there"]  # fmt: skip


def _hook_problems(where: str, name: str, value: Any) -> list[str]:
    parameters, count = ("(self, info: AlarmInfo)", 2) if name == ALARM else ("(self)", 1)
    if name == ALARM and value is None:  # Takes away an inherited one.
        return []
    right = f"write `async def {name}{parameters}`"
    if not isinstance(value, types.FunctionType):
        return [f"{where} is {a(type(value).__name__)}, but the runtime calls `{name}`; {right}, or choose another name"]
    if not inspect.iscoroutinefunction(value):
        kind = "an async generator" if inspect.isasyncgenfunction(value) else "a plain `def`"
        return [f"{where} is {kind}; {right}"]
    real = real_signature(value)
    return [] if _takes(real, count) else [f"{where} takes {real}; {right}"]


def _init_problems(where: str, value: Any) -> list[str]:
    if not isinstance(value, types.FunctionType):
        return []  # Of a built-in base, or one that the interpreter makes.
    if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        return [f"{where} is async; what has to be awaited belongs into `async def on_start(self)`"]
    real = real_signature(value)
    if _takes(real, 1):
        return []
    return [f"{where} takes {real}, but an object is made without arguments, by its first call; give them defaults, or load "
            "what it needs in on_start"]  # fmt: skip


def real_signature(function: types.FunctionType) -> inspect.Signature:
    """Of the function itself, whatever `__wrapped__` and `__signature__` say."""
    bare = types.FunctionType(function.__code__, {}, function.__name__, function.__defaults__, function.__closure__)
    bare.__kwdefaults__ = function.__kwdefaults__
    return signature_of(bare)


def _takes(signature: inspect.Signature, count: int, names: set[str] | frozenset[str] = frozenset()) -> bool:
    try:
        signature.bind(*[None] * count, **dict.fromkeys(names))
    except TypeError:
        return False
    return True
