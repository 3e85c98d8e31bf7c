"""When the disk is said to be slow, and when it was something else that took so long."""

from __future__ import annotations

import pytest

from tidegate.runtime.limits import SLOW_DISK_KEPT_S, SLOW_DISK_S
from tidegate.shard.worker.slow_disk import LOOK_S, SlowDisk


def looked(disk: SlowDisk, began_s: float, pauses_s: list[float]) -> float:
    """The time after the last look."""
    now_s = began_s
    for pause_s in pauses_s:
        now_s += pause_s
        disk.look(began_s, now_s)
    return now_s


def test_an_append_that_is_seen_under_way_again_and_again_makes_the_disk_slow_for_a_while() -> None:
    disk = SlowDisk()
    looks = round(SLOW_DISK_S / LOOK_S)
    now_s = looked(disk, 100.0, [LOOK_S] * (looks - 1))
    assert disk.slow_s(now_s) == 0
    now_s = looked(disk, 200.0, [LOOK_S] * (looks + 10))
    assert disk.slow_s(now_s) == pytest.approx(SLOW_DISK_S + 1)
    assert disk.slow_s(now_s + SLOW_DISK_KEPT_S - 0.01) > 0
    assert disk.slow_s(now_s + SLOW_DISK_KEPT_S) == 0


def test_appends_that_are_each_fast_enough_do_not_add_up_to_a_slow_one() -> None:
    disk = SlowDisk()
    for number in range(100):
        assert disk.slow_s(looked(disk, 100.0 * number, [LOOK_S] * 20)) == 0


@pytest.mark.parametrize("held_s", [SLOW_DISK_S, 60.0, 3_600.0])
def test_a_time_in_which_nobody_looked_says_nothing_of_the_disk(held_s: float) -> None:
    disk = SlowDisk()
    now_s = looked(disk, 100.0, [LOOK_S, held_s, LOOK_S, held_s])
    assert disk.slow_s(now_s) == 0
