"""The threads in which reads wait for the disk.

They start with the first such read. In all of them together the loop thread loses little: what they do between two lookups
takes microseconds, and a page fault is waited for without the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shard.cold_reads import Done, Fetch, Snapshot
from shard.task import NEUTRAL

READER_THREADS = 4
"""Reads that wait for the disk at the same time. A disk serves several at once; each thread more contends for the interpreter's
lock."""


class ThreadReader:
    """A `Reader` for all shards of a worker. Reads begin in the order in which they were asked."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READER_THREADS, "reads")

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done) -> None:
        self._threads.submit(self._read, asyncio.get_running_loop(), snapshot, fetch, done)

    @staticmethod
    def _read(loop: asyncio.AbstractEventLoop, snapshot: Snapshot, fetch: Fetch, done: Done) -> None:
        result: Any = None
        failure: Exception | None = None
        try:
            result = fetch(snapshot)
        except Exception as exc:
            failure = exc
        finally:
            snapshot.close()
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any longer.
            loop.call_soon_threadsafe(done, result, failure, context=NEUTRAL)

    def close(self) -> None:
        """Blocks until the reads that have begun are over. Those that have not begun never will."""
        self._threads.shutdown(cancel_futures=True)
