"""The activation table: which objects are in memory, and which of them have to leave it.

Guarantee: at most one activation of an object is in the table; only idle ones are evicted, so eviction loses nothing but memory.

An idle object loses its instance first, and *sleeps*: what its storage has cached stays for a while, if the budget allows it.
Waking it costs a tenth of reading it anew, which decides where a million objects are called in turn. An instance that has kept
nothing *rests* with the others' caches: a new one would be no different. Both show in nothing but speed. (What each state means
stands in `core/states.py`.)

Age is kept as a clock rather than a list: an activation that was used since it was last looked at goes to the back of the queue,
so that a call costs one assignment and a sweep costs O(1) per activation and idle period.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

from tidegate.shard.core.cache import Budget
from tidegate.shard.core.states import Event, InvalidTransition, State, Stories
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.counting import ClassCounts
from tidegate.shard.host.split_dict import SplitDict
from tidegate.shard.objects.methods import ObjectClass

ACTIVATION_BYTES = 1_232
"""What an activation that is used costs beside its cached entries: see `benchmarks/cold.py`."""

SLEEP_FACTOR = 7
"""An object that has been idle for so many times as long as costs it its instance is dropped."""

LOOKS_PER_TURN = 1_000
"""Activations looked at in one sweep while memory is short: as many as may have come since the last."""
LOOKS_AT_LEISURE = 100
"""While it is not. What nobody has used for long is in no cache of the CPU: 10 to 40 µs each, seen with a million objects."""


ASLEEP, RESTED, ROUSED = State.ASLEEP, Event.RESTED, Event.ROUSED
"""Of a million objects in turn each does both for every call; to ask an enum for a member takes 0.1 µs before Python 3.12."""
IDLE = frozenset({State.RESTING, State.ASLEEP})
IN_USE = frozenset({State.STARTING, State.AWAKE, State.RESTING})
"""With an instance."""


class AgeQueue:
    """Activations, each with a time in seconds, oldest first. (In two queues, not one of pairs: a pair for each of a million
    objects every few seconds is what Python's collector would spend its time on.)"""

    __slots__ = ("activations", "times_s")

    def __init__(self) -> None:
        self.activations: collections.deque[Activation] = collections.deque()
        self.times_s: collections.deque[float] = collections.deque()

    def __len__(self) -> int:
        return len(self.activations)

    def append(self, activation: Activation, time_s: float) -> None:
        self.activations.append(activation)
        self.times_s.append(time_s)

    def first(self) -> tuple[Activation, float]:
        return self.activations[0], self.times_s[0]

    def remove_first(self) -> None:
        self.activations.popleft()
        self.times_s.popleft()


class Kept:
    """A class and its activations by object name."""

    __slots__ = ("activations", "asleep", "counts", "methods", "object_class")

    def __init__(self, object_class: ObjectClass) -> None:
        self.object_class = object_class
        self.methods = object_class.methods
        self.counts = ClassCounts(object_class.name)
        self.activations: SplitDict[str, Activation] = SplitDict()
        self.asleep: SplitDict[str, Activation] = SplitDict()
        """Without an instance."""


class ActivationTable:
    def __init__(
        self, classes: Iterable[ObjectClass], bytes_max: int, idle_s: float, stays: Callable[[Activation, float], None]
    ) -> None:
        """`stays` is told who has something to do, or has been used lately, once in each idle period."""
        self.classes = {object_class.name: Kept(object_class) for object_class in classes}
        self.budget = Budget(bytes_max)
        self.stories = Stories()
        self.added = self.evictions = 0
        self._idle_s = idle_s
        self._stays = stays
        self._by_age = AgeQueue()
        """With the time of last use that was known when it was looked at; oldest first."""
        self.sleep_s = SLEEP_FACTOR * idle_s
        self._idle_by_age = AgeQueue()
        """Those that rest or sleep, each with the time of its last use, oldest first. Who has been used meanwhile stays here
        until then, and has another state or another time."""

    def __len__(self) -> int:
        return sum(len(kept.activations) for kept in self.classes.values())

    def add(self, activation: Activation, now_s: float) -> None:
        self.classes[activation.object_class.name].activations.add(activation.id.name, activation)
        self.added += 1
        self.budget.used_bytes += ACTIVATION_BYTES
        by_age = self._by_age
        by_age.activations.append(activation)
        by_age.times_s.append(now_s)

    def remove(self, activation: Activation) -> None:
        """Its memory no longer counts. Does nothing for one that never got in."""
        class_name, name = activation.id
        kept, budget, cache = self.classes.get(class_name), self.budget, activation.cache
        if kept is not None:
            if kept.activations.find(name) is activation:
                del kept.activations[name]
                budget.used_bytes -= ACTIVATION_BYTES
            elif kept.asleep.find(name) is activation:
                del kept.asleep[name]
                budget.used_bytes -= ACTIVATION_BYTES
        budget.used_bytes -= cache.bytes
        cache.bytes = 0

    def over_budget(self) -> bool:
        return self.budget.used_bytes > self.budget.bytes_max

    @property
    def is_empty(self) -> bool:
        return not self._by_age and not self._idle_by_age

    def evict_idle(self, now_s: float) -> float | None:
        """Puts to sleep what has been idle for long enough; drops what has slept for long enough and, over the memory budget, the
        least recently used. Returns when to come again, or None when nothing is in memory."""
        looks = LOOKS_PER_TURN if self.over_budget() else LOOKS_AT_LEISURE
        if self._idle_by_age:
            self._drop_idle(now_s, looks)
        if self._idle_by_age and self.over_budget():
            return now_s  # Those that are used leave when no other is left.
        by_age, budget = self._by_age, self.budget
        activations, times_s = by_age.activations, by_age.times_s
        for _ in range(min(len(by_age), looks)):
            activation, seen_s = activations[0], times_s[0]
            pressed = budget.used_bytes > budget.bytes_max
            if not pressed and seen_s + self._idle_s > now_s:
                break
            activations.popleft()
            times_s.popleft()
            if activation.broken is not None:
                continue
            if activation.last_used_s > seen_s:
                by_age.append(activation, activation.last_used_s)
                self._stays(activation, now_s)
            elif not activation.is_idle(now_s):
                self._stays(activation, now_s)
                activation.cache.evict()
                by_age.append(activation, now_s)
            else:
                try:
                    if pressed or seen_s + self.sleep_s <= now_s:
                        self.evict(activation)
                    else:
                        self._put_to_sleep(activation)
                except InvalidTransition:  # It has been reset; the others go on.
                    continue
        again_s = [by_age.first()[1] + self._idle_s] if by_age else []
        if self._idle_by_age:
            again_s.append(self._idle_by_age.first()[1] + self.sleep_s)
        return max(now_s, min(again_s)) if again_s else None

    def evict(self, activation: Activation) -> None:
        """One that is idle leaves memory."""
        kept, cache = self.classes[activation.object_class.name], activation.cache
        if activation.state is not ASLEEP:  # Else it was counted when its instance left.
            self.evictions += 1
            del kept.activations[activation.id.name]
        else:
            del kept.asleep[activation.id.name]
        self.budget.used_bytes -= ACTIVATION_BYTES + cache.bytes
        cache.bytes = 0
        activation.leave_memory()

    def leave(self, activation: Activation, now_s: float) -> bool:
        """One whose shard has gone leaves memory. False: something of it is still under way, so that it has to be reset."""
        if activation.state is State.RESTING:
            activation.move(ROUSED)
            activation.gate.rouse()
        if activation.state is not State.ASLEEP and not activation.is_idle(now_s):
            return False
        self.evict(activation)
        return True

    def of_shard(self, shard: int) -> list[Activation]:
        """All that are in memory, with an instance or without."""
        return [
            activation
            for kept in self.classes.values()
            for each in (kept.activations, kept.asleep)
            for activation in each.values()
            if activation.cache.shard == shard
        ]

    # Sleep

    def wake(self, kept: Kept, name: str) -> Activation | None:
        """The activation of an object that sleeps: whoever asks gives it an instance and adds it again."""
        activation = kept.asleep.find(name)
        if activation is None:
            return None
        try:
            activation.move(Event.WOKEN)
        except InvalidTransition:  # It has been reset: the object is in memory no more.
            return None
        del kept.asleep[name]
        self.budget.used_bytes -= ACTIVATION_BYTES
        return activation

    def rouse(self, activation: Activation, now_s: float) -> None:
        """One that rests is used again."""
        activation.move(ROUSED)
        activation.gate.rouse()
        self._by_age.append(activation, now_s)

    def _put_to_sleep(self, activation: Activation) -> None:
        self._idle_by_age.append(activation, activation.last_used_s)
        if activation.is_blank():
            activation.move(RESTED)
            activation.drop_attribution()
            activation.context = None
            activation.gate.rest()
            return
        activation.lay_down()
        kept = self.classes[activation.object_class.name]
        name = activation.id.name
        del kept.activations[name]
        kept.asleep[name] = activation
        self.evictions += 1

    def _drop_idle(self, now_s: float, looks: int) -> None:
        idle = self._idle_by_age
        for _ in range(min(len(idle), looks)):
            activation, used_s = idle.first()
            if activation.last_used_s != used_s or activation.state not in IDLE:
                idle.remove_first()
                continue
            if used_s + self.sleep_s > now_s and not self.over_budget():
                return
            idle.remove_first()
            try:
                self._drop(activation, now_s)
            except InvalidTransition:
                continue

    def _drop(self, activation: Activation, now_s: float) -> None:
        if activation.state is State.RESTING:
            activation.move(ROUSED)
            activation.gate.rouse()
            if not activation.is_idle(now_s):
                self._by_age.append(activation, now_s)
                return
        self.evict(activation)

    def check_invariants(self) -> None:
        """Every object is where its state says. For tests."""
        for kept in self.classes.values():
            for activations, states in ((kept.activations, IN_USE), (kept.asleep, {State.ASLEEP})):
                for activation in activations.values():
                    assert activation.state in states, (activation.id, activation.state)
                    assert activation.broken is None, activation.id
                    assert activation.gate.resting == (activation.state is State.RESTING), activation.id
        assert not self.stories.mistakes
