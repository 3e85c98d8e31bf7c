"""What `tidegate config` asks a process that imports the app, and what that answers: JSON, one object each."""

from __future__ import annotations

import msgspec

from tidegate.runtime.options.reading import Mistake
from tidegate.runtime.options.settings import AppSources
from tidegate.runtime.options.shown import ShownOption


class SettingsQuestion(msgspec.Struct, frozen=True):
    app: str
    """As it is served."""
    sources: AppSources


class SettingsAnswer(msgspec.Struct, frozen=True):
    options: list[ShownOption] = []
    """Of the app, if nothing is wrong."""
    mistakes: list[Mistake] = []
