"""The threads in which reads wait for the disk.

Guarantee: `done` is called once for each read that has begun, unless the loop is closed. Reads begin in the order in which they
were asked, but for those that go first.

The threads start with the first read. They take little from the loop thread: what they do between two lookups takes
microseconds, and LMDB waits for its pages without the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import queue
import threading
from typing import Any

from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import Done, Fetch, Snapshot

READER_THREADS = 4
"""Reads that wait for the disk at the same time. A disk serves several at once; each thread more contends for the interpreter's
lock."""

Question = tuple[asyncio.AbstractEventLoop, Snapshot, Fetch, Done]


def look_up(snapshot: Snapshot, fetch: Fetch) -> tuple[Any, Exception | None]:
    """What `done` is to be told. The snapshot is closed then."""
    try:
        return fetch(snapshot), None
    except Exception as exc:
        return None, exc
    finally:
        snapshot.close()


class ThreadReader:
    """A `Reader` for all shards of a worker."""

    def __init__(self) -> None:
        # A pool of `concurrent.futures` costs twice as much for each read.
        self._tickets: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for each read that has been asked, False for each thread that is to end."""
        self._asked: collections.deque[Question] = collections.deque()
        self._asked_first: collections.deque[Question] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False) -> None:
        assert not self._closed
        if not self._threads:
            self._start()
        (self._asked_first if first else self._asked).append((asyncio.get_running_loop(), snapshot, fetch, done))
        self._tickets.put(True)

    def _start(self) -> None:
        for number in range(READER_THREADS):
            self._threads.append(threading.Thread(target=self._work, name=f"tidegate-read-{number}", daemon=True))
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while self._tickets.get():
            try:
                question = self._asked_first.popleft()
            except IndexError:
                question = self._asked.popleft()
            if self._closed:
                question[1].close()
            else:
                self.answer(*question)

    @staticmethod
    def answer(loop: asyncio.AbstractEventLoop, snapshot: Snapshot, fetch: Fetch, done: Done) -> None:
        """In a helper thread."""
        result, error = look_up(snapshot, fetch)
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any longer.
            loop.call_soon_threadsafe(done, result, error, context=NEUTRAL)

    def close(self) -> None:
        """Blocks until the reads that have begun are over, and their snapshots closed. The others never begin."""
        self._closed = True
        for _ in self._threads:
            self._tickets.put(False)
        for thread in self._threads:
            thread.join()
