"""`tidegate lint`: mistakes that can be seen in the source of an app. Nothing of the app is imported."""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidegate.runtime.cli.arguments import a_path, add_command
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK
from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.lint.findings import findings
from tidegate.runtime.lint.module import PACKAGE

_EPILOG = """Looks for state that is kept in memory only, what blocks, a missing `await`, state of a module, tasks that nobody
hears of, what only grows, and calls of other objects inside a transaction. Nothing is run. A statement that is meant so has
`# tidegate: ignore` in one of its lines. The exit code is 1 where anything was found.

examples:
  tidegate lint shop.py
  tidegate lint shop                  all modules of the package, or of the folder
  tidegate lint shop.orders --json
"""
_NOT_OF_THE_APP = ("__pycache__", "node_modules", "site-packages")


def add(commands: Any) -> None:
    lint = add_command(commands, "lint", _EPILOG, run)
    lint.add_argument("app", metavar="APP", type=a_path, help="a file, app.py, a module, package.module, a package, or a folder")
    lint.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(options: argparse.Namespace) -> int:
    sources = list(_sources(options.app))
    if not sources:
        raise OperatorError("read", options.app, "there is no Python file in it", "name the folder of the app, or a file of it")
    found = [(path, each) for path in sources for each in _findings(path)]
    if options.json:
        print(json.dumps([{"file": str(path), **each._asdict()} for path, each in found], indent=2))
    else:
        for path, each in found:
            print(f"{path}:{each.line}: {each.rule}: {each.text}")
    return EXIT_FAILED if found else EXIT_OK


def _findings(path: Path) -> list[Any]:
    root, parts = path.resolve().parent, [path.stem]
    while (root / f"{PACKAGE}.py").is_file() and root != root.parent:
        root, parts = root.parent, [root.name, *parts]

    def found(module: str) -> str | None:
        for folder in (root, Path()):
            if (beside := folder / f"{module.replace('.', '/')}.py").is_file():
                with contextlib.suppress(OperatorError):  # Whoever asks for that one is told.
                    return _text(beside)
        return None

    source = _text(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # Of the compiler.
            return findings(source, ".".join(parts), found)
    except SyntaxError as error:
        raise OperatorError("read", f"{path}:{error.lineno or 1}", error.msg, "mend it first") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise OperatorError("read", str(path), one_line(str(error)) or "it is too deep", "mend it first") from error


def _text(path: Path) -> str:
    """As Python reads it. Raises OperatorError."""
    try:
        return importlib.util.decode_source(path.read_bytes())
    except OSError as error:
        raise OperatorError("read", str(path), error.strerror or str(error), "make it readable") from error
    except (SyntaxError, UnicodeError) as error:
        hint = "save it as UTF-8, or say in its first line what it is: # coding: latin-1"
        raise OperatorError("read", str(path), one_line(str(error)), hint) from error


def _sources(app: str) -> Iterator[Path]:
    """A file, or all of a folder."""
    place = _place_of(app.partition(":")[0])
    if place.is_file():
        yield place
        return
    for folder, folders, files in os.walk(place, onerror=_unreadable):
        folders[:] = sorted(each for each in folders if each not in _NOT_OF_THE_APP and not each.startswith("."))
        folders[:] = [each for each in folders if not (Path(folder) / each / "pyvenv.cfg").exists()]
        yield from (Path(folder) / each for each in sorted(files) if each.endswith(".py") and not each.startswith("."))


def _unreadable(error: OSError) -> None:
    """What could not be looked through is not without mistakes."""
    raise OperatorError("read", error.filename, error.strerror or str(error), "make it readable") from error


def _place_of(app: str) -> Path:
    """Of a file, a folder, or what can be imported: from here, or from where Python finds the first part of its name. (To find
    the others it would import that.) Raises OperatorError."""
    candidates = [Path(app)]
    if all(part.isidentifier() for part in app.split(".")) and not app.endswith(".py"):
        first, *rest = app.split(".")
        spec = importlib.machinery.PathFinder.find_spec(first)
        places = [] if spec is None else [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else ())]
        for folder in (Path(), *(Path(each).parent for each in places)):
            module = folder.joinpath(first, *rest)
            candidates += [module / f"{PACKAGE}.py", module.with_name(f"{module.name}.py"), module]
    for place in candidates:
        if place.is_file():
            return place.parent if place.name == f"{PACKAGE}.py" and not app.endswith(".py") else place
        beside = place.name and place.with_name(f"{place.name}.py").is_file()  # Neither `.` nor `/` has a name.
        if place.is_dir() and not beside:
            return place
    place = Path(app if app.endswith(".py") else f"{app.replace('.', '/')}.py")
    raise OperatorError("read", str(place), "there is no such file", "name a file, app.py, a module, a package, or a folder")
