"""Settings of the app in a test: its classes have them as long as the test runs."""

from __future__ import annotations

from typing import Any

from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.worker.app_settings import NAME, declared

_NONE = object()


class Settings:
    """`value`: what each class has that declares `settings`; None: it stays as it is."""

    def __init__(self, value: object) -> None:
        self._value = value
        self._kept: dict[type, Any] = {}

    def give(self, served: ObjectClass) -> None:
        """Raises AppError for a class whose declaration cannot be read, and TypeError for settings of another class."""
        if self._value is None:
            return
        for owner, kind in declared([served]).items():
            if not isinstance(self._value, kind):
                given = type(self._value).__name__
                raise TypeError(
                    f"{owner.__name__} declares settings: {kind.__name__}, and the test gives a {given}: give it that"
                )
            self._kept.setdefault(owner, vars(owner).get(NAME, _NONE))
            type.__setattr__(owner, NAME, self._value)

    def take_back(self) -> None:
        for owner, before in self._kept.items():
            if before is _NONE:
                type.__delattr__(owner, NAME)
            else:
                type.__setattr__(owner, NAME, before)
        self._kept.clear()
