"""Random scripts for journals: lists of steps `[kind, …]` that `tests.sim.objects.Run` understands."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.sim.scenario import Scenario

Script = list[Any]
KEYS = tuple(f"k{n}" for n in range(5))


class ScriptMaker:
    """Unless there are to be circles, calls go to journals with a higher number only, so that no section waits for another in a
    circle."""

    def __init__(self, random: Random, scenario: Scenario, journals: int) -> None:
        self._random = random
        self._scenario = scenario
        self._journals = journals

    def script(self, journal: int, depth: int = 3, place: str = "") -> Script:
        """`place`: inside of a "section", a "transaction", or neither."""
        count = self._random.choice((1, 1, 2, 3))
        return [self._step(journal, depth, place) for _ in range(count)]

    def _step(self, journal: int, depth: int, place: str) -> list[Any]:
        random = self._random
        draw = random.random()
        if draw < 0.45 or depth == 0:
            return self._simple(place)
        inner = depth - 1
        lowest = 0 if self._scenario.circles else journal + 1
        if draw < 0.60 and lowest < self._journals:
            target = journal if self._scenario.circles and random.random() < 0.2 else random.randrange(lowest, self._journals)
            return ["call", f"j{target}", self.script(target, inner)]
        if draw < 0.70:
            end = random.choice(("commit", "commit", "rollback", "raise"))
            return ["txn", self.script(journal, inner, "transaction"), end]
        if place == "transaction":
            return self._simple(place)
        if draw < 0.78:
            return ["section", self.script(journal, inner, "section")]
        if draw < 0.84:
            return [random.choice(("gather", "group")), [self.script(journal, inner, place) for _ in range(2)]]
        if draw < 0.87:
            return ["spawn", self.script(journal, inner, place)]
        if draw < 0.89:
            return ["callback", self._pause(), [self._operation() for _ in range(random.randrange(1, 3))]]
        if draw < 0.92 and not place:  # Who holds it must not wait for a section in which somebody waits for it.
            return ["lock", [self._simple(place), ["sleep", self._pause()]]]
        if self._scenario.harsh:
            return self._harsh(journal, inner, place)
        return ["sync"]

    def _harsh(self, journal: int, depth: int, place: str) -> list[Any]:
        random = self._random
        draw = random.random()
        if draw < 0.2:
            return ["abort"]
        if draw < 0.4:
            return ["raise"]
        if draw < 0.7:
            return ["guard", [["sleep", self._pause()], *self.script(journal, depth, place)]]
        if draw < 0.72:
            return ["section", [["sleep", 31.0]]]
        return ["timeout", self._pause(), self.script(journal, depth, place)]

    def _simple(self, place: str) -> list[Any]:
        random = self._random
        draw = random.random()
        if draw < 0.6:
            operations = [self._operation() for _ in range(random.randrange(0, 4))]
            confirmed = bool(operations) or random.random() < 0.5
            return ["write", operations, confirmed]
        if draw < 0.75:
            return ["check"]
        if draw < 0.95 or place == "transaction":
            return ["sleep", self._pause()]
        return ["sync"]

    def _operation(self) -> list[Any]:
        random = self._random
        draw = random.random()
        if draw < 0.6:
            return ["put", random.choice(KEYS), self._value()]
        if draw < 0.75:
            return ["many", {key: self._value() for key in random.sample(KEYS, 2)}]
        if draw < 0.85:
            return ["delete", random.choice(KEYS)]
        if draw < 0.90:
            return ["delete_many", random.sample(KEYS, 2)]
        if draw < 0.96:
            return ["alarm", random.choice((0.0, 0.01, 0.5)), random.randrange(1_000_000_000)]
        if draw < 0.97:
            return ["no_alarm"]
        return ["clear"]

    def _value(self) -> Any:
        random = self._random
        return random.choice((random.randrange(3), None, "x" * random.randrange(200), [1, {"a": "b"}], 0.5, True))

    def _pause(self) -> float:
        return self._random.choice((0.0, 0.000_2, 0.001, 0.005, 0.03))
