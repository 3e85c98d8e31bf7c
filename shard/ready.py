"""What a storage operation returns that is answered from memory: an awaitable that is already done.

Guarantee: whoever forgets `await` is told so. `if self.storage.get("flag"):` would always be true, and
`f"{self.storage.get('n')}"` always wrong, without a word: every use as the value that it is not raises.
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from runtime.encoding import UNAWAITED, Unawaited, not_awaited

_OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "lshift", "rshift", "and", "xor", "or",
)  # fmt: skip
_USES = (
    *_OPERATORS, *(f"r{name}" for name in _OPERATORS), "neg", "pos", "abs", "invert", "round", "int", "float", "complex",
    "index", "lt", "le", "gt", "ge", "bool", "len", "contains", "getitem", "setitem", "delitem", "format", "call",
)  # fmt: skip


def _unawaited(self: object, *args: object) -> NoReturn:
    raise TypeError(not_awaited("a storage operation"))


def refuse_use(kind: type[Any], *more: str) -> None:
    """Every use of a `kind` as a value raises TypeError. Identity and hash stay: futures and tasks are kept in sets."""
    for name in (*_USES, *more):
        setattr(kind, f"__{name}__", _unawaited)


T_co = TypeVar("T_co", covariant=True)


class Ready(msgspec.Struct, Generic[T_co], gc=False, eq=False):
    """An awaitable that is already done: awaiting it never yields to the event loop. (A Struct is made without running Python
    code: half the price.) Used as if it were its value it says that `await` is missing."""

    value: T_co
    unawaited: Unawaited = UNAWAITED
    """Nothing can be written that holds this: no result, no argument, no stored value."""

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.value
        yield  # type: ignore[unreachable]  # makes this a generator

    def __repr__(self) -> str:
        return f"<{not_awaited('a storage operation')}>"

    # What makes it a coroutine: `self.spawn`, `create_task` and task groups take it.

    def send(self, _: Any, /) -> NoReturn:
        raise StopIteration(self.value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> NoReturn:
        raise kind

    def close(self) -> None:
        pass


refuse_use(Ready, "eq", "ne", "iter", "str")


DONE: Ready[None] = Ready(None)
