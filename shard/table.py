"""The activation table: which objects are in memory, and which of them have to leave it.

Guarantee: at most one activation of an object is in the table; only idle ones are evicted, so eviction loses nothing but memory.

Age is kept as a clock rather than a list: an activation that was used since it was last looked at goes to the back of the queue,
so that a call costs one assignment and a sweep costs O(1) per activation and idle period.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from runtime.errors import ObjectReset
from shard.activation import Activation
from shard.cache import Budget
from shard.commit import GroupCommit
from shard.methods import ObjectClass

ACTIVATION_BYTES = 2_048
"""What an idle activation costs beside its cached entries."""

LOOKS_PER_TURN = 1_000
"""Activations looked at in one sweep: about a millisecond when all of them go."""


class Kept:
    """A class and its activations by object name."""

    __slots__ = ("activations", "methods", "object_class")

    def __init__(self, object_class: ObjectClass) -> None:
        self.object_class = object_class
        self.methods = object_class.methods
        self.activations: dict[str, Activation] = {}


class ActivationTable:
    def __init__(self, classes: Iterable[ObjectClass], commits: GroupCommit, bytes_max: int, idle_s: float) -> None:
        self.classes = {object_class.name: Kept(object_class) for object_class in classes}
        self.budget = Budget(bytes_max)
        self.evictions = 0
        self._commits = commits
        self._idle_s = idle_s
        self._by_age: collections.deque[tuple[Activation, float]] = collections.deque()
        """With the time of last use that was known when it was looked at; oldest first."""

    def __len__(self) -> int:
        return sum(len(kept.activations) for kept in self.classes.values())

    def add(self, activation: Activation, now_s: float) -> None:
        activations = self.classes[activation.object_class.name].activations
        assert activation.id.name not in activations, "at most one activation of an object"
        activations[activation.id.name] = activation
        self.budget.used_bytes += ACTIVATION_BYTES
        self._by_age.append((activation, now_s))

    def remove(self, activation: Activation) -> None:
        """Its memory no longer counts. Does nothing for one that never got in."""
        activations = self.classes[activation.object_class.name].activations
        if activations.get(activation.id.name) is activation:
            del activations[activation.id.name]
            self.budget.used_bytes -= ACTIVATION_BYTES
        self.budget.used_bytes -= activation.cache.bytes
        activation.cache.bytes = 0

    @property
    def over_budget(self) -> bool:
        return self.budget.used_bytes > self.budget.bytes_max

    @property
    def is_empty(self) -> bool:
        return not self._by_age

    def evict_idle(self, now_s: float) -> float | None:
        """Evicts what has been idle for long enough, and, over the memory budget, the least recently used. Returns when to
        come again, or None when nothing is in memory."""
        by_age = self._by_age
        for _ in range(min(len(by_age), LOOKS_PER_TURN)):
            activation, seen_s = by_age[0]
            pressed = self.over_budget
            if not pressed and seen_s + self._idle_s > now_s:
                break
            by_age.popleft()
            if activation.broken is not None:
                continue
            if activation.last_used_s > seen_s:
                by_age.append((activation, activation.last_used_s))
            elif activation.is_idle(now_s):
                self._evict(activation)
            else:
                activation.cache.evict()
                by_age.append((activation, now_s))
        return max(now_s, by_age[0][1] + self._idle_s) if by_age else None

    def _evict(self, activation: Activation) -> None:
        self.evictions += 1
        self.remove(activation)
        activation.broken = ObjectReset(f"{activation.id} was evicted")
        activation.cache.break_with(activation.broken)
        activation.let_go()
