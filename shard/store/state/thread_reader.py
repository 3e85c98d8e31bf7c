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
import resource
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import Done, Fetch, Snapshot

READER_THREADS = 4
"""Reads that wait for the disk at the same time. A disk serves several at once; each thread more contends for the interpreter's
lock."""

ANSWERS_PER_TURN = 64
"""A call may begin with each."""

Question = tuple[asyncio.AbstractEventLoop, Snapshot, Fetch, Done]


def look_up(snapshot: Snapshot, fetch: Fetch) -> tuple[Any, Exception | None]:
    """What `done` is to be told. The snapshot is closed then."""
    try:
        return fetch(snapshot), None
    except Exception as exc:
        return None, exc
    finally:
        snapshot.close()


def _faults() -> int:
    """For which this thread has waited for the disk."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


class ThreadReader:
    """A `Reader` for all shards of a worker."""

    def __init__(self, waited: Callable[[float, int], object] = lambda took_s, pages: None) -> None:
        """`waited` is told, by the thread, how long a read took that has waited for so many pages."""
        self._waited = waited
        # A pool of `concurrent.futures` costs twice as much for each read.
        self._tickets: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for a thread that is to look whether something has been asked, False for each that is to end."""
        self._asked: collections.deque[Question] = collections.deque()
        self._asked_first: collections.deque[Question] = collections.deque()
        self._answers: collections.deque[tuple[Done, Any, Exception | None]] = collections.deque()
        self._is_called = False
        """The loop is about to look at the answers."""
        self._threads: list[threading.Thread] = []
        self._closed = False

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
        assert not self._closed
        if not self._threads:
            self._start()
        (self._asked_first if first else self._asked).append((asyncio.get_running_loop(), snapshot, fetch, done))
        if self._tickets.qsize() < READER_THREADS:  # Else one that has not looked yet will find it.
            self._tickets.put(True)

    def _start(self) -> None:
        for number in range(READER_THREADS):
            self._threads.append(threading.Thread(target=self._work, name=f"tidegate-read-{number}", daemon=True))
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while self._tickets.get():
            while (question := self._next()) is not None:
                if self._closed:
                    question[1].close()
                else:
                    self._answer(*question)

    def _next(self) -> Question | None:
        for asked in (self._asked_first, self._asked):
            with contextlib.suppress(IndexError):
                return asked.popleft()
        return None

    def _answer(self, loop: asyncio.AbstractEventLoop, snapshot: Snapshot, fetch: Fetch, done: Done) -> None:
        """In a helper thread. To wake the loop costs more than a read: what comes until it looks, it sees then."""
        began, before = perf_counter(), _faults()
        result, error = look_up(snapshot, fetch)
        if (pages := _faults() - before) > 0:
            self._waited(perf_counter() - began, pages)
        self._answers.append((done, result, error))
        if not self._is_called:
            self._is_called = True
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any longer.
                loop.call_soon_threadsafe(self._tell, loop, context=NEUTRAL)

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_called = False
        for _ in range(ANSWERS_PER_TURN):
            if not self._answers:
                return
            done, result, error = self._answers.popleft()
            try:
                done(result, error)
            except Exception as exc:  # The others are told all the same.
                loop.call_exception_handler({"message": "the answer to a read could not be taken", "exception": exc})
        if self._answers and not self._is_called:
            self._is_called = True
            loop.call_soon(self._tell, loop, context=NEUTRAL)

    def close(self) -> None:
        """Blocks until the reads that have begun are over, and their snapshots closed. The others never begin."""
        self._closed = True
        for _ in self._threads:
            self._tickets.put(False)
        for thread in self._threads:
            thread.join()
