"""Layers of values over a table of options: the later layer wins, and everything that is wrong in any of them is told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.options.option import Option, Path, Table, ValueRefused

Source = Literal["default", "file", "credential", "environment", "flag"]
"""Later ones go before earlier ones."""


class SetBy(msgspec.Struct, frozen=True):
    """Where a value comes from."""

    source: Source = "default"
    place: str = ""
    """The file, the variable, the flag."""

    def shown(self) -> str:
        return f"{self.source} {self.place}".rstrip()


DEFAULT = SetBy()


class Mistake(msgspec.Struct, frozen=True):
    """Something that is wrong with what is set."""

    place: str
    """The file, or what else it was set by."""
    key: str
    """As it is written there; empty for the whole of it."""
    problem: str
    hint: str
    """The next step."""
    option: str = ""
    """Which one is meant, by its full name: `service.workers`."""
    allowed: str = ""
    """What it may be."""
    nearest: str = ""
    """The known name that is most like the one given."""

    def shown(self) -> str:
        place = f"{self.place} {self.key}".strip()
        return f"{place}: {self.problem} ({self.hint})"


class Mistakes(OperatorError):
    """One or more."""

    def __init__(self, mistakes: Sequence[Mistake], operation: str = "read", reading: Reading | None = None) -> None:
        self.mistakes = tuple(mistakes)
        self.given = {} if reading is None else reading.given
        """What was read in spite of them."""
        self.origins = {} if reading is None else reading.origins
        first = self.mistakes[0]
        if len(self.mistakes) == 1:
            super().__init__(operation, f"{first.place} {first.key}".strip(), first.problem, first.hint)
        else:
            lines = "\n  ".join(mistake.shown() for mistake in self.mistakes)
            hint = "correct them all; `tidegate config check` looks without starting anything"
            super().__init__(operation, "the configuration", f"{len(self.mistakes)} mistakes\n  {lines}\n", hint)


@dataclass(frozen=True)
class ValueLayer:
    """Values from one place, by table as TOML has them."""

    source: Source
    place: str
    values: Mapping[str, Any]
    from_text: bool = False
    """They are texts, also of what is none."""
    written: Mapping[Path, str] = field(default_factory=dict)
    """What an option is called there, if not as in a file."""

    def key(self, path: Path) -> str:
        return self.written.get(path) or file_key(path)

    def origin(self, path: Path) -> SetBy:
        return SetBy(self.source, self.place if self.source == "file" else self.key(path))


def file_key(path: Path) -> str:
    return f"[{'.'.join(path[:-1])}] {path[-1]}" if len(path) > 1 else path[0] if path else ""


@dataclass
class Reading:
    """What came of it."""

    value: Any
    """An instance of the table's class; None if there are mistakes."""
    given: dict[Path, Any]
    """Everything that is not as by default."""
    origins: dict[Path, SetBy]
    """Of that."""
    mistakes: list[Mistake]


def read(table: Table, layers: Sequence[ValueLayer]) -> Reading:
    given: dict[Path, Any] = {}
    origins: dict[Path, SetBy] = {}
    mistakes: list[Mistake] = []
    for layer in layers:
        for option, value in _given_by(layer, table, mistakes):
            try:
                given[option.path] = option.read(value, from_text=layer.from_text)
                origins[option.path] = layer.origin(option.path)
            except ValueRefused as error:
                mistakes.append(_not_allowed(layer, option, str(error), value))
    wrong = {mistake.option for mistake in mistakes}
    value = _build(table, given, next((layer.place for layer in layers if layer.source == "file"), ""), wrong, mistakes)
    return Reading(None if mistakes else value, given, origins, mistakes)


def _not_allowed(layer: ValueLayer, option: Option, problem: str, value: object) -> Mistake:
    was = "" if option.secret else f", not {_cut(repr(option.shown(value)))}"
    return Mistake(
        layer.place,
        layer.key(option.path),
        f"{problem}{was}",
        "correct the value",
        ".".join(option.path),
        problem.removeprefix("must be "),
    )


_SHOWN_MAX = 200


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}… ({len(text)} characters)"


def _given_by(layer: ValueLayer, table: Table, mistakes: list[Mistake]) -> Iterator[tuple[Option, Any]]:
    def inside(part: Table, values: Mapping[str, Any]) -> Iterator[tuple[Option, Any]]:
        for name, value in values.items():
            known = part.parts.get(name)
            if known is None:
                mistakes.append(_unknown(layer, table, part, name))
            elif isinstance(known, Option):
                yield known, value
            elif isinstance(value, Mapping):
                yield from inside(known, value)
            else:
                hint = f"write [{'.'.join(known.path)}] on a line of its own"
                mistakes.append(Mistake(layer.place, f"[{'.'.join(known.path)}]", "is a section, not a value", hint))

    yield from inside(table, layer.values)


def _unknown(layer: ValueLayer, table: Table, part: Table, name: str) -> Mistake:
    name = one_line(_cut(name))
    elsewhere = [option for option in table.options() if option.name == name]
    close = difflib.get_close_matches(name, part.parts, n=1)
    nearest = close[0] if close else ""
    if nearest:
        hint = f"did you mean {nearest}?"
        nearest = ".".join((*part.path, nearest))
    elif len(elsewhere) == 1:
        nearest = ".".join(elsewhere[0].path)
        hint = f"it stands in [{'.'.join(elsewhere[0].path[:-1])}]"
    else:
        hint = f"known are {', '.join(part.parts)}" if part.parts else "there is none"
    if part.path == ():
        return Mistake(layer.place, "", f"unknown section [{name}]", hint, nearest=nearest)
    return Mistake(layer.place, layer.key((*part.path, name)), "unknown option", hint, nearest=nearest)


def _build(table: Table, given: Mapping[Path, Any], file: str, wrong: set[str], mistakes: list[Mistake]) -> Any:
    """None if something is missing."""
    values: dict[str, Any] = {}
    is_whole = True
    for part in table.parts.values():
        if isinstance(part, Option):
            if part.path in given:
                values[part.attribute] = given[part.path]
            elif part.make_default is None:
                is_whole = False
                if ".".join(part.path) not in wrong:
                    mistakes.append(_missing(part, file))
            elif table.base is not None:
                values[part.attribute] = part.default
        elif not part.optional or _is_given(part, given):
            inner = _build(part, given, file, wrong, mistakes)
            is_whole = is_whole and inner is not None
            values[part.attribute] = inner
    if not is_whole:
        return None
    try:
        return table.cls(**values)
    except Exception as error:  # Of a `__post_init__`: whatever the app says of values that do not go together.
        key = f"[{'.'.join(table.path)}]" if table.path else ""
        told = one_line(str(error) or type(error).__name__)
        mistakes.append(Mistake(file or "the configuration", key, told, "correct the values", ".".join(table.path)))
        return None


def _is_given(table: Table, given: Mapping[Path, Any]) -> bool:
    return any(path[: len(table.path)] == table.path for path in given)


def _missing(option: Option, file: str) -> Mistake:
    problem = f"must be given: {option.allowed}"
    return Mistake(
        file or "the configuration", file_key(option.path), problem, "write it there", ".".join(option.path), option.allowed
    )


def value_at(table: Table, value: object, path: Path) -> Any:
    """Of an option in an instance of the table's class; None below what is not there."""
    part: Option | Table = table
    for name in path[len(table.path) :]:
        assert isinstance(part, Table)
        part = part.parts[name]
        value = None if value is None else getattr(value, part.attribute)
    return value
