"""Which objects of a worker are called most: not each call is counted, but every so-manieth.

Guarantee: of who is called most the share is known to a few percent of it; while there are few calls a second each is counted. A
call costs a part of a subtraction, and memory is bounded, whatever is called.

Which calls are looked at is drawn, with a mean distance: clients whose calls come in a fixed order would else be seen or not seen
for ever. How far they are apart follows the load.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from heapq import nlargest
from random import Random

from tidegate.runtime.wire.protocol import Request
from tidegate.shard.host.settings import HotObject

SHOWN_MAX = 10
WINDOW_S_MIN = 0.5
"""What was seen in less time is added to what comes."""
SEEN_AIM = 1_000
"""Calls that are looked at in a window, about."""
SEEN_MAX = 4_000
"""After so many they are looked at half as often, when the load has grown."""


class HotObjects:
    __slots__ = ("_classes", "_every", "_random", "_seen", "_shown", "_since_s", "_weights", "left")

    def __init__(self, classes: Container[str], now_s: float) -> None:
        self._classes = classes
        self._random = Random(0)
        self._every = 1
        """Calls that one which is looked at stands for."""
        self._seen = 0
        self._weights: dict[tuple[str, str], int] = {}
        self._since_s = now_s
        self._shown: list[HotObject] = []
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
        most = nlargest(SHOWN_MAX, self._weights.items(), key=lambda item: (item[1], item[0]))
        self._shown = [HotObject(*key, round(weight / elapsed_s, 1)) for key, weight in most]
        self._every = max(1, sum(self._weights.values()) // SEEN_AIM)
        self.left = min(self.left, 2 * self._every - 1)  # What was drawn under more load would hide the few calls that come now.
        self._weights, self._since_s, self._seen = {}, now_s, 0
        return self._shown
