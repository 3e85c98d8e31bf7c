"""A forgotten `await`: awaitables that are used as if they were their values say so.

`if self.storage.get("flag"):` would always be true, and `f"{counter.current()}"` always wrong, without a word.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, Final, NoReturn

_OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "lshift", "rshift", "and", "xor", "or",
)  # fmt: skip
_USES = (
    *_OPERATORS, *(f"r{name}" for name in _OPERATORS), "neg", "pos", "abs", "invert", "round", "int", "float", "complex",
    "index", "lt", "le", "gt", "ge", "bool", "len", "contains", "getitem", "setitem", "delitem", "format",
)  # fmt: skip


_MEMBERS = frozenset(
    name for kind in (dict, list, str, bytes, int, float, datetime) for name in dir(kind) if not name.startswith("_")
)
"""What people ask values for: `self.storage.list().items()`. (A `__getattr__` for every name would slow each attribute down.)"""

NAMED: Final = "_unawaited_as"
"""What an awaitable is called when it is found where a value is expected."""


class Unawaited:
    """What an awaitable holds that is a Struct, so that nothing can write it (see `shard/objects/answered.py`)."""


UNAWAITED: Final = Unawaited()


def not_awaited(what: str) -> str:
    """What is said where a value is expected and an awaitable is found."""
    return f"{what} was not awaited; write `await` in front of the call, as in `await self.storage.get(…)`"


class _Member:
    """An attribute that is missing, and why."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(self._problem)


def refuse_use(kind: type[Any], what: str, *more: str) -> None:
    """Every use of a `kind` as a value raises TypeError, or AttributeError where a value is asked for a member.
    Identity and hash stay: futures and tasks are kept in sets."""

    def use(self: object, *args: object) -> NoReturn:
        raise TypeError(not_awaited(what))

    def truth(self: object) -> bool:
        if sys._getframe(1).f_globals.get("__package__") == "asyncio":
            return True  # It asks whether there is one before it shows a task, since Python 3.14.
        use(self)

    setattr(kind, NAMED, what)
    for name in _MEMBERS:
        if not hasattr(kind, name):
            setattr(kind, name, _Member(f"{name!r}: {not_awaited(what)}"))
    for name in (*_USES, *more):
        setattr(kind, f"__{name}__", truth if name == "bool" else use)
