"""What an operation of storage returns that has nothing to answer, and is over: `put` that need not wait.

A future that is done is awaited in C: that takes a quarter of what the generator of an `Answered` costs, and each write is
awaited.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from tidegate.runtime.wire.pending import CoroutineFuture
from tidegate.runtime.wire.unawaited import not_awaited, refuse_use


class Done(CoroutineFuture[None]):
    """It belongs to a loop that is over, and asyncio takes it for a coroutine, as an `Answered`: there is one for all."""

    __slots__ = ()

    _asyncio_future_blocking = cast("bool", None)
    """By this asyncio knows who is a future."""

    def __repr__(self) -> str:
        return f"<{not_awaited('a storage operation')}>"


refuse_use(Done, "a storage operation", "eq", "ne", "iter", "str")


def _done() -> Done:
    loop = asyncio.BaseEventLoop()
    loop.close()
    done = Done(loop=loop)
    done.set_result(None)
    return done


DONE: Final = _done()
