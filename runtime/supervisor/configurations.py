"""Which configuration each process of the service is started with, and which one is in effect.

Guarantee: the processes of one generation of the app have one configuration, whenever they are started; one that cannot be read
changes nothing; if a reload fails, what was in effect before is so again.

Rule: pure. Reading files is the business of who gives `read_again`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import msgspec

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.options.option import ChangeTakes
from tidegate.runtime.options.reading import value_at
from tidegate.runtime.options.shown import ShownOption
from tidegate.runtime.supervisor.config import TABLE, Config, Configuration
from tidegate.runtime.wire.commands import ConfigChange, ConfigChanges
from tidegate.runtime.wire.supervisor_messages import Failed


class Configurations:
    def __init__(self, first: Configuration, read_again: Callable[[], Configuration] | None = None) -> None:
        """`read_again` reads the newest one, and raises OperatorError. None: there is no other."""
        self._read_again = read_again
        self._known = {0: first}
        """By generation of the app."""
        self._changes: dict[int, ConfigChanges] = {}
        self._settings: dict[int, Sequence[ShownOption]] = {}
        """Of the app, by generation."""
        self._in_effect = 0
        self._newest = first
        """As it was read, whatever of it is in effect."""

    @property
    def now(self) -> Configuration:
        """The one in effect."""
        return self._known[self._in_effect]

    def of(self, generation: int) -> Configuration:
        return self._known[generation]

    def changes(self, generation: int) -> ConfigChanges:
        """What it changes of the one in effect, settings of the app among it."""
        changes = self._changes.get(generation, ConfigChanges())
        before = {each.option: each.value for each in self._settings.get(self._in_effect, ())}
        of_app = tuple(
            ConfigChange(each.option, before.get(each.option), each.value, each.takes)
            for each in self._settings.get(generation, ())
            if each.value != before.get(each.option)
        )
        return ConfigChanges(changes.changed + of_app, changes.waiting)

    def app_said(self, generation: int, settings: Sequence[ShownOption]) -> None:
        """What a process of that generation has read of the settings of its app."""
        self._settings[generation] = settings

    def begin(self, generation: int, after: int, routers: bool) -> ConfigChanges | Failed:
        """A replacement begins: its processes get what is set now, as far as that can change without a stop. `after`: of whom
        they are successors. `routers`: they are replaced, too."""
        last = newest = self._known[after]
        if self._read_again is not None:
            try:
                newest = self._read_again()
            except OperatorError as error:
                return Failed(error.operation, str(error.place), error.problem, error.hint)
        takes = {ChangeTakes.RELOAD, ChangeTakes.RESTART} if routers else {ChangeTakes.RELOAD}
        changed, waiting = [], []
        config, origins = last.config, dict(last.origins)
        for option in TABLE.options():
            before, after = (value_at(TABLE, each.config, option.path) for each in (last, newest))
            if option.takes in takes:
                origins.pop(option.path, None)
                if option.path in newest.origins:
                    origins[option.path] = newest.origins[option.path]
            if before == after:
                continue
            change = ConfigChange(option.full_name, option.builtin(before), option.builtin(after), option.takes.value)
            if option.takes in takes:
                config = _with(config, option.path, after)
                changed.append(change)
            else:
                waiting.append(change)
        self._newest = newest
        self._known[generation] = replace(newest, config=config, origins=origins)
        self._changes[generation] = ConfigChanges(tuple(changed), tuple(waiting))
        return self._changes[generation]

    def is_in_effect(self, generation: int) -> None:
        """From now on."""
        self._in_effect = generation

    def keep_only(self, generations: Collection[int]) -> None:
        """Processes of others do not run, and are not started any more."""
        kept = {*generations, self._in_effect}
        self._known = {each: known for each, known in self._known.items() if each in kept}
        self._changes = {each: changes for each, changes in self._changes.items() if each in kept}
        self._settings = {each: settings for each, settings in self._settings.items() if each in kept}

    def waits(self) -> tuple[ConfigChange, ...]:
        """What is set, was read, and is not in effect."""
        found = []
        for option in TABLE.options():
            now, newest = (value_at(TABLE, each.config, option.path) for each in (self.now, self._newest))
            if now != newest:
                found.append(ConfigChange(option.full_name, option.builtin(now), option.builtin(newest), option.takes.value))
        return tuple(found)

    def shown(self) -> list[ShownOption]:
        waits = {each.option: each.after for each in self.waits()}
        return [msgspec.structs.replace(each, waits=waits.get(each.option)) for each in self.now.shown()] + [
            *self._settings.get(self._in_effect, ())
        ]


def _with(config: Config, path: tuple[str, ...], value: object) -> Config:
    section, name = path
    changed: Config = msgspec.structs.replace(
        config, **{section: msgspec.structs.replace(getattr(config, section), **{name: value})}
    )
    return changed
