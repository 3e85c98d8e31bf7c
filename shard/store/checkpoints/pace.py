"""How much of the loop's time a checkpoint takes, by how much there is to do and how near the bounds are.

Guarantee: it gets its share of the loop's time, whatever a turn of the loop takes: a quarter, half where it is urgent, most at
the bound. (A bound on the work in one turn gave it a hundredth where many calls came at once, and the log ran full.)

Rule: no loop and no thread; whoever works says when it leaves the loop to others, and when it is back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MEMTABLE_BYTES_MIN = 64 << 20
"""Size of the memtables of a worker at which a checkpoint starts, at least: see `memtable_bytes_max`."""
MEMTABLE_SHARE = 8
"""One byte of memtables to so many of caches: what is written again before the checkpoint costs it nothing."""
LOG_RECORDS_MAX = 1_600_000
"""Records not checkpointed that take three seconds to recover if each holds one call."""
PAGES_MAX = 65_536
"""Pages of data files, of all shards of a worker, that what is not checkpointed changes: 256 MiB, which a recovery writes before
anything is served. Where there is much data each call of another object changes one, and 150,000 took a recovery six seconds."""
URGENT_SHARE = 0.75
"""Share of the log, of the pages or of twice the memtables' bound, from which on the checkpoint takes half of the loop's time."""
TURN_S_MAX = 0.02
"""Longest work in one turn of the loop while nothing is urgent, which follows one of others that took three times as long; a
single step may take longer."""
STEP_S_MAX = 0.005
"""A step that has taken so long goes on in the next turn, whatever is left of it."""


class Pressure(NamedTuple):
    """How much there is to checkpoint, and how near the bounds are."""

    size_bytes: int
    size_bytes_max: int
    log_records: int
    log_segments_used: int
    log_segments_max: int
    pages: float = 0.0

    def share(self) -> float:
        """1.0: a bound is reached beyond which writes would have to wait, or memory would grow without need."""
        return max(
            self.size_bytes / (2 * self.size_bytes_max),
            self.log_records / LOG_RECORDS_MAX,
            self.pages / PAGES_MAX,
            (self.log_segments_used - 1) / (self.log_segments_max - 1),
        )


def checkpoint_due(pressure: Pressure) -> bool:
    """Whether to start now rather than wait for an idle moment: the memtables' bound, or half of the log or of the pages that may
    be changed, is reached."""
    return pressure.share() >= 0.5 and pressure.log_records > 0


def memtable_bytes_max(cache_bytes: int) -> int:
    """Bound for the memtables of a worker with such a cache."""
    return max(MEMTABLE_BYTES_MIN, cache_bytes // MEMTABLE_SHARE)


def turn_budget_s(others_s: float, pressure: Pressure) -> float:
    """How long the checkpoint may work in this turn of the loop, after the others took `others_s` since its last one: a quarter
    of the time, half if urgent, most of it at the bound, where writes come faster than they are moved. On an idle loop it
    makes one step a turn."""
    share = pressure.share()
    if share < URGENT_SHARE:
        return min(others_s / 3, TURN_S_MAX)
    if share < 1.0:
        return min(others_s, 2 * TURN_S_MAX)
    return min(3 * others_s, 2 * TURN_S_MAX)


class CheckpointPace:
    """Of one checkpoint."""

    def __init__(self, pressure: Callable[[], Pressure], clock: Callable[[], float]) -> None:
        """It is at work from now on."""
        self._pressure = pressure
        self._clock = clock
        self._began_s = self._step_began_s = clock()
        self._left_s = 0.0
        self._budget_s = 0.0
        self.turn_s_max = 0.0
        """Longest time that the loop was held up at once."""

    def has_time(self) -> bool:
        """For one more step in this turn of the loop, which begins now."""
        self._step_began_s = self._clock()
        return self._step_began_s - self._began_s < self._budget_s

    def goes_on(self) -> bool:
        """The step at hand, in this turn."""
        return self._clock() - self._step_began_s < STEP_S_MAX

    def leave(self) -> None:
        self._left_s = self._clock()
        self.turn_s_max = max(self.turn_s_max, self._left_s - self._began_s)

    def come_back(self, *, after_others: bool) -> None:
        """`after_others`: the loop has gone round once, and did nothing else. Else it was something that was waited for, and how
        busy others are is to be found out: after one step."""
        self._began_s = self._step_began_s = self._clock()
        self._budget_s = turn_budget_s(self._began_s - self._left_s, self._pressure()) if after_others else 0.0
