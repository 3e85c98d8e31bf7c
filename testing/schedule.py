"""Schedules: what happens at each point of a run at which something else might have happened.

Rule 1: pure. A schedule is told at each point how many ways there are and says which; 0 is what happens by itself. What it says
otherwise are its *deviations*, by the number of the point: they are its seed, and all that is needed to run it again.
Rule 2: nothing is drawn while a run is under way that is not written down as a deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from random import Random

Deviations = dict[int, int]
NATURAL = "natural"
"""The seed of the schedule in which all happens by itself."""
DEVIATIONS_MEANT = 3
"""In a schedule that is drawn."""
NEAR = 6
"""So many points behind a deviation are just behind it."""


class Point:
    """At which something else might have happened."""

    __slots__ = ("chosen", "label")

    def __init__(self, label: str, chosen: int) -> None:
        self.label = label
        self.chosen = chosen


class Schedule:
    def __init__(self, deviations: Deviations, chance: Random | None = None, share: float = 0.0) -> None:
        """`chance` draws more deviations, at that share of the points that none is given for."""
        self.deviations = dict(deviations)
        self.ways: list[int] = []
        """How many there were at each point that was reached."""
        self.taken: list[Point] = []
        """The deviations that were, in order."""
        self._chance = chance
        self._share = share

    def choose(self, label: str, ways: int) -> int:
        at = len(self.ways)
        self.ways.append(ways)
        chosen = self.deviations.get(at, 0)
        if self._chance is not None and at not in self.deviations and self._chance.random() < self._share:
            chosen = self.deviations[at] = self._chance.randrange(1, ways)
        chosen = min(chosen, ways - 1)
        if chosen:
            self.taken.append(Point(label, chosen))
        return chosen

    @property
    def effective(self) -> Deviations:
        """Without those at points that were never reached."""
        return {at: chosen for at, chosen in sorted(self.deviations.items()) if at < len(self.ways)}


def seed_of(deviations: Deviations) -> str:
    return "-".join(f"{at}.{chosen}" for at, chosen in sorted(deviations.items())) or NATURAL


def deviations_of(seed: str) -> Deviations:
    """Raises ValueError for what no schedule has as its seed."""
    if seed == NATURAL:
        return {}
    try:
        return {int(at): int(chosen) for at, chosen in (part.split(".") for part in seed.split("-"))}
    except ValueError:
        raise ValueError(f"{seed!r} is no seed of a schedule: it looks like 12.1-40.2, or {NATURAL}") from None


class Search:
    """Which schedules to try: the natural one, then each that differs from it at one point, then at two, and so on, for as long
    as a whole level fits in what is left of the budget. Of the first level half the budget is tried in any case, evenly spread.

    Where no further level fits: a deviation may bring points that the natural schedule has not, as a read that waits brings a
    commit of half of what was to be one. No schedule with one deviation deviates there. So some of those come next that deviate
    once more just behind such a one. The rest are drawn."""

    def __init__(self, budget: int, random: Random) -> None:
        self.runs = 0
        self.exhausted = False
        """There is no other schedule."""
        self._budget = budget
        self._random = random
        self._seen: set[tuple[tuple[int, int], ...]] = set()

    @property
    def distinct(self) -> int:
        """Schedules that were tried and differ."""
        return len(self._seen)

    def schedules(self) -> Iterator[Schedule]:
        """To be run one after another; each is asked for when the one before has run."""
        natural = Schedule({})
        yield from self._run(natural)
        level = self._neighbours(natural)
        first: list[Schedule] = []
        if len(level) > self._left:
            self._random.shuffle(level)
            for deviations in level[: self._budget // 2]:
                first.append(schedule := Schedule(deviations))
                yield from self._run(schedule)
        else:
            while level and len(level) <= self._left:
                deeper: list[Deviations] = []
                for deviations in level:
                    schedule = Schedule(deviations)
                    yield from self._run(schedule)
                    deeper += self._neighbours(schedule)
                    if len(deviations) == 1:
                        first.append(schedule)
                level = deeper
            self.exhausted = not level
        if not self.exhausted:
            for deviations in self._behind(first, len(natural.ways))[: self._left // 2]:
                yield from self._run(Schedule(deviations))
        share = min(0.5, DEVIATIONS_MEANT / max(1, len(natural.ways)))
        for _ in range(2 * self._budget):
            if self.exhausted or not self._left:
                return
            yield from self._run(Schedule({}, Random(self._random.random()), share))

    @property
    def _left(self) -> int:
        return self._budget - self.distinct

    def _run(self, schedule: Schedule) -> Iterator[Schedule]:
        self.runs += 1
        yield schedule
        self._seen.add(tuple(schedule.effective.items()))

    def _behind(self, first: list[Schedule], points: int) -> list[Deviations]:
        """With one more deviation just behind that of a schedule with more than so many points; those of each in turn."""
        more = [schedule for schedule in first if len(schedule.ways) > points]
        near = [
            [each for each in self._neighbours(schedule) if max(each) <= max(schedule.effective) + NEAR]
            for schedule in sorted(more, key=lambda schedule: len(schedule.ways))
        ]
        return [each for row in zip_longest(*near) for each in row if each is not None]

    @staticmethod
    def _neighbours(schedule: Schedule) -> list[Deviations]:
        """With one deviation more, behind those that it has."""
        begin = max(schedule.effective, default=-1) + 1
        return [
            {**schedule.effective, at: chosen}
            for at in range(begin, len(schedule.ways))
            for chosen in range(1, schedule.ways[at])
        ]


def shortest(deviations: Deviations, fails: Callable[[Deviations], bool], tries: int) -> Deviations:
    """As few as still fail: each is left out, or chosen smaller, where that changes nothing."""
    smallest, changed = dict(deviations), True
    while changed and tries > 0:
        changed = False
        for at in sorted(smallest, reverse=True):
            lesser = [{key: value for key, value in smallest.items() if key != at}]
            lesser += [{**smallest, at: chosen} for chosen in range(1, smallest[at])]
            for candidate in lesser:
                tries -= 1
                if tries > 0 and fails(candidate):
                    smallest, changed = candidate, True
                    break
    return smallest
