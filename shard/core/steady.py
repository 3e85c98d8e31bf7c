"""Steady time: it runs on evenly while the wall clock is set, for everything that is meant relative to now.

Guarantee: a distance in steady time is the distance that passes, as long as the process lives; across processes too, as far as
the wall clock was not set while none was there. Then, what is known to have been set lies in no future: an alarm waits no longer
than it was to wait when it was set.

Each shard counts by itself, because shards change workers: what is stored of it is how far it is ahead of the wall clock.

Rule: pure; both clocks are given.
"""

from __future__ import annotations

from collections.abc import Callable

STEP_US = 10_000
"""The wall clock was set when it has gone so far from where it was."""
READING_US_MAX = 1_000
"""Two clocks that were read further apart say nothing about each other."""


class SteadyTime:
    def __init__(self, wall_us: Callable[[], int], monotonic_us: Callable[[], int]) -> None:
        self._wall_us = wall_us
        self._monotonic_us = monotonic_us
        self._bases_us: dict[int, int] = {}
        """By shard: its steady time when the monotonic clock was 0."""
        self.ahead_us: dict[int, int] = {}
        """By shard: how far it is ahead of the wall clock. To be stored."""
        self._unset_us = (0, 0)
        """Between these, how far the wall clock is ahead of the monotonic one, as long as it has not been set for any shard."""

    def begin(self, shard: int, ahead_us: int) -> None:
        """`ahead_us` is what was stored."""
        self._bases_us[shard] = self._wall_us() + ahead_us - self._monotonic_us()
        self.ahead_us[shard] = ahead_us
        self._know_unset()

    def end(self, shard: int) -> None:
        """It is of no interest any longer."""
        if self._bases_us.pop(shard, None) is not None:
            del self.ahead_us[shard]
            self._know_unset()

    def _know_unset(self) -> None:
        distances_us = [base_us - self.ahead_us[shard] for shard, base_us in self._bases_us.items()] or [0]
        self._unset_us = max(distances_us) - STEP_US, min(distances_us) + STEP_US

    def now_us(self, shard: int) -> int:
        return self._monotonic_us() + self._bases_us[shard]

    def was_set(self) -> list[int]:
        """The shards of which something else has to be stored, because the wall clock was set."""
        before_us = self._monotonic_us()
        wall_us = self._wall_us()
        least_us, most_us = self._unset_us
        if least_us < wall_us - before_us < most_us:
            return []
        now_us = self._monotonic_us()
        if now_us - before_us > READING_US_MAX:
            return []
        changed = []
        for shard, base_us in self._bases_us.items():
            ahead_us = now_us + base_us - wall_us
            if abs(ahead_us - self.ahead_us[shard]) >= STEP_US:
                self.ahead_us[shard] = ahead_us
                changed.append(shard)
        if changed:
            self._know_unset()
        return changed

    def at_least(self, shard: int, steady_us: int) -> bool:
        """It was so late already. Whether that was news: then something else has to be stored."""
        behind_us = steady_us - self.now_us(shard)
        if behind_us <= 0:
            return False
        self._bases_us[shard] += behind_us
        self.ahead_us[shard] += behind_us
        return True
