"""shard/store/state/thread_reader.py: threads that read, each question answered once, nothing touched after the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tidegate.shard.loop.context import CURRENT
from tidegate.shard.store.state.thread_reader import READER_THREADS, ThreadReader, look_up

WAIT_S = 10.0


class WatchedSnapshot:
    """Remembers in which thread it was closed."""

    def __init__(self) -> None:
        self.closed_by: str | None = None

    def get(self, key: bytes) -> bytes | None:
        return key

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Any:
        return iter(())

    def close(self) -> None:
        assert self.closed_by is None, "closed twice"
        self.closed_by = threading.current_thread().name


@pytest.fixture
def reader() -> Iterator[ThreadReader]:
    reader = ThreadReader()
    yield reader
    reader.close()
    assert reading_threads() == []


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tidegate-read-")]


class Asked:
    """One read and its answer."""

    def __init__(self, reader: ThreadReader, fetch: Any, **options: bool) -> None:
        self.snapshot = WatchedSnapshot()
        self.answers: list[tuple[Any, Exception | None]] = []
        self.done = asyncio.Event()
        self.thread = ""
        reader.read(self.snapshot, fetch, self._done, **options)

    def _done(self, result: Any, error: Exception | None) -> None:
        assert self.snapshot.closed_by is not None, "the snapshot is closed before anybody is told"
        assert CURRENT.get(None) is None, "an answer is no object's business"
        self.thread = threading.current_thread().name
        self.answers.append((result, error))
        self.done.set()


async def test_what_is_looked_up_in_a_thread_is_told_on_the_loop(reader: ThreadReader) -> None:
    looked_up_by: list[str] = []

    def fetch(snapshot: Any) -> bytes:
        looked_up_by.append(threading.current_thread().name)
        value: bytes = snapshot.get(b"key")
        return value

    asked = Asked(reader, fetch)
    assert not asked.answers, "in a later turn"
    await asked.done.wait()
    assert asked.answers == [(b"key", None)]
    assert asked.thread == threading.current_thread().name
    assert looked_up_by == [asked.snapshot.closed_by] != [asked.thread]


async def test_a_lookup_that_fails_is_told_and_the_next_one_is_made(reader: ThreadReader) -> None:
    asked = [Asked(reader, lambda snapshot: 1 // 0), Asked(reader, lambda snapshot: 2)]
    for each in asked:
        await each.done.wait()
    result, error = asked[0].answers[0]
    assert result is None
    assert isinstance(error, ZeroDivisionError)
    assert asked[1].answers == [(2, None)]


async def test_no_thread_is_started_before_the_first_read(reader: ThreadReader) -> None:
    assert reading_threads() == []
    asked = Asked(reader, lambda snapshot: None)
    await asked.done.wait()
    assert len(reading_threads()) == READER_THREADS


async def test_several_reads_wait_for_the_disk_at_once_and_begin_in_the_order_of_the_questions(reader: ThreadReader) -> None:
    go, began = threading.Event(), []

    def waiting(number: int) -> Any:
        def fetch(snapshot: Any) -> int:
            began.append(number)
            assert go.wait(WAIT_S)
            return number

        return fetch

    asked = [Asked(reader, waiting(number)) for number in range(READER_THREADS * 2)]
    while len(began) < READER_THREADS:
        await asyncio.sleep(0.001)
    assert sorted(began) == list(range(READER_THREADS))
    go.set()
    for each in asked:
        await each.done.wait()
    assert [each.answers for each in asked] == [[(number, None)] for number in range(READER_THREADS * 2)]


async def test_who_goes_first_does_not_wait_for_those_who_were_asked_before(reader: ThreadReader) -> None:
    go, began = threading.Event(), []

    def noting(name: str) -> Any:
        def fetch(snapshot: Any) -> None:
            began.append(name)
            assert go.wait(WAIT_S)

        return fetch

    asked = [Asked(reader, noting("early")) for _ in range(READER_THREADS)]
    while len(began) < READER_THREADS:
        await asyncio.sleep(0.001)
    asked += [Asked(reader, noting("later")) for _ in range(50)]
    asked += [Asked(reader, noting("first"), first=True) for _ in range(READER_THREADS)]
    go.set()
    for each in asked:
        await each.done.wait()
    assert began == ["early"] * READER_THREADS + ["first"] * READER_THREADS + ["later"] * 50


async def test_close_waits_for_the_reads_that_have_begun_and_the_others_never_begin() -> None:
    reader, go, began = ThreadReader(), threading.Event(), []

    def fetch(snapshot: Any) -> None:
        began.append(threading.current_thread().name)
        assert go.wait(WAIT_S)

    asked = [Asked(reader, fetch) for _ in range(READER_THREADS + 3)]
    while len(began) < READER_THREADS:
        await asyncio.sleep(0.001)
    closing = asyncio.get_running_loop().run_in_executor(None, reader.close)
    await asyncio.sleep(0.01)
    assert not closing.done()
    go.set()
    await closing
    assert len(began) == READER_THREADS
    assert all(each.snapshot.closed_by for each in asked), "no snapshot outlives its reader"
    await asyncio.sleep(0)
    assert [len(each.answers) for each in asked] == [1] * READER_THREADS + [0] * 3


def test_a_loop_that_is_closed_before_the_answer_comes_harms_nothing() -> None:
    reader, go = ThreadReader(), threading.Event()
    snapshot = WatchedSnapshot()

    async def ask() -> None:
        reader.read(snapshot, lambda snapshot: go.wait(WAIT_S), lambda *_: pytest.fail("nobody waits any longer"))

    asyncio.run(ask())
    go.set()
    reader.close()
    assert snapshot.closed_by is not None


def test_what_is_looked_up_at_once_closes_its_snapshot_too() -> None:
    good, bad = WatchedSnapshot(), WatchedSnapshot()
    assert look_up(good, lambda snapshot: snapshot.get(b"k")) == (b"k", None)
    result, error = look_up(bad, lambda snapshot: 1 // 0)
    assert (result, type(error)) == (None, ZeroDivisionError)
    assert good.closed_by == bad.closed_by == threading.current_thread().name
