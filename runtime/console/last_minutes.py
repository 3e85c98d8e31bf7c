"""What the console has seen of a service: how fast it went in the last minutes, and how fast each shard goes.

Rule: pure. Times are milliseconds of a clock that nobody sets, given by the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

POINTS_MAX = 300
POINT_MS = 2_000
"""Processes tell that often what they have counted."""
QUIET_MS = 5_000
"""Of a worker that has told nothing new for so long no shard is called."""


class LastMinutes:
    def __init__(self) -> None:
        self._points: deque[tuple[int, float, float, float | None, float | None]] = deque(maxlen=POINTS_MAX)
        """When, calls and errors a second, and how long answers took: p50 and p99 in milliseconds."""
        self._start: Any = None
        """Which start of the service it is."""
        self._told: dict[str, tuple[int, Mapping[str, int]]] = {}
        """By worker: when it has told something new, and that: calls by shard."""
        self._rates: dict[str, dict[str, float]] = {}

    def saw(self, status: Mapping[str, Any], now_ms: int) -> None:
        rates = status.get("rates") or {}
        if not self._points or now_ms - self._points[-1][0] >= POINT_MS * 0.9:
            paces = float(rates.get("calls_per_s", 0.0)), float(rates.get("errors_per_s", 0.0))
            self._points.append((now_ms, *paces, rates.get("answer_p50_ms"), rates.get("answer_p99_ms")))
        found = {str(each["name"]): each.get("statistics", {}).get("shard_calls") for each in status.get("processes", ())}
        workers = {name: calls for name, calls in found.items() if calls is not None}
        is_same = status.get("start") == self._start
        self._start = status.get("start")
        self._told = {name: told for name, told in self._told.items() if is_same and name in workers}
        self._rates = {name: each for name, each in self._rates.items() if is_same and name in workers}
        for name, calls in workers.items():
            self._count(name, calls, now_ms)

    def _count(self, worker: str, calls: Mapping[str, int], now_ms: int) -> None:
        at_ms, before = self._told.get(worker, (now_ms, calls))
        if calls != before:
            elapsed_s = max(1, now_ms - at_ms) / 1_000
            # A process that was started again begins with none.
            new = {shard: count - before.get(shard, 0) for shard, count in calls.items()}
            self._rates[worker] = {
                shard: round(max(0, more if more >= 0 else calls[shard]) / elapsed_s, 1) for shard, more in new.items()
            }
        elif now_ms - at_ms < QUIET_MS:
            self._told.setdefault(worker, (at_ms, calls))
            return
        else:
            self._rates[worker] = {}
        self._told[worker] = now_ms, calls

    def points(self, after_ms: int) -> list[tuple[int, float, float, float | None, float | None]]:
        """Those newer than that, oldest first."""
        return [point for point in self._points if point[0] > after_ms]

    def shard_rates(self) -> dict[str, float]:
        """Calls a second by shard."""
        return {shard: rate for rates in self._rates.values() for shard, rate in rates.items()}
