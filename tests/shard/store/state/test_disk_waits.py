"""shard/store/state/disk_waits.py: the loop waits for a quick disk, a little, and for no other."""

from __future__ import annotations

import pytest

from tidegate.shard.store.state.disk_waits import READS_KEPT, READS_QUICK, WAIT_S_MAX, WAIT_SHARE, DiskWaits


def waited_in_a_minute(each_s: float, pause_s: float) -> tuple[float, float]:
    """A loop that reads pages which take so long, each so long after the other, and stops for two seconds whenever it may not:
    how long it has waited, and the longest stretch of it."""
    waits, now_s, total_s, stretch_s, longest_s = DiskWaits(), 1_000.0, 0.0, 0.0, 0.0
    while now_s < 1_060.0:
        now_s += each_s
        total_s += each_s
        stretch_s += each_s
        longest_s = max(longest_s, stretch_s)
        if waits.waited(each_s, now_s):
            now_s += pause_s
            stretch_s = 0.0 if pause_s else stretch_s
        else:
            now_s += 2.0
            stretch_s = 0.0
    return total_s, longest_s


def test_a_loop_that_waits_now_and_then_for_a_quick_disk_goes_on() -> None:
    waits, now_s = DiskWaits(), 1_000.0
    for _ in range(10_000):
        now_s += 0.000_5
        assert waits.waited(0.000_08, now_s), "0.08 of each 0.5 ms: less than a fifth"


@pytest.mark.parametrize("each_s", [0.000_05, 0.001, 0.01, 0.015])
def test_however_quick_the_disk_is_it_takes_no_more_than_a_share_and_a_moment_at_once(each_s: float) -> None:
    total_s, longest_s = waited_in_a_minute(each_s, 0.0)
    assert total_s <= 60 * WAIT_SHARE
    assert longest_s <= WAIT_S_MAX / (1 - WAIT_SHARE) + each_s


def test_one_wait_that_is_long_is_too_much() -> None:
    assert not DiskWaits().waited(WAIT_S_MAX + 0.001, 1_000.0)


def test_a_disk_is_quick_once_most_reads_of_threads_were() -> None:
    waits = DiskWaits()
    for number in range(READS_QUICK):
        assert not waits.are_short, number
        waits.read_apart(0.03, 100)  # By page.
    assert waits.are_short
    for _ in range(READS_KEPT - READS_QUICK + 4):
        waits.read_apart(0.01, 1)
    assert not waits.are_short
