from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tidegate.benchmarks.scaling import busiest_share, confined_to, syncs_per_s

pytestmark = pytest.mark.alone


def test_the_share_of_the_busiest_thread_is_below_one_when_two_work() -> None:
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            time.sleep(0)

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    shares = [0.0]

    def is_split() -> bool:
        shares.append(busiest_share([os.getpid()]))
        return 0.2 < shares[-1] < 1.0

    try:
        wait_until(is_split, "two threads that share the processor", seen=lambda: shares[-1])
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_what_is_started_inside_may_use_the_given_cores_only() -> None:
    before = os.sched_getaffinity(0)
    one = min(before)
    with confined_to([one]):
        assert os.sched_getaffinity(0) == {one}
    assert os.sched_getaffinity(0) == before


def test_syncs_are_counted_and_leave_nothing(tmp_path: Path) -> None:
    assert syncs_per_s(tmp_path, 0.05) >= 1.0
    assert list(tmp_path.iterdir()) == []
