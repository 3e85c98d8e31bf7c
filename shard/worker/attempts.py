"""When what has failed for a shard is tried again: the rules. Times are arguments."""

from __future__ import annotations

PAUSE_S_MIN = 10.0
PAUSE_S_MAX = 600.0
"""Each attempt may copy all of a shard and send it to servers: one that fails for hours is to be hardly noticed, and one that
could succeed again is not to wait for long."""


def pause_s(failures: int) -> float:
    """After so many failures in a row."""
    return min(PAUSE_S_MIN * 2.0 ** min(failures - 1, 10), PAUSE_S_MAX)


class Attempts:
    def __init__(self) -> None:
        self._failures: dict[int, int] = {}
        self._again_s: dict[int, float] = {}

    def is_time(self, shard: int, now_s: float) -> bool:
        return now_s >= self._again_s.get(shard, now_s)

    def failed(self, shard: int, now_s: float) -> None:
        self._failures[shard] = self._failures.get(shard, 0) + 1
        self._again_s[shard] = now_s + pause_s(self._failures[shard])

    def went_well(self, shard: int) -> None:
        self._failures.pop(shard, None)
        self._again_s.pop(shard, None)
