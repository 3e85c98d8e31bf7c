"""Which objects of a worker are called most: not each call is counted, but every so-manieth.

Guarantee: of who is called most the share is known to a few percent of it; while there are few calls a second each is counted. A
call costs a part of a subtraction, and memory is bounded, whatever is called.

Which calls are looked at is drawn, with a mean distance: clients whose calls come in a fixed order would else be seen or not seen
for ever. How far they are apart follows the load.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Sequence
from heapq import nlargest
from random import Random

from tidegate.runtime.wire.protocol import Request
from tidegate.shard.host.settings import HotObject

SHOWN_MAX = 10
WINDOW_S_MIN = 0.5
"""What was seen in less time is added to what comes."""
MINUTE_S = 60.0
KEPT_MAX = 100
"""Of each window; who is not among these counts as not called in it."""
SEEN_AIM = 1_000
"""Calls that are looked at in a window, about."""
SEEN_MAX = 4_000
"""After so many they are looked at half as often, when the load has grown."""


class HotObjects:
    __slots__ = ("_classes", "_every", "_now", "_random", "_seen", "_shown", "_since_s", "_sums", "_weights", "_windows", "left")

    def __init__(self, classes: Container[str], now_s: float) -> None:
        self._classes = classes
        self._random = Random(0)
        self._every = 1
        """Calls that one which is looked at stands for."""
        self._seen = 0
        self._weights: dict[tuple[str, str], int] = {}
        self._since_s = now_s
        self._shown: list[HotObject] = []
        self._now: dict[tuple[str, str], float] = {}
        """Calls a second in the newest window, of KEPT_MAX objects."""
        self._windows: deque[tuple[float, list[tuple[tuple[str, str], int]]]] = deque()
        """Those of the last minute, oldest first: when each began, and who was called most in it."""
        self._sums: dict[tuple[str, str], int] = {}
        """Of all of these."""
        self.left = 1
        """Calls up to the next one that is looked at; whoever takes calls subtracts them, and calls `look` when none is left."""

    def look(self, requests: Sequence[Request]) -> None:
        """At those of these calls whose turn it is. They have been subtracted."""
        at = len(requests) + self.left - 1
        while at < len(requests):
            request = requests[at]
            if request.cls in self._classes:
                key = request.cls, request.name
                self._weights[key] = self._weights.get(key, 0) + self._every
                self._seen += 1
                if self._seen % SEEN_MAX == 0:
                    self._every *= 2
            at += 1 if self._every == 1 else self._random.randint(1, 2 * self._every - 1)
        self.left = at - len(requests) + 1

    def newest(self, now_s: float) -> list[HotObject]:
        """Of the time since it was asked last, those that are called most first."""
        if (elapsed_s := now_s - self._since_s) < WINDOW_S_MIN:
            return self._shown
        most = _most(KEPT_MAX, self._weights)
        self._keep(most, now_s)
        self._now = {key: round(weight / elapsed_s, 1) for key, weight in most}
        self._every = max(1, sum(self._weights.values()) // SEEN_AIM)
        self.left = min(self.left, 2 * self._every - 1)  # What was drawn under more load would hide the few calls that come now.
        self._weights, self._since_s, self._seen = {}, now_s, 0
        self._shown = self._told(key for key, _ in most[:SHOWN_MAX])
        return self._shown

    def _keep(self, most: list[tuple[tuple[str, str], int]], now_s: float) -> None:
        """For a minute."""
        self._windows.append((self._since_s, most))
        for key, weight in most:
            self._sums[key] = self._sums.get(key, 0) + weight
        while now_s - self._windows[0][0] > MINUTE_S + WINDOW_S_MIN and len(self._windows) > 1:
            for key, weight in self._windows.popleft()[1]:
                self._sums[key] -= weight
                if not self._sums[key]:
                    del self._sums[key]

    def of_last_minute(self) -> list[HotObject]:
        """Of the minute before `newest` was asked, or of as much of it as there was."""
        return self._told(key for key, _ in _most(SHOWN_MAX, self._sums))

    def of_one(self, class_name: str, name: str) -> HotObject:
        """0 where others are called more."""
        return self._told([(class_name, name)])[0]

    def _told(self, keys: Iterable[tuple[str, str]]) -> list[HotObject]:
        elapsed_s = max(WINDOW_S_MIN, self._since_s - self._windows[0][0]) if self._windows else MINUTE_S
        return [HotObject(*key, self._now.get(key, 0.0), round(self._sums.get(key, 0) / elapsed_s, 1)) for key in keys]


def _most(count: int, weights: dict[tuple[str, str], int]) -> list[tuple[tuple[str, str], int]]:
    return nlargest(count, weights.items(), key=lambda item: (item[1], item[0]))
