"""Which objects of a worker are called most: not each call is counted, but every so-manieth.

Guarantee: of who is called most the share is known to a few percent of it; while there are few calls a second each is counted. A
call costs a part of a subtraction, and memory is bounded, whatever is called.

Which calls are looked at is drawn, with a mean distance: clients whose calls come in a fixed order would else be seen or not seen
for ever. How far they are apart follows the load.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
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
    __slots__ = ("_classes", "_every", "_random", "_seen", "_shown", "_since_s", "_sums", "_weights", "_windows", "left")

    def __init__(self, classes: Container[str], now_s: float) -> None:
        self._classes = classes
        self._random = Random(0)
        self._every = 1
        """Calls that one which is looked at stands for."""
        self._seen = 0
        self._weights: dict[tuple[str, str], int] = {}
        self._since_s = now_s
        self._shown: list[HotObject] = []
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
        self._shown = [HotObject(*key, round(weight / elapsed_s, 1)) for key, weight in most[:SHOWN_MAX]]
        self._keep(most)
        self._every = max(1, sum(self._weights.values()) // SEEN_AIM)
        self.left = min(self.left, 2 * self._every - 1)  # What was drawn under more load would hide the few calls that come now.
        self._weights, self._since_s, self._seen = {}, now_s, 0
        return self._shown

    def _keep(self, most: list[tuple[tuple[str, str], int]]) -> None:
        self._windows.append((self._since_s, most))
        for key, weight in most:
            self._sums[key] = self._sums.get(key, 0) + weight

    def of_last_minute(self, now_s: float) -> list[HotObject]:
        """Of the minute before it was last asked for the newest, or of as much of it as there was."""
        while self._windows and now_s - self._windows[0][0] > MINUTE_S + WINDOW_S_MIN:
            _, most = self._windows.popleft()
            for key, weight in most:
                left = self._sums[key] - weight
                if left:
                    self._sums[key] = left
                else:
                    del self._sums[key]
        if not self._windows:
            return []
        elapsed_s = max(WINDOW_S_MIN, self._since_s - self._windows[0][0])
        return [HotObject(*key, round(weight / elapsed_s, 1)) for key, weight in _most(SHOWN_MAX, self._sums)]

    def of_one(self, class_name: str, name: str, now_s: float) -> dict[str, float]:
        """How often it is called, about: in the newest window, and in the last minute. 0 where others are called more."""
        key, found = (class_name, name), {"now": 0.0, "minute": 0.0}
        self.of_last_minute(now_s)
        if self._windows:
            since_s, most = self._windows[-1]
            found["now"] = round(dict(most).get(key, 0) / max(WINDOW_S_MIN, self._since_s - since_s), 1)
            found["minute"] = round(self._sums.get(key, 0) / max(WINDOW_S_MIN, self._since_s - self._windows[0][0]), 1)
        return found


def _most(count: int, weights: dict[tuple[str, str], int]) -> list[tuple[tuple[str, str], int]]:
    return nlargest(count, weights.items(), key=lambda item: (item[1], item[0]))
