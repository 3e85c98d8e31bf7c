"""The sync of a commit, by the kernel: it takes the order and says when it is done, so that no thread has to wait.

Guarantee: the end of each sync is told once: by `begin` itself, where that has waited for it, else by `done` on the loop. One
sync at a time.

Of the ways in which Linux offers this, this is the one that containers and old kernels have too (`io_submit`, since 4.18).
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import Any

_REQUESTS = 2


class SyncRefused(Exception):
    """The kernel takes no such order now: somebody has to wait for the disk."""


class KernelSync:
    def __init__(self, loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
        """Raises SyncRefused."""
        try:
            from caio.linux_aio import Context, Operation  # It asks the kernel, and raises where that refuses.

            self._context = Context(max_requests=_REQUESTS)
            os.set_inheritable(self._context.fileno, False)
        except Exception as exc:
            raise SyncRefused(str(exc)) from exc
        self._order = Operation.fdsync
        self._loop = loop
        self._done = done
        self._operation: Any = None
        self._has_ended = False
        self._poll = select.poll()
        self._poll.register(self._context.fileno, select.POLLIN)
        loop.add_reader(self._context.fileno, self._on_readable)

    def begin(self, fd: int, patience_ms: int) -> bool:
        """Whether the sync of what was written to `fd` has ended within that time, which the loop waits: then `done` is not
        called. Raises SyncRefused, and then it has not begun."""
        try:
            operation = self._order(fd)
            submitted = self._context.submit(operation)
        except Exception as exc:
            raise SyncRefused(str(exc)) from exc
        if submitted != 1:
            raise SyncRefused("the order was not taken")
        self._operation, self._has_ended = operation, False
        if self._poll.poll(patience_ms):
            self._look()
        return self._has_ended

    def problem(self) -> Exception | None:
        """With which the sync has ended. (A SystemError without an errno: findings/caio_a_failed_sync_is_a_system_error.sh.)"""
        operation, self._operation = self._operation, None
        assert operation is not None
        assert self._has_ended
        try:
            operation.get_value()
        except Exception as exc:
            return exc
        return None

    def close(self) -> None:
        """Nothing may be in flight."""
        self._loop.remove_reader(self._context.fileno)

    def _look(self) -> None:
        self._context.poll()
        if self._context.process_events(_REQUESTS):
            self._has_ended = True

    def _on_readable(self) -> None:
        self._look()
        if self._has_ended:
            self._done()
