"""A local handle on a remote object: attribute access makes callables, calling one sends a call.

Used by the clients and inside objects (`self.stub`); whoever sends the calls binds its methods (`Binder`). A stub holds no
connection and no state of the object: it stays usable after any error, and costs as little as the object it names is far.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.runtime.wire.annotations import annotations_of, signature_of
from tidegate.runtime.wire.exceptions import know_home

HOOKS = frozenset({"on_start", "alarm"})
"""Called by the runtime only, never from outside (contract, section 1)."""


ALIASES = "__tidegate_aliases__"
"""The mark of a class whose objects have other names of a class."""


def names_of(cls: type) -> tuple[str, ...]:
    """The names of a class by which its objects are called; a stub that is made from the class takes the first. A class that was
    renamed keeps the names that its objects have: `class Customer(DurableObject, aliases=("Client",))`."""
    aliases: tuple[str, ...] = type.__dict__["__dict__"].__get__(cls).get(ALIASES, ())
    return aliases or (type.__dict__["__name__"].__get__(cls),)  # Whatever its metaclass says.


class Binder(Protocol):
    """Whom a stub asks for its methods: a client, or what makes the calls of an object."""

    def bind(self, class_name: str, name: str, method: str, shape: MethodShape | None) -> Callable[..., Any]:
        """What sends the call each time it is called, with the arguments it is called with. Asynchronous ones return an
        awaitable, synchronous ones the result. Without a shape, arguments are all positional or all keywords."""
        ...


class ObjectHandle:
    """What every stub is: an object's class, its name, and who binds its methods. Made from a class, it knows the methods, binds
    arguments to names and gives results their annotated type; made from a class name, it takes every public name."""

    def __init__(self, binder: Binder, target: type | str, name: str) -> None:
        self._binder = binder
        self._class: type | None
        if isinstance(target, type):
            self._class, self._class_name = target, names_of(target)[0]
        elif isinstance(target, str):
            self._class, self._class_name = None, target
        else:
            raise TypeError(f"a stub is made from a class or the name of one, not from {target!r}")
        if not isinstance(name, str):
            raise TypeError(f"the name of an object is a text, not {name!r} ({type(name).__name__})")
        self._name = name

    def _method(self, attribute: str) -> Callable[..., Any]:
        if attribute.startswith("_"):
            raise AttributeError(f"{attribute} is not public: only methods without a leading underscore can be called")
        if attribute in HOOKS:
            raise AttributeError(f"{attribute} is a hook: only the runtime calls it")
        shape = None if self._class is None else method_shape(self._class, attribute)
        method = self._binder.bind(self._class_name, self._name, attribute, shape)
        self.__dict__[attribute] = method  # The next access does not come here.
        return method

    def __repr__(self) -> str:
        return f"<stub of {self._class_name}/{self._name}>"


def object_of(stub: object) -> tuple[str, str]:
    """The class and the name of the object that it is a stub of. Raises TypeError for what is none."""
    if not isinstance(stub, ObjectHandle):
        raise TypeError(f"this is not the stub of an object: {stub!r}")
    return stub._class_name, stub._name


class Stub(ObjectHandle):
    """`Stub(binder, Counter, "alice").get_unique_number()` calls it."""

    if TYPE_CHECKING:

        def __getattr__(self, attribute: str) -> Callable[..., Any]: ...
    else:
        __getattr__ = ObjectHandle._method


def bind_call(call: Callable[..., Any], class_name: str, name: str, method: str, shape: MethodShape | None) -> Callable[..., Any]:
    """`Binder.bind` for those who have nothing to look up ahead: `call` takes class, name, method, positional and keyword
    arguments, and the type of the result."""
    result_type = Any if shape is None else shape.result_type

    def send(*args: Any, **kwargs: Any) -> Any:
        if args and kwargs and shape is not None:
            args, kwargs = (), shape.by_name(args, kwargs)
        return call(class_name, name, method, args, kwargs, result_type)

    return send


class TermsBinder:
    """Behind a stub whose calls have terms of their own: a timeout, a key. What they are is the client's."""

    def __init__(self, client: Any, terms: object) -> None:
        self._client = client
        self._terms = terms

    def bind(self, class_name: str, name: str, method: str, shape: MethodShape | None) -> Callable[..., Any]:
        send: Callable[..., Any] = self._client.bind(class_name, name, method, shape, self._terms)
        return send


class MethodShape:
    """What a caller must know of a method: the type of its result, and the names of its parameters."""

    def __init__(self, class_name: str, name: str, function: types.FunctionType) -> None:
        self._title = f"{class_name}.{name}"
        self._signature = signature_of(function)
        self.result_type = _result_type(self._title, function)

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Everything as keywords, since the wire carries an array or a map. Raises TypeError where Python would, and
        for parameters that have no name to be called by."""
        try:
            bound = self._signature.bind(None, *args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self._title}: {exc}") from None
        named: dict[str, Any] = {}
        for index, parameter in enumerate(self._signature.parameters.values()):
            if index == 0 or parameter.name not in bound.arguments:
                continue
            value = bound.arguments[parameter.name]
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"{self._title}: `{parameter.name}` can only be passed by position, and a call carries either "
                    "positional or keyword arguments: pass all by position, or give it a name in the method"
                )
            else:
                named[parameter.name] = value
        return named


def _result_type(title: str, function: types.FunctionType) -> Any:
    # The parameters' annotations may name what only the service imports: only the result's is looked at.
    result = annotations_of(function).get("return", Any)
    only_result = types.SimpleNamespace(__annotations__={"return": result})
    try:
        return typing.get_type_hints(only_result, function.__globals__, include_extras=True)["return"]
    except NameError as exc:
        raise TypeError(f"the return annotation of {title} cannot be resolved here: {exc}") from None


@functools.lru_cache(maxsize=4_096)
def method_shape(cls: type, name: str) -> MethodShape:
    """Raises AttributeError for what is not a public method of an object class."""
    function = inspect.getattr_static(cls, name, None)
    if function is None:
        raise AttributeError(f"{cls.__name__} has no method {name}")
    if not isinstance(function, types.FunctionType) or not inspect.iscoroutinefunction(function):
        raise AttributeError(f"{cls.__name__}.{name} cannot be called from outside: only `async def` methods can")
    know_home(cls.__module__)
    return MethodShape(cls.__name__, name, function)
