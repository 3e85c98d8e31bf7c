"""Process 1 of a container is the parent of every orphan in it: whatever an app starts and leaves behind. One that has ended, and
whose parent does not ask how, stays in the kernel's table, which is bounded, for as long as the container lives.

Guarantee: as process 1 the service asks, of all but its own children, of which the supervisor wants to know itself. As any other
process it does nothing: orphans are not its own there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Collection

INIT_PID = 1


class Orphans:
    """`ended`, after the death of each own child has been seen, looks for more: its own hides those behind it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, own: Callable[[], Collection[int]], pid: int) -> None:
        """`own`: processes that somebody else here waits for."""
        self._own = own
        self._adopts = pid == INIT_PID
        if self._adopts:
            loop.add_signal_handler(signal.SIGCHLD, self.ended)

    def ended(self) -> None:
        if self._adopts:
            reap(self._own())


def reap(own: Collection[int]) -> list[int]:
    """The orphans that have ended, as far as no child of `own` that has ended too stands before them."""
    reaped = []
    with contextlib.suppress(ChildProcessError):  # There is none at all.
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and found.si_pid not in own:
            os.waitpid(found.si_pid, os.WNOHANG)
            reaped.append(found.si_pid)
    return reaped
