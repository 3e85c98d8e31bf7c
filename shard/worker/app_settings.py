"""Settings of the app: the class that it declares for them, and its objects, which are given what was set.

An object class declares them by an annotation, `settings: Settings`, where `Settings` is a Struct or a dataclass. They are the
same for all objects of a worker as long as it lives, so they stand in the class: reading one costs what an attribute costs.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterable
from typing import Any

from tidegate.runtime.options.option import is_table
from tidegate.runtime.options.reading import Mistakes
from tidegate.runtime.options.settings import AppSources, read_settings, shown_settings
from tidegate.runtime.options.shown import ShownOption
from tidegate.runtime.wire.annotations import annotations_of
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.objects.object import DurableObject

NAME = "settings"


def give_settings(classes: Iterable[ObjectClass], sources: AppSources) -> list[ShownOption]:
    """To the classes that declare some; what they are is returned. Raises AppError for what cannot be declared, Mistakes for what
    is set wrongly."""
    owners = declared(classes)
    kinds = list(dict.fromkeys(owners.values()))
    if len(kinds) > 1:
        places = ", ".join(f"{owner.__qualname__}.{NAME}: {kind.__name__}" for owner, kind in owners.items())
        raise AppError(f"an app has one section of settings and so one class for them; these are several: {places}")
    cls = kinds[0] if kinds else None
    try:
        reading = read_settings(cls, sources)
    except (TypeError, NameError) as error:
        raise AppError(f"{cls.__name__ if cls is not None else ''} cannot be the class of settings: {error}") from None
    if reading.mistakes:
        raise Mistakes(reading.mistakes)
    for owner in owners:
        type.__setattr__(owner, NAME, reading.value)
    return shown_settings(cls, reading)


def declared(classes: Iterable[ObjectClass]) -> dict[type, type]:
    """By the class whose body has the annotation."""
    found: dict[type, type] = {}
    for served in classes:
        for owner in served.cls.__mro__:
            if owner in (DurableObject, object) or NAME not in annotations_of(owner):
                continue
            kind = _resolved(owner, annotations_of(owner)[NAME])
            if is_table(kind):
                found[owner] = kind
    return found


def _resolved(owner: type, annotation: Any) -> Any:
    """This one alone: others of the class may name what is there for type checkers only."""

    holder = type("holder", (), {"__annotations__": {NAME: annotation}})
    module = sys.modules.get(owner.__module__)
    try:
        return typing.get_type_hints(holder, vars(module) if module is not None else {}, dict(vars(owner)))[NAME]
    except Exception as error:
        raise AppError(f"{owner.__qualname__}.{NAME}: an annotation cannot be resolved: {error}") from None
