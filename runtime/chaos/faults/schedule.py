"""Which fault next, and after how long: all of it is the seed's. Each has its turn before one comes again.

Rule: pure; chance is given. Each strike has chance of its own, so that what one of them draws changes no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from random import Random


class Strike(NamedTuple):
    number: int
    fault: str
    after_s: float
    """From the end of the one before."""
    chance: Random
    """For what the fault itself draws."""


def strikes(seed: int, faults: Sequence[str], every_s: float, new_random: Callable[[str], Random]) -> Iterator[Strike]:
    """Without end. `every_s`: the mean time between two."""
    random = new_random(f"{seed} schedule")
    numbers = itertools.count(1)
    while faults:
        for fault in random.sample(faults, len(faults)):
            number = next(numbers)
            yield Strike(number, fault, random.uniform(0.0, 2 * every_s), new_random(f"{seed} strike {number}"))
