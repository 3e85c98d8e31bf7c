"""Schedules: what is tried, seeds, and how a failing one becomes short."""

from __future__ import annotations

from random import Random

import pytest

from tidegate.testing.schedule import NEAR, Deviations, Schedule, Search, deviations_of, seed_of, shortest


def tried(budget: int, ways: list[int]) -> tuple[Search, list[Deviations]]:
    search, found = Search(budget, Random(1)), []
    for schedule in search.schedules():
        for number, each in enumerate(ways):
            schedule.choose(f"point {number}", each)
        found.append(schedule.effective)
    return search, found


def test_a_small_tree_is_tried_whole_and_nothing_twice() -> None:
    search, found = tried(100, [2, 3, 2])
    assert search.exhausted
    assert search.distinct == len(found) == 2 * 3 * 2


def test_each_point_is_deviated_from_before_any_two_are() -> None:
    _, found = tried(100, [2] * 10)
    assert found[0] == {}
    assert sorted(found[1:11], key=lambda each: min(each)) == [{at: 1} for at in range(10)]
    assert {len(each) for each in found[11:56]} == {2}


def test_a_tree_that_is_too_large_is_spread_over_and_drawn_from() -> None:
    search, found = tried(60, [3] * 200)
    assert not search.exhausted
    assert search.distinct == 60
    assert sum(len(each) == 1 for each in found[:31]) == 30
    assert max(max(each) for each in found if each) > 150


def test_what_only_a_deviation_brings_is_deviated_from_just_behind_it() -> None:
    """As a crash between two halves, which become durable one after the other only where a read between them waits."""
    search, found = Search(100, Random(1)), []
    for schedule in search.schedules():
        for number in range(80):
            waits = schedule.choose(f"point {number}", 2) and number == 40
            for half in range(4 * waits):
                schedule.choose(f"half {half}", 2)
        found.append(schedule.effective)
    assert {40: 1, 44: 1} in found
    assert sorted(min(each) for each in found[1:81]) == list(range(80)), "first each alone"
    behind = found[81 : 81 + NEAR]
    assert behind == [{40: 1, 41 + number: 1} for number in range(NEAR)]
    assert search.distinct == 100


def test_a_run_without_points_is_run_once() -> None:
    search, found = tried(60, [])
    assert search.exhausted
    assert found == [{}]


@pytest.mark.parametrize("deviations", [{}, {3: 1}, {12: 2, 40: 1}])
def test_a_seed_says_which_deviations_it_stands_for(deviations: Deviations) -> None:
    assert deviations_of(seed_of(deviations)) == deviations


def test_what_is_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it looks like 12\.1-40\.2"):
        deviations_of("seventeen")


def test_the_shortest_failing_schedule_has_nothing_that_is_not_needed() -> None:
    def fails(deviations: Deviations) -> bool:
        return deviations.get(7, 0) >= 1 and 20 in deviations

    assert shortest({3: 1, 7: 2, 9: 1, 20: 2, 31: 1}, fails, 200) == {7: 1, 20: 1}


def test_a_choice_beyond_the_ways_there_are_is_the_last_one() -> None:
    schedule = Schedule({0: 5, 9: 1})
    assert schedule.choose("a", 3) == 2
    assert schedule.effective == {0: 5}
    assert [point.label for point in schedule.taken] == ["a"]
