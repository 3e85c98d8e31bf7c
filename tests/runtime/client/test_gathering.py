"""How often it is looked for more answers before the next calls leave: once, and more often where that finds some."""

from __future__ import annotations

from tidegate.runtime.client.gathering import FINDS_MAX, LOOKS_MAX, Gathering


def looks_in_vain(gathering: Gathering) -> int:
    gathering.begin(0.0)
    return looks_left(gathering)


def looks_left(gathering: Gathering) -> int:
    looks = 0
    while gathering.goes_on(0.0, found=False):
        looks += 1
        assert looks <= LOOKS_MAX
    return looks


def find(gathering: Gathering) -> None:
    gathering.begin(0.0)
    assert gathering.goes_on(0.0, found=False)
    assert gathering.goes_on(0.0, found=True)


def test_it_is_looked_once_where_nothing_is_ever_found() -> None:
    gathering = Gathering()
    assert [looks_in_vain(gathering) for _ in range(5)] == [1] * 5


def test_it_is_looked_more_often_the_more_often_something_is_found_and_less_often_again_when_nothing_is() -> None:
    gathering = Gathering()
    for _ in range(10):
        find(gathering)
    assert [looks_in_vain(gathering) for _ in range(6)] == [LOOKS_MAX, LOOKS_MAX // 2, LOOKS_MAX // 4, LOOKS_MAX // 8, 1, 1]


def test_others_may_run_before_every_look_but_the_first() -> None:
    gathering = Gathering()
    for _ in range(10):
        find(gathering)
    gathering.begin(0.0)
    lets_others_run = []
    while gathering.goes_on(0.0, found=False):
        lets_others_run.append(gathering.lets_others_run)
    assert lets_others_run == [False] + [True] * (LOOKS_MAX - 1)


def test_looks_that_take_long_in_vain_are_the_last_ones_and_teach_to_look_once() -> None:
    gathering = Gathering()
    for _ in range(10):
        find(gathering)
    gathering.begin(5.0)
    assert gathering.goes_on(5.0, found=False)
    assert gathering.goes_on(5.001, found=False)
    assert not gathering.goes_on(5.003, found=False)
    assert looks_in_vain(gathering) == 1


def test_what_was_found_after_a_long_time_is_not_looked_behind_and_teaches_nothing() -> None:
    gathering = Gathering()
    for _ in range(10):
        find(gathering)
    gathering.begin(5.0)
    assert gathering.goes_on(5.0, found=False)
    assert not gathering.goes_on(5.005, found=True)
    assert looks_in_vain(gathering) == LOOKS_MAX


def test_what_comes_together_teaches_nothing() -> None:
    gathering = Gathering()
    for _ in range(10):
        gathering.begin(0.0)
        assert gathering.goes_on(0.0, found=True)
    assert looks_in_vain(gathering) == 1


def test_after_so_many_finds_it_is_sent_whatever_there_is() -> None:
    gathering = Gathering()
    gathering.begin(0.0)
    assert [gathering.goes_on(0.0, found=True) for _ in range(FINDS_MAX + 1)] == [True] * FINDS_MAX + [False]
