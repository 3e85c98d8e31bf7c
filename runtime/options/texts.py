"""What options are written in: TOML, variables of the environment, `KEY=VALUE` on a command line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from tidegate.runtime.options.option import Path, Table
from tidegate.runtime.options.reading import Mistake, Source, ValueLayer

PREFIX = "TIDEGATE"


def parse_toml(text: str, place: str) -> tuple[dict[str, Any], list[Mistake]]:
    """What a file says, not yet looked at, or why it says nothing."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff")), []
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:  # Of which TOMLDecodeError is one; a number may also be too long for Python.
        problem = str(error)
    hint = "correct the line; docs/configuration.md has every option, and systemd/tidegate.toml is an example"
    return {}, [Mistake(place, "", f"not TOML: {problem}", hint)]


def variable(path: Path) -> str:
    """Of the environment: `TIDEGATE_SERVICE_WORKERS`."""
    return re.sub(r"[^A-Z0-9]", "_", "_".join((PREFIX, *path)).upper())


_OF_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_[A-Z0-9_]+)?)$")


def is_of_kubernetes(name: str) -> bool:
    """It sets such variables by itself, for a Service that is called like ours."""
    return _OF_KUBERNETES.search(name) is not None


def nested(values: Mapping[Path, Any]) -> dict[str, Any]:
    """As TOML has them."""
    tables: dict[str, Any] = {}
    for path, value in values.items():
        table = tables
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = value
    return tables


def texts_of(
    source: Source, place: str, table: Table, names: Mapping[str, Path], given: Mapping[str, str]
) -> tuple[ValueLayer, list[Mistake]]:
    """A layer of what is given by name, as text. `names`: what options are called there."""
    values = {names[name]: text for name, text in given.items() if name in names}
    written = {names[name]: name for name in given if name in names}
    mistakes = [unknown(place, name, names) for name in given if name not in names]
    inside = {path[len(table.path) :]: text for path, text in values.items()}
    return ValueLayer(source, place, nested(inside), True, written), mistakes


def unknown(place: str, name: str, names: Iterable[str]) -> Mistake:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else "`tidegate config show` has those that there are"
    return Mistake(place, name, "unknown option", hint, nearest=close[0] if close else "")
