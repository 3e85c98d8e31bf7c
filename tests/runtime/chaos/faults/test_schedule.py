"""The seed decides."""

from __future__ import annotations

import itertools
from random import Random

from tidegate.runtime.chaos.faults.schedule import strikes


def first(seed: int, faults: tuple[str, ...] = ("kill", "drop")) -> list[tuple[int, str, float, float]]:
    some = itertools.islice(strikes(seed, faults, 1.0, Random), 50)
    return [(strike.number, strike.fault, strike.after_s, strike.chance.random()) for strike in some]


def test_the_same_seed_strikes_in_the_same_way_and_another_one_in_another() -> None:
    assert first(1) == first(1)
    assert first(1) != first(2)


def test_what_a_fault_draws_for_itself_changes_no_other() -> None:
    greedy = []
    for strike in itertools.islice(strikes(1, ("kill", "drop"), 1.0, Random), 50):
        greedy.append((strike.number, strike.fault, strike.after_s, strike.chance.random()))
        strike.chance.random()
    assert greedy == first(1)


def test_strikes_come_at_the_mean_time_that_was_asked_for_and_of_every_kind() -> None:
    some = first(3)
    assert 0.7 < sum(after_s for _, _, after_s, _ in some) / len(some) < 1.3
    assert {fault for _, fault, _, _ in some} == {"kill", "drop"}


def test_without_faults_there_are_no_strikes() -> None:
    assert first(1, ()) == []
