"""An end that comes in time, whatever code of others makes of a cancellation.

A cancellation is asked for once, and may be lost: `asyncio.wait_for` of Python 3.11 forgets one that meets the end of what it
waits for, and nats-py catches some (`findings/nats_py_publish_swallows_a_cancellation.sh`). Whoever then waits for the task, as
`asyncio.run` does at its end and a task for another one, waits for ever. So here it is asked for again and again, and not
waited for without end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeAlias, TypeVar

from tidegate.runtime.lookup import aside

PATIENCE_S = 0.5
"""What wants to end in order has this time before it is cancelled again."""
PAUSE_S = 0.02
END_S = 2.0
"""After that what has not ended is left as it is."""

log = logging.getLogger("tidegate")
T = TypeVar("T")
AnyTask: TypeAlias = "asyncio.Task[Any]"


async def end(tasks: Iterable[AnyTask], within_s: float = END_S, patience_s: float = PATIENCE_S) -> set[AnyTask]:
    """Cancels them until they have ended; returns those that have not in that time. What they raise is nobody's affair."""
    left = {task for task in tasks if not task.done()}
    now = asyncio.get_running_loop().time
    until, pause_s = now() + within_s, patience_s
    while left and now() < until:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=min(pause_s, max(0.0, until - now())))
        for task in ended:
            if not task.cancelled():
                task.exception()
        pause_s = PAUSE_S
    return left


async def within(limit_s: float, what: Coroutine[Any, Any, T]) -> T:
    """What it returns or raises. Raises TimeoutError where it has not ended by then: it is cancelled, and waited for only so long
    as `end` waits. So it is where the caller is cancelled."""
    return await while_it_goes_on(lambda: 0, limit_s, what)


async def while_it_goes_on(steps: Callable[[], int], limit_s: float, what: Coroutine[Any, Any, T]) -> T:
    """As `within`, of what may take as long as it likes while `steps` grows: raises TimeoutError where it has not for `limit_s`,
    and before twice that."""
    task = asyncio.get_running_loop().create_task(what)
    before = -1
    try:
        while not task.done() and (now := steps()) != before:
            before = now
            await asyncio.wait({task}, timeout=limit_s)
    finally:
        if not task.done():
            await end({task})
    if not task.done() or task.cancelled():
        raise TimeoutError
    return task.result()


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, but that what does not end when it is cancelled is named in the log and left behind, and no thread is
    waited for. One that looks up a name ends with the process; for what was given to an executor the interpreter waits when it
    ends."""
    loop = _Loop()
    asyncio.set_event_loop(loop)
    try:
        try:
            return loop.run_until_complete(main)
        finally:
            if left := loop.run_until_complete(end(asyncio.all_tasks(loop))):
                log.warning("left behind at the end, for they do not end: %s", ", ".join(sorted(map(repr, left))))
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def look_up(*question: Any) -> Any:
    """As `socket.getaddrinfo`, for who may be cancelled and for a loop that may be closed meanwhile."""
    return await asyncio.wrap_future(aside(partial(socket.getaddrinfo, *question)))


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up aside, for whoever connects in it."""

    async def getaddrinfo(self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        return await look_up(host, port, family, type, proto, flags)
