"""What a storage operation returns that is answered from memory: an awaitable that is already done.

Guarantee: whoever forgets `await` is told so (see `tidegate.runtime.wire.unawaited`).
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from tidegate.runtime.wire.unawaited import UNAWAITED, Unawaited, not_awaited, refuse_use

T_co = TypeVar("T_co", covariant=True)


class Answered(msgspec.Struct, Generic[T_co], gc=False, eq=False):
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


refuse_use(Answered, "a storage operation", "eq", "ne", "iter", "str")
