"""What every target is: a function that makes so many wrong things of a seed, tells how far it is, and counts what became of
them. It raises AssertionError where a promise is broken; whatever else it raises is a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

Tick = Callable[[int], object]
"""Is told how many of the wrong things have been made."""
Counts = Counter[str]
Target = Callable[[Random, int, Tick], Counts]
