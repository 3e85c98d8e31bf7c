"""Settings that an app declares for itself: what is set for it, read by the class that it has declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidegate.runtime.options.option import ChangeTakes, table_of
from tidegate.runtime.options.reading import Mistake, Reading, ValueLayer, read, value_at
from tidegate.runtime.options.shown import ShownOption, shown_option
from tidegate.runtime.options.texts import is_of_kubernetes, parse_toml, texts_of, variable

SECTION = "app"
_UNDECLARED = "the app declares no settings: annotate `settings` in an object class, see docs/objects.md"


class AppSources(msgspec.Struct, frozen=True):
    """What is set for the app, as it is written: only who has imported the app can read it."""

    file: str = ""
    """Its name; empty where there is none."""
    text: str = ""
    """All of it."""
    credentials: dict[str, str] = {}
    """By name: `app.api_key`."""
    environment: dict[str, str] = {}
    """By variable: `TIDEGATE_APP_API_KEY`."""
    flags: dict[str, str] = {}
    """By flag: `--set app.api_key`."""

    def __repr__(self) -> str:
        return "AppSources(…)"  # Secrets are in it.


class _NoSettings(msgspec.Struct):
    pass


def section_of(text: str, place: str) -> tuple[Mapping[str, Any], list[Mistake]]:
    """The app's part of a file."""
    values, mistakes = parse_toml(text, place)
    section = values.get(SECTION, {})
    if isinstance(section, Mapping):
        return section, mistakes
    return {}, [Mistake(place, f"[{SECTION}]", "is a section, not a value", f"write [{SECTION}] on a line of its own")]


def read_settings(cls: type | None, sources: AppSources) -> Reading:
    """By the class that the app has declared, None if it has none. Raises what `table_of` raises."""
    table = table_of(cls or _NoSettings, (SECTION,), takes=ChangeTakes.RELOAD)
    paths = [option.path for option in table.options()]
    variables = {variable(path): path for path in paths}
    environment = {name: text for name, text in sources.environment.items() if name in variables or not is_of_kubernetes(name)}
    section, mistakes = section_of(sources.text, sources.file)
    layers = [ValueLayer("file", sources.file, section)]
    for layer, wrong in (
        texts_of("credential", "credential", table, {".".join(path): path for path in paths}, sources.credentials),
        texts_of("environment", "environment", table, variables, environment),
        texts_of("flag", "command line", table, {f"--set {'.'.join(path)}": path for path in paths}, sources.flags),
    ):
        layers.append(layer)
        mistakes += wrong
    reading = read(table, layers)
    mistakes += reading.mistakes
    if cls is None:
        mistakes = [msgspec.structs.replace(mistake, hint=_UNDECLARED) for mistake in mistakes]
    return Reading(None if mistakes else reading.value, reading.given, reading.origins, mistakes)


def shown_settings(cls: type | None, reading: Reading) -> list[ShownOption]:
    """Each, with where it comes from. The reading has no mistakes."""
    if cls is None:
        return []
    table = table_of(cls, (SECTION,), takes=ChangeTakes.RELOAD)
    return [shown_option(option, value_at(table, reading.value, option.path), reading.origins) for option in table.options()]
