"""Options as operators see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidegate.runtime.options.option import Option, Path
from tidegate.runtime.options.reading import DEFAULT, SetBy


class ShownOption(msgspec.Struct, frozen=True):
    """An option as operators see it."""

    option: str
    """Its full name: `service.workers`."""
    value: Any
    """Hidden if it is a secret."""
    origin: SetBy = DEFAULT
    takes: str = ""
    """What a change of it takes until it is in effect."""
    waits: Any = None
    """Of a running service: the value that is set and not in effect."""


def shown_option(option: Option, value: object, origins: Mapping[Path, SetBy]) -> ShownOption:
    return ShownOption(".".join(option.path), option.builtin(value), origins.get(option.path, DEFAULT), option.takes.value)
