"""Which objects there are now, and which call comes next.

Rule: pure; chance is given. Every value that is written is written by one call only, so that who reads it knows which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

Call = tuple[str, str, str, tuple[Any, ...]]
"""Class, name, method, arguments."""

PLACES = {"Counter": 20, "Register": 24, "Shelf": 16, "Account": 10, "Bulk": 16}
"""Objects of each class that are called at a time."""
SHARES = {"Counter": 0.4, "Register": 0.3, "Shelf": 0.2, "Account": 0.1}
SHELF_PLACES = ("left", "middle", "right")
VALUES_PER_CALLER = 1 << 40
SEEN_MAX = 200


class Roster:
    """The objects that are called now, and all that ever were."""

    def __init__(self) -> None:
        self._now = {cls: [f"{cls.lower()}-{place}" for place in range(count)] for cls, count in PLACES.items()}
        self.names: dict[str, list[str]] = {cls: list(names) for cls, names in self._now.items()}
        """By class: every object that was called."""

    def now(self, class_name: str) -> list[str]:
        return self._now[class_name]

    def at_least(self, class_name: str, count: int) -> list[str]:
        """So many objects of the class; those that are missing are called from now on."""
        now = self._now[class_name]
        more = [f"{class_name.lower()}-{place}" for place in range(len(now), count)]
        now += more
        self.names[class_name] += more
        return now[:count]

    def retire(self, class_name: str, name: str) -> None:
        """From now on another object is called in its place."""
        stem, _, generation = name.partition(".")
        successor = f"{stem}.{int(generation or 0) + 1}"
        self._now[class_name][self._now[class_name].index(name)] = successor
        self.names[class_name].append(successor)


class Workload:
    """The calls of one caller."""

    def __init__(self, roster: Roster, random: Random, caller: int, *, keys: bool) -> None:
        """With keys, what one account gives another is a method that may be repeated; without, one that may be interrupted."""
        self._roster = roster
        self._give = "pay" if keys else "transfer"
        self._random = random
        self._value = caller * VALUES_PER_CALLER
        self._calls = {"Counter": self._call_counter, "Register": self._call_register, "Shelf": self._call_shelf}
        self._seen: dict[str, int] = {}
        """What a register had when it was last asked."""

    def next_call(self) -> Call:
        cls = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        name = self._random.choice(self._roster.now(cls))
        if cls == "Account":
            to = self._random.choice([other for other in self._roster.now(cls) if other != name])
            return cls, name, self._give, (to, self._random.randint(1, 50))
        return cls, name, *self._calls[cls](name)

    def seen(self, call: Call, result: Any) -> None:
        if call[0] == "Register" and isinstance(result, int) and not isinstance(result, bool):
            if len(self._seen) >= SEEN_MAX:
                self._seen.clear()
            self._seen[call[1]] = call[3][0] if call[2] == "swap" else result

    def _call_counter(self, name: str) -> tuple[str, tuple[Any, ...]]:
        return ("read" if self._random.random() < 0.1 else "take"), ()

    def _call_register(self, name: str) -> tuple[str, tuple[Any, ...]]:
        chance = self._random.random()
        if chance < 0.3:
            return "read", ()
        if chance < 0.6 and name in self._seen:
            return "compare_and_swap", (self._seen[name], self._next_value())
        return "swap", (self._next_value(),)

    def _call_shelf(self, name: str) -> tuple[str, tuple[Any, ...]]:
        chance = self._random.random()
        one, other = self._random.sample(SHELF_PLACES, 2)
        if chance < 0.45:
            return "put", (one, self._next_value())
        if chance < 0.65:
            return "take", (one,)
        if chance < 0.85:
            return "exchange", (one, other)
        return "read", ()

    def _next_value(self) -> int:
        self._value += 1
        return self._value
