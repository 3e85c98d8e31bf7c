"""What one object piles up: tasks, callbacks that wait for their time, data in memory. Who has much of it is named.

Guarantee: an object that has very much is named in the log, once and again each time it has doubled, and to whoever asks for the
numbers of the worker, until it has less. (Where it must not have more, its own code is told: by an error when it starts a task or
sets a timer beyond the bound, when it writes more than a commit takes.)

Rule: nothing is counted with a call. The table looks at whoever stays in memory once in each idle period anyway.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from gc import get_referents
from itertools import islice
from typing import Any

from tidegate.runtime.errors import one_line
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import PILE_BYTES, PILE_CALLBACKS, PILE_TASKS
from tidegate.shard.core.states import State
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.named import NamedObjects
from tidegate.shard.host.settings import PiledUp

CACHE_SHARE = 4
"""A quarter of the memory for cached data is much for one object."""
MEASURED_PER_S = 100
"""Instances: 3 to 40 µs each."""
ATTRIBUTES_MAX = 64
SAMPLES = 3
"""Of the items of a container, to tell what all of them take."""
DEPTH = 2
"""Containers in containers that are looked into."""
_OF_EVERY_INSTANCE = "_activation"
"""An attribute."""
_PLAIN = frozenset({str, bytes, bytearray})
_CONTAINERS = frozenset({list, tuple, set, frozenset, dict, deque})
"""Of these types themselves: others may do anything when they are asked."""
_OTHER_BYTES = 64


class _Pile:
    __slots__ = ("row", "told")

    def __init__(self) -> None:
        self.row: PiledUp
        self.told = 0.0
        """How much it was in the last line, in units of what is much."""


class Piles:
    def __init__(self, cache_bytes_max: int, say: Callable[[ObjectId, str], None]) -> None:
        self._cached_bytes = max(PILE_BYTES, cache_bytes_max // CACHE_SHARE)
        self._say = say
        self._named: NamedObjects[_Pile] = NamedObjects()
        self._second_ends_s = -math.inf
        self._left = 0
        """Instances that may be measured in this second."""

    def look(self, activation: Activation, now_s: float) -> None:
        """At one that stays in memory."""
        if now_s >= self._second_ends_s:
            self._second_ends_s, self._left = now_s + 1.0, MEASURED_PER_S
        measured = self._left > 0 and activation.state is State.AWAKE
        self._left -= measured
        pile = self._named.get(activation)
        if measured:
            kept = kept_bytes(activation.instance)
        else:
            kept = 0 if pile is None else pile.row.kept_bytes
        tasks, callbacks, cached = len(activation.tasks), len(activation.callbacks), activation.cache.bytes
        much = max(tasks / PILE_TASKS, callbacks / PILE_CALLBACKS, cached / self._cached_bytes, kept / PILE_BYTES)
        if pile is None:
            if much < 1 or not self._named.has_room():
                return
            pile = self._named[activation] = _Pile()
        elif much < 0.5:
            del self._named[activation]
            return
        row = pile.row = PiledUp(one_line(str(activation.id)), tasks, callbacks, cached, kept)
        if much >= 2 * pile.told:
            pile.told = much
            self._say(activation.id, row.shown())

    def named(self) -> list[PiledUp]:
        self._named.forget_gone()
        return [pile.row for pile in self._named.values()]


def kept_bytes(instance: object) -> int:
    """About what the attributes of an instance take that are plain data. Takes microseconds, however much it is."""
    return sum(_size(value, DEPTH) for value in islice(_attributes(instance), ATTRIBUTES_MAX))


def _attributes(instance: object) -> Iterator[Any]:
    """In no order. Not all instances have them in a dict, and to ask for one would make it."""
    for value in get_referents(instance):
        if type(value) is dict and _OF_EVERY_INSTANCE in value:
            yield from value.values()
        else:
            yield value


def _size(value: Any, depth: int) -> int:
    kind = type(value)
    if kind in _PLAIN:
        return sys.getsizeof(value)
    if kind not in _CONTAINERS:
        return _OTHER_BYTES
    size, count = sys.getsizeof(value), len(value)
    if not count or not depth:
        return size
    items = islice(value.values() if kind is dict else value, SAMPLES)
    return size + sum(_size(item, depth - 1) for item in items) * count // min(count, SAMPLES)
