"""The collector of a worker's process: what it looks at, and when it looks at everything."""

from __future__ import annotations

import gc
import mmap
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.shard.worker.collector import ACTIVATIONS, GROWTH_BYTES_MIN, YOUNG, Collector, has_grown, may_pause, resident_bytes

MIB = 1 << 20


class Cycle:
    def __init__(self) -> None:
        self.me = self


def forgotten_cycle() -> weakref.ref[Cycle]:
    return weakref.ref(Cycle())


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.collect()


class Process:
    """Grows as it is told, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s, self.bytes = 0.0, 100 * MIB
        self.collector = Collector(lambda: self.now_s, lambda: self.bytes)
        self.collector.start()


def test_what_came_with_a_thousand_activations_is_looked_at_once_and_never_again() -> None:
    process = Process()
    before = gc.get_freeze_count()
    kept, lost = [Cycle() for _ in range(100)], forgotten_cycle()
    process.collector.end_turn(ACTIVATIONS - 1)
    assert lost() is not None
    process.collector.end_turn(ACTIVATIONS)
    assert lost() is None
    assert gc.get_freeze_count() >= before + len(kept)
    assert gc.get_count()[0] < 100
    again = forgotten_cycle()
    process.collector.end_turn(ACTIVATIONS + 1)
    assert again() is not None, "not before a thousand more"


def test_so_is_what_came_without_activations_when_it_is_much() -> None:
    process = Process()
    kept, lost = [Cycle() for _ in range(YOUNG)], forgotten_cycle()
    process.collector.end_turn(1)
    assert lost() is None
    assert gc.get_count()[0] < len(kept)


def test_what_was_set_aside_and_is_garbage_now_is_found_when_everything_is_looked_at() -> None:
    process = Process()
    cycle = Cycle()
    lost = weakref.ref(cycle)
    process.collector.end_turn(ACTIVATIONS)
    del cycle
    gc.collect()
    assert lost() is not None, "it is set aside"
    process.collector.look_at_everything(0)
    assert lost() is None


def test_everything_is_looked_at_when_the_process_grows_by_what_nobody_accounts_for() -> None:
    process = Process()
    process.now_s += 3_600
    process.bytes += 500 * MIB
    process.collector.check_growth(500 * MIB)
    assert process.collector.full_looks == 1, "the one of the start"
    process.bytes += GROWTH_BYTES_MIN + 1
    process.collector.check_growth(500 * MIB)
    assert process.collector.full_looks == 2
    process.collector.check_growth(500 * MIB)
    assert process.collector.full_looks == 2, "grown by nothing since"


def test_objects_that_leave_are_no_growth_though_the_process_keeps_their_memory() -> None:
    """Seen with a million: Python keeps the pages, and looking at everything stopped both workers for 0.9 s."""
    process = Process()
    process.now_s += 3_600
    process.bytes += 1_200 * MIB
    process.collector.check_growth(1_100 * MIB)
    process.collector.check_growth(300 * MIB)
    assert process.collector.full_looks == 1, "the one of the start"
    process.bytes += GROWTH_BYTES_MIN
    process.collector.check_growth(300 * MIB)
    assert process.collector.full_looks == 2


def test_looking_at_everything_takes_a_hundredth_of_the_time_at_most() -> None:
    assert has_grown(GROWTH_BYTES_MIN + 1, 0)
    assert not has_grown(GROWTH_BYTES_MIN + 1, 1 << 40)
    assert may_pause(since_s=101.0, last_took_s=1.0)
    assert not may_pause(since_s=99.0, last_took_s=1.0)


def test_when_objects_leave_memory_after_every_call_not_every_call_waits_for_the_collector() -> None:
    process = Process()
    process.now_s += 1.0
    for _ in range(100):
        process.collector.nothing_in_memory(0)
        process.collector._took_s = 0.02
    assert process.collector.full_looks == 2, "the one of the start, and one"
    process.now_s += 2.1
    process.collector.nothing_in_memory(0)
    assert process.collector.full_looks == 3


def test_the_size_of_this_process_is_read() -> None:
    assert 10 * MIB < resident_bytes() < 10_000 * MIB


def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    """LMDB maps its files into memory; what is resident of them is nobody's garbage."""
    file = tmp_path / "map"
    file.write_bytes(bytes(64 * MIB))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        before = resident_bytes()
        assert sum(mapped[offset] for offset in range(0, len(mapped), 4_096)) == 0
        assert resident_bytes() - before < 32 * MIB
