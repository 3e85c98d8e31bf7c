"""A helper thread for work that blocks, and that must cost little to hand over: the sync of each commit.

Guarantee: `work` runs once for each `give`, in the helper; after it `done` runs on the loop. One piece of work at a time.

A lock wakes the helper and an eventfd the loop: 15 µs from one to the other and back, where a queue and `call_soon_threadsafe`
take 40.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

from tidegate.runtime.descriptors import above_standard


class Handover:
    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, work: Callable[[], None], done: Callable[[], None]) -> None:
        """`work` must not raise."""
        self._loop = loop
        self._work = work
        self._done = done
        self._closing = False
        self._given = threading.Lock()
        self._given.acquire()
        self._done_fd = above_standard(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        loop.add_reader(self._done_fd, self._on_done)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self) -> None:
        self._given.release()
        time.sleep(0)  # It has the interpreter now until it blocks: the disk works while the loop ends its turn. That gains 8 µs.

    def close(self) -> None:
        """Nothing may have been given and not be done."""
        self._closing = True
        self._given.release()
        self._thread.join()
        self._loop.remove_reader(self._done_fd)
        os.close(self._done_fd)

    def _run(self) -> None:
        while self._given.acquire() and not self._closing:
            self._work()
            os.eventfd_write(self._done_fd, 1)

    def _on_done(self) -> None:
        os.eventfd_read(self._done_fd)
        self._done()
