"""shard/store/state/residency.py: what of a real file is in memory, and who reads it then."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tidegate.shard.store.state.lmdb_state as state_module
import tidegate.shard.store.state.residency as residency_module
from tidegate.shard.store.state.disk_waits import READS_KEPT, WAIT_S_MAX, DiskWaits
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.residency import (
    PAGE,
    PROBE_WHOLE_PAGES,
    PROBE_WINDOWS,
    WINDOW_PAGES,
    Residency,
    Sample,
    Warmer,
    Watch,
    look_at,
    memory_available_bytes,
    read_in,
    windows,
)
from tidegate.shard.store.state.thread_reader import ThreadReader
from tidegate.shard.store.store import NotInMemory, ShardStore

PAGES = 400


def pages_on_disk(path: Path, phase: float = 0.0) -> int:
    return look_at(path, phase).on_disk


def drop(path: Path) -> None:
    """Out of memory with it. A file that somebody has mapped, and read through the map, stays."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    if pages_on_disk(path) == 0:
        pytest.skip("this file system keeps its files in memory")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shards" / "0000" / "data.mdb"
    path.parent.mkdir(parents=True)
    path.write_bytes(os.urandom(PAGES * PAGE))
    return path


# Asking the kernel


def test_a_file_that_was_just_written_is_in_memory_and_one_that_was_dropped_is_not(file: Path) -> None:
    assert pages_on_disk(file) == 0
    drop(file)
    assert pages_on_disk(file) == PAGES


def test_asking_reads_nothing_in(file: Path) -> None:
    drop(file)
    for _ in range(3):
        assert pages_on_disk(file) == PAGES


def test_a_single_page_that_is_not_in_memory_is_found(file: Path) -> None:
    drop(file)
    fd = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # Nothing is read beside what is asked for.
        for page in range(PAGES):
            if page != 100:
                os.pread(fd, PAGE, page * PAGE)
    finally:
        os.close(fd)
    assert look_at(file) == (PAGES, 1)


def test_an_empty_file_is_in_memory_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert pages_on_disk(tmp_path / "empty") == 0
    with pytest.raises(OSError, match="missing"):
        pages_on_disk(tmp_path / "missing")


def test_a_large_file_is_looked_at_in_windows_over_all_of_it_which_move() -> None:
    assert windows(PROBE_WHOLE_PAGES, 0.3) == [(0, PROBE_WHOLE_PAGES)]
    for pages in (PROBE_WHOLE_PAGES * 2, 123_457, 1 << 28):
        seen: set[tuple[int, int]] = set()
        for phase in (0.0, 0.25, 0.9):
            chosen = windows(pages, phase)
            assert len(chosen) == PROBE_WINDOWS
            assert all(0 <= first <= pages - count for first, count in chosen)
            assert sum(count for _, count in chosen) == PROBE_WINDOWS * WINDOW_PAGES
            starts = [first for first, _ in chosen]
            assert max(b - a for a, b in itertools.pairwise(starts)) <= pages / PROBE_WINDOWS + 1
            assert not seen & set(chosen)
            seen |= set(chosen)


def test_a_large_file_of_which_half_is_not_in_memory_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = 4 * PROBE_WHOLE_PAGES * PAGE
    path.write_bytes(b"x" * size)
    assert pages_on_disk(path) == 0
    drop(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.pread(fd, size // 2, 0)
    finally:
        os.close(fd)
    found = pages_on_disk(path, 0.6)
    assert 0.3 < found / (PROBE_WINDOWS * WINDOW_PAGES) < 0.6


def test_the_memory_that_could_be_had_is_told_in_bytes() -> None:
    assert 1 << 20 < memory_available_bytes() < 1 << 50


def test_a_few_pages_that_are_not_in_memory_are_forgiven() -> None:
    assert Sample(0, 0).in_memory
    assert Sample(10, 8).in_memory
    assert not Sample(10, 9).in_memory
    assert Sample(1_600, 100).in_memory
    assert not Sample(1_600, 101).in_memory


# Reading in


def test_a_file_that_is_read_in_is_in_memory(file: Path) -> None:
    drop(file)
    read_in(file, threading.Event())
    assert pages_on_disk(file) == 0


def test_reading_in_stops_when_it_is_told_to(file: Path) -> None:
    drop(file)
    stop = threading.Event()
    stop.set()
    read_in(file, stop)
    assert pages_on_disk(file) == PAGES


@pytest.mark.parametrize("room", [True, False])
def test_a_file_is_read_in_only_if_all_shards_fit_in_half_of_the_memory(
    file: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    other = file.parent.parent / "0001" / "data.mdb"
    other.parent.mkdir()
    other.write_bytes(b"x" * PAGES * PAGE)
    available = 2 * 2 * PAGES * PAGE
    monkeypatch.setattr(residency_module, "memory_available_bytes", lambda: available if room else available - 1)
    drop(file)
    warmer = Warmer()
    warmer.warm(file)
    warmer._thread.shutdown()
    warmer.close()
    assert (pages_on_disk(file) == 0) == room


# Deciding


class Shard:
    """A shard over a real file, its reader, and what they have been told."""

    def __init__(self, path: Path, *, cold: bool) -> None:
        state = LmdbState(path / "shards" / "0000", 0)
        batch = state.begin()
        batch.put_many([(b"%016d" % number + b"k", b"v" * 2_000) for number in range(300)])
        batch.set_applied_seq(1)
        batch.commit()
        state.close()
        self.state = LmdbState(state.path, 0)
        if cold:  # The start has looked through the file.
            drop(state.path / "data.mdb")
        self.store = ShardStore(self.state)
        self.waits = DiskWaits()
        self.reader = ThreadReader()  # Which tells nobody how quick the disk is.
        self.warmer = Warmer()
        self.residency = Residency(self.store, self.state, self.reader, self.warmer, self.waits)

    async def get(self, number: int) -> Any:
        """As an object reads."""
        key = b"%016d" % number
        if self.store.reader is None:
            return self.store.get(key, "k")
        answer = asyncio.get_running_loop().create_future()
        self.store.fetch(key, ["k"], lambda result, error: answer.set_result(result[0]))
        return await answer

    def close(self) -> None:
        self.residency.close()
        self.warmer.close()
        self.reader.close()
        self.state.close()


@contextlib.contextmanager
def shard(path: Path, *, cold: bool) -> Iterator[Shard]:
    shard = Shard(path, cold=cold)
    try:
        yield shard
    finally:
        shard.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency_module, "PROBE_INTERVAL_S", 0.02)


@pytest.fixture
def no_warming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency_module, "WARM_SHARE", 0.0)


async def test_what_is_in_memory_is_read_on_the_loop_and_no_thread_is_started(tmp_path: Path) -> None:
    before = threading.active_count()
    with shard(tmp_path, cold=False) as it:
        assert not it.residency.by_loop, "nothing is known before somebody reads"
        for number in range(100):
            assert await it.get(number) == b"v" * 2_000
        if pages_on_disk(it.state.path / "data.mdb"):
            pytest.skip("the system has taken the file out of memory meanwhile")
        assert it.residency.by_loop
        assert it.residency.reads_apart == 0
        assert threading.active_count() == before


def test_opening_a_file_that_is_too_large_to_be_looked_through_leaves_it_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.shard.store.state.data_file.STATE_VERIFY_BYTES_MAX", 0)
    with shard(tmp_path, cold=False) as it:
        path = it.state.path
    drop(path / "data.mdb")
    LmdbState(path, 0).close()
    sample = look_at(path / "data.mdb")
    assert sample.pages - sample.on_disk < sample.pages / 10, "the meta pages, and the way to the last row"


@pytest.mark.usefixtures("no_warming")
async def test_what_is_not_in_memory_is_read_by_a_thread(tmp_path: Path) -> None:
    with shard(tmp_path, cold=True) as it:
        for number in range(0, 300, 10):
            assert await it.get(number) == b"v" * 2_000
        assert not it.residency.by_loop
        assert it.residency.reads_apart == 30
        assert not it.state.was_read, "the loop has touched nothing"


@pytest.mark.usefixtures("quick")
async def test_a_file_that_has_room_in_memory_is_read_in_and_then_read_on_the_loop(tmp_path: Path) -> None:
    with shard(tmp_path, cold=True) as it:
        while not it.residency.by_loop:
            assert await it.get(7) == b"v" * 2_000
            await asyncio.sleep(0.005)
        assert it.residency.reads_apart >= 1
        assert look_at(it.state.path / "data.mdb").in_memory


@pytest.mark.usefixtures("quick")
async def test_while_nobody_reads_no_timer_runs_and_nothing_is_known(tmp_path: Path) -> None:
    with shard(tmp_path, cold=False) as it:
        await it.get(1)
        assert it.residency.by_loop
        probes = it.residency._probes
        while it.residency._timer is not None:
            await asyncio.sleep(0.005)
        assert not it.residency.by_loop
        assert it.residency._probes <= probes + 1
        await it.get(1)
        assert it.residency.by_loop


@pytest.mark.usefixtures("quick", "no_warming")
async def test_a_file_that_has_left_memory_is_noticed_while_it_is_read(tmp_path: Path) -> None:
    with shard(tmp_path, cold=False) as it:
        await it.get(1)
        assert it.residency.by_loop
        drop(it.state.path / "data.mdb")  # All but the few pages that were read through the map.
        while it.residency.by_loop:
            await it.get(1)
            await asyncio.sleep(0.005)
        assert it.residency._timer is not None


def test_a_read_that_waits_for_the_disk_on_the_loop_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "SLOW_READ_S", 0.0)  # However fast the disk is.
    with shard(tmp_path, cold=True) as it:
        suspected: list[str] = []
        it.state.on_fault = lambda took_s: suspected.append("get" if not suspected else "scan")
        state_module.FAULTS.have_come()
        it.state.get(b"%016d" % 200 + b"k")
        assert suspected == ["get"]
        list(it.state.scan(b"%016d" % 20, b"%016d" % 100, False))
        assert suspected == ["get", "scan"]
        suspected.clear()
        it.state.get(b"%016d" % 200 + b"k")
        list(it.state.scan(b"%016d" % 20, b"%016d" % 100, False))
        assert suspected == [], "the second time it is in memory"


def test_what_another_thread_asks_of_its_own_waits_is_no_wait_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {threading.get_ident(): 5}
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_majflt=faults.get(threading.get_ident(), 7)))
    state_module.FAULTS.have_come()
    asked: list[bool] = []
    thread = threading.Thread(target=lambda: asked.append(state_module.FAULTS.have_come()))
    thread.start()
    thread.join()
    assert asked == [True]
    assert not state_module.FAULTS.have_come()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_that_may_not_wait_ends_at_the_first_row_that_it_has_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    class Faults:
        """Every twentieth row is the first of a page that comes from the disk."""

        asked = 0

        def have_come(self) -> bool:
            self.asked += 1
            return self.asked % 20 == 0

    with shard(tmp_path, cold=False) as it:
        monkeypatch.setattr(state_module, "SLOW_READ_S", 0.0)
        monkeypatch.setattr(state_module, "FAULTS", Faults())
        waited_s: list[float] = []
        it.state.on_fault = waited_s.append
        rows: list[bytes] = []
        with pytest.raises(NotInMemory):
            rows.extend(key for key, _ in it.state.scan(b"%016d" % 0, b"%016d" % 300, reverse, may_wait=False))
        assert len(rows) == 19
        assert len(waited_s) == 1
        assert len(list(it.state.scan(b"%016d" % 5, b"%016d" % 15, reverse, may_wait=False))) == 10, "these were in memory"
        assert len(waited_s) == 1
        assert len(list(it.state.scan(b"%016d" % 0, b"%016d" % 290, reverse))) == 290, "this one may wait"


@pytest.mark.usefixtures("no_warming")
async def test_a_range_is_read_by_a_thread_where_single_keys_are_read_on_the_loop_because_the_disk_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "SLOW_READ_S", 0.0)
    with shard(tmp_path, cold=True) as it:
        for _ in range(READS_KEPT):
            it.waits.read_apart(0.000_1, 1)
        await it.get(250)
        assert it.residency.by_loop
        state_module.FAULTS.have_come()
        key = b"%016d" % 20
        assert it.store.scan_now(key) is None
        assert it.residency.by_loop, "one short wait"
        answer = asyncio.get_running_loop().create_future()
        it.store.fetch_range(key, None, None, False, None, lambda result, error: answer.set_result(result))
        assert it.residency.reads_apart == 1
        assert await answer == [("k", b"v" * 2_000)]
        assert it.store.scan_now(key) == [("k", b"v" * 2_000)], "by now its pages are in memory"


def test_a_checkpoint_that_waits_for_the_disk_on_the_loop_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "SLOW_CHANGE_S", 0.0)
    with shard(tmp_path, cold=True) as it:
        waited_s: list[float] = []
        it.state.on_fault = waited_s.append
        state_module.FAULTS.have_come()
        batch = it.state.begin()
        batch.put_many([(b"%016d" % 200 + b"k", b"w")])
        batch.abort()
        assert len(waited_s) == 1
        assert waited_s[0] > 0


async def test_short_waits_for_the_disk_leave_the_reads_on_the_loop_and_long_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(residency_module, "monotonic", lambda: now[0])
    with shard(tmp_path, cold=False) as it:
        await it.get(1)
        assert it.state.on_fault is not None
        for _ in range(100):
            it.state.on_fault(WAIT_S_MAX / 100)
            now[0] += 0.1
            assert it.residency.by_loop
        it.state.on_fault(WAIT_S_MAX * 1.1)
        assert not it.residency.by_loop


@pytest.mark.usefixtures("no_warming")
async def test_what_is_not_in_memory_is_read_on_the_loop_once_threads_have_found_the_disk_quick(tmp_path: Path) -> None:
    with shard(tmp_path, cold=True) as it:
        await it.get(1)
        assert not it.residency.by_loop
        for _ in range(READS_KEPT):
            it.waits.read_apart(0.000_1, 1)
        it.residency._probe()
        assert it.residency.by_loop
        for _ in range(READS_KEPT):
            it.waits.read_apart(0.01, 1)
        it.residency._probe()
        assert not it.residency.by_loop


async def test_who_has_waited_for_the_disk_is_believed_longer_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(residency_module, "monotonic", lambda: now[0])
    with shard(tmp_path, cold=False) as it:
        await it.get(1)
        for doubt_s in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0):
            assert it.residency.by_loop
            it.residency.suspect()
            for passed_s in (0.0, doubt_s - 0.1):
                now[0] += passed_s
                it.residency._probe()
                assert not it.residency.by_loop, "though all pages looked at are there"
            now[0] += 0.2
            it.residency._probe()
        for doubt_s in (32.0, 32.0, 32.0):  # Half as long after an interval without a wait, and then twice as long.
            it.residency._probe_again()
            it.residency.suspect()
            now[0] += doubt_s - 0.1
            it.residency._probe()
            assert not it.residency.by_loop
            now[0] += 0.2
            it.residency._probe()
            assert it.residency.by_loop
        for _ in range(10):
            it.residency._probe_again()
            await it.get(1)
        assert it.residency._doubt_s == 2.0


async def test_a_file_that_does_not_stay_in_memory_is_read_in_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, warmed = [1_000.0], []
    monkeypatch.setattr(residency_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(residency_module, "look_at", lambda path, phase: Sample(100, 100))
    monkeypatch.setattr(Warmer, "warm", lambda self, path: warmed.append(now[0] - 1_000))
    with shard(tmp_path, cold=False) as it:
        while now[0] < 9_000:
            it.residency._probe()
            now[0] += 2.0
    assert warmed == [0, 60, 180, 420, 900, 1_860, 3_780, 7_380]


async def test_where_the_kernel_says_nothing_the_loop_reads_and_that_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(path: Path, phase: float) -> Sample:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(residency_module, "look_at", unknown)
    with shard(tmp_path, cold=False) as it, caplog.at_level(logging.WARNING):
        assert await it.get(1) == b"v" * 2_000
        it.residency._probe()
        assert it.residency.by_loop
    assert [record.message for record in caplog.records if "cannot tell" in record.message] == [
        f"cannot tell whether {tmp_path}/shards/0000/data.mdb is in memory ([Errno 38] Function not implemented); "
        "it is taken to be"
    ]


async def test_a_watch_counts_over_all_shards_and_its_end_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    pairs = []
    for number in range(3):
        state = LmdbState(tmp_path / "shards" / f"{number:04d}", number)
        pairs.append((ShardStore(state), state))
    watch = Watch(pairs)
    assert watch.statistics() == (0, 0)
    store = pairs[1][0]
    answer = asyncio.get_running_loop().create_future()
    store.fetch(b"x" * 16, ["k"], lambda result, error: answer.set_result(result))
    assert await answer == [None]
    assert watch.statistics() == (0, 1)
    watch.stop()
    watch.close()
    assert threading.active_count() == before
    for _, state in pairs:
        state.close()
