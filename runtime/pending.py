"""What a call returns before its reply has come: a future that is a coroutine too.

Guarantee: it works wherever a coroutine does (`create_task`, task groups, `run_coroutine_threadsafe`, `Runner.run`, anyio), and
wherever a future does, but for `asyncio.wait`, which refuses coroutines and wants tasks. Unlike a coroutine it has begun when
it is made: calls are sent in the order in which they were made, not in which they are awaited, and it may be awaited twice.

Used as if it were the result it raises, and the error says `await`.
Plain `await` goes to the future's own iterator and costs what it costs for any future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from runtime.unawaited import refuse_use

T = TypeVar("T")


class CoroutineFuture(asyncio.Future[T], Coroutine[Any, Any, T]):
    """Driven as a coroutine it waits for itself as a future: it has no state beside the future's."""

    __slots__ = ()

    __name__ = "call"
    """In the representations of tasks."""
    cr_running = False
    cr_frame = None
    """With `cr_suspended` what `inspect.getcoroutinestate` wants, by which anyio knows what it may cancel."""

    @property
    def cr_suspended(self) -> bool:
        return not self.done()

    def send(self, value: Any, /) -> Any:
        return self.__await__().send(value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        """Whoever waited waits no longer: the reply is nobody's."""
        self.close()
        if isinstance(kind, BaseException):
            raise kind
        raise (kind() if value is None else kind(value)).with_traceback(traceback)

    def close(self) -> None:
        if not self.cancel() and not self.cancelled():
            self.exception()  # Retrieved.


refuse_use(CoroutineFuture, "a call")
