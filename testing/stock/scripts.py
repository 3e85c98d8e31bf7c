"""Scripts: calls of a few objects, one after another, and time that passes between them.

Guarantee: a script follows from its number and from the classes of the app, on every Python. A part of one (`kept`) is named by
its steps, so that it can be run again: `17:0,3` are the first and the fourth step of number 17.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, NamedTuple

from tidegate.runtime.wire.annotations import signature_of
from tidegate.shard.objects.methods import Method, ObjectClass
from tidegate.testing.stock.values import NAMES, TRIES, NoValue, draw, is_carried, type_of

STEPS_MIN, STEPS_MAX = 2, 8
PAUSES_S = (60.0, 60.0, 3_600.0, 90_000.0)


class Ask(NamedTuple):
    """A call."""

    class_name: str
    name: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def target(self) -> str:
        return f"{self.class_name}/{self.name}"

    def __str__(self) -> str:
        shown = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.target}.{self.method}({', '.join(shown)})"


class Pause(NamedTuple):
    """So much time passes."""

    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds / 60:g} minutes pass"


Step = Ask | Pause


class Script(NamedTuple):
    number: int
    kept: tuple[int, ...]
    steps: tuple[Step, ...]

    def only(self, places: Iterable[int]) -> Script:
        """Those of its steps."""
        chosen = list(places)
        return Script(self.number, tuple(self.kept[at] for at in chosen), tuple(self.steps[at] for at in chosen))

    @property
    def name(self) -> str:
        return f"{self.number}:{','.join(map(str, self.kept))}"


class Offer:
    """A method that can be called, as its type hints say."""

    def __init__(self, class_name: str, method: Method) -> None:
        """Raises NoValue for one that cannot."""
        self.class_name = class_name
        self.method = method.name
        parameters = list(signature_of(method.function).parameters.values())[1:]
        hints = typing.get_type_hints(method.function, include_extras=True)
        self._parameters: list[tuple[inspect.Parameter, Any]] = []
        for each in parameters:
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                continue
            try:
                kind = type_of(hints.get(each.name, Any))
                _drawn(kind, Random(0))
                self._parameters.append((each, kind))
            except NoValue as error:
                if each.default is each.empty:
                    raise NoValue(f"{each.name}: {error}") from None
        self._by_position = any(each.kind is each.POSITIONAL_ONLY for each, _ in self._parameters)
        self.ask(NAMES[0], Random(0))

    def ask(self, name: str, chance: Random) -> Ask:
        """Raises NoValue."""
        values: dict[str, Any] = {}
        for parameter, kind in self._parameters:
            if parameter.default is not parameter.empty and chance.random() < 0.5:
                if self._by_position:
                    break
                continue
            values[parameter.name] = _drawn(kind, chance)
        if not is_carried(values):
            raise NoValue("its arguments cannot be sent")
        if self._by_position:
            return Ask(self.class_name, name, self.method, tuple(values.values()), {})
        return Ask(self.class_name, name, self.method, (), values)


def _drawn(kind: Any, chance: Random) -> Any:
    """A union may have members of which no value is known. Raises NoValue."""
    for _ in range(TRIES):
        try:
            return draw(kind, chance)
        except NoValue:
            continue
    return draw(kind, chance)


def offers_of(classes: Iterable[ObjectClass]) -> tuple[dict[str, list[Offer]], list[str]]:
    """By class; and which methods are left out, and why."""
    found: dict[str, list[Offer]] = {}
    left_out: list[str] = []
    for each in classes:
        found[each.name] = []
        for method in each.methods.values():
            try:
                found[each.name].append(Offer(each.name, method))
            except NoValue as error:
                left_out.append(f"{each.name}.{method.name} is not called: no value is known for {error}")
    return {name: offers for name, offers in found.items() if offers}, left_out


def draw_script(number: int, offers: dict[str, list[Offer]]) -> Script:
    """Most calls are of one class, and of one of its objects: each class has its turn. Short and long ones take turns."""
    chance = Random(f"script {number}")
    names = list(offers)
    steps: list[Step] = []
    for _ in range(STEPS_MIN + number // len(names) % (STEPS_MAX - STEPS_MIN + 1)):
        if steps and chance.random() < 0.12:
            steps.append(Pause(chance.choice(PAUSES_S)))
            continue
        of = names[number % len(names)] if chance.random() < 0.7 else chance.choice(names)
        steps.append(chance.choice(offers[of]).ask(NAMES[chance.random() < 0.25], chance))
    return Script(number, tuple(range(len(steps))), tuple(steps))


def together(script: Script) -> list[int]:
    """Steps that could be made at the same time as the next one: calls of the same object."""
    pairs = zip(script.steps, script.steps[1:], strict=False)
    return [at for at, (one, next_one) in enumerate(pairs) if _target(one) is not None and _target(one) == _target(next_one)]


def _target(step: Step) -> str | None:
    return step.target if isinstance(step, Ask) else None


def swapped(steps: Sequence[Step], at: int) -> tuple[Step, ...]:
    """The two calls from that one on in the other order."""
    return (*steps[:at], steps[at + 1], steps[at], *steps[at + 2 :])


def parsed(seed: str) -> tuple[int, list[int], str]:
    """Raises ValueError."""
    try:
        number, kept, way = seed.split(":")
        return int(number), [int(at) for at in kept.split(",")], way
    except ValueError:
        raise ValueError(f"{seed!r} is no seed; it looks like 17:0,3:12.1") from None
