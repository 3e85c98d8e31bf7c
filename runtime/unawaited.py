"""A forgotten `await`: awaitables that are used as if they were their values say so.

`if self.storage.get("flag"):` would always be true, and `f"{counter.current()}"` always wrong, without a word.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NoReturn

_OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "lshift", "rshift", "and", "xor", "or",
)  # fmt: skip
_USES = (
    *_OPERATORS, *(f"r{name}" for name in _OPERATORS), "neg", "pos", "abs", "invert", "round", "int", "float", "complex",
    "index", "lt", "le", "gt", "ge", "bool", "len", "contains", "getitem", "setitem", "delitem", "format",
)  # fmt: skip


NAMED: Final = "_unawaited_as"
"""What an awaitable is called when it is found where a value is expected."""


class Unawaited:
    """What an awaitable holds that is a Struct, so that nothing can write it (see `shard/ready.py`)."""


UNAWAITED: Final = Unawaited()


def not_awaited(what: str) -> str:
    """What is said where a value is expected and an awaitable is found."""
    return f"{what} was not awaited; write `await` in front of the call, as in `await self.storage.get(…)`"


def refuse_use(kind: type[Any], what: str, *more: str) -> None:
    """Every use of a `kind` as a value raises TypeError. Identity and hash stay: futures and tasks are kept in sets."""

    def use(self: object, *args: object) -> NoReturn:
        raise TypeError(not_awaited(what))

    def truth(self: object) -> bool:
        if sys._getframe(1).f_globals.get("__package__") == "asyncio":
            return True  # It asks whether there is one before it shows a task, since Python 3.14.
        use(self)

    setattr(kind, NAMED, what)
    for name in (*_USES, *more):
        setattr(kind, f"__{name}__", truth if name == "bool" else use)
