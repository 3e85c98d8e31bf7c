"""What calls do to the state of each object of the driven app, as pure functions, written without a look at `app`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from tidegate.runtime.chaos.verdict.linearizability import Invocation, Model

MISSING = ("raised", "KeyError")
"""A result that says that the method raised."""


def counter(state: Any, call: Invocation) -> tuple[Hashable, Hashable]:
    match call:
        case ("take", ()):
            return state + 1, state
        case ("read", ()):
            return state, state
    raise ValueError(call)


def register(state: Any, call: Invocation) -> tuple[Hashable, Hashable]:
    match call:
        case ("swap", (value,)):
            return value, state
        case ("compare_and_swap", (expected, value)):
            return (value, True) if state == expected else (state, False)
        case ("read", ()):
            return state, state
    raise ValueError(call)


def bulk(state: Any, call: Invocation) -> tuple[Hashable, Hashable]:
    match call:
        case ("write", (value, _)):
            return value, state
        case ("read", ()):
            return state, state
    raise ValueError(call)


def shelf(state: Any, call: Invocation) -> tuple[Hashable, Hashable]:
    """The state: the places that have a value, with it, in order."""
    places: dict[Any, Hashable] = dict(state)
    match call:
        case ("put", (place, value)):
            before = places.get(place)
            places[place] = value
            return _frozen(places), before
        case ("take", (place,)):
            if place not in places:
                return state, MISSING
            value = places.pop(place)
            return _frozen(places), value
        case ("exchange", (one, other)):
            values = places.pop(one, None), places.pop(other, None)
            places |= {place: value for place, value in zip((other, one), values, strict=True) if value is not None}
            return _frozen(places), values
        case ("read", ()):
            return state, state
    raise ValueError(call)


def _frozen(places: dict[Any, Hashable]) -> tuple[tuple[Any, Hashable], ...]:
    return tuple(sorted(places.items()))


MODELS: dict[str, tuple[Model, Hashable]] = {
    "Counter": (counter, 0),
    "Register": (register, 0),
    "Shelf": (shelf, ()),
    "Bulk": (bulk, 0),
}
"""By class: what calls do, and the state of an object that nobody has called."""


def comparable(result: Any) -> Hashable:
    """A result as models give it."""
    if isinstance(result, list):
        return tuple(result)
    return _frozen(result) if isinstance(result, dict) else result
