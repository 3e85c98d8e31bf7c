"""`tidegate new`: a project to begin with, made from the one in the package."""

from __future__ import annotations

import argparse
import importlib.metadata
import keyword
import os
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.errors import OperatorError

_EPILOG = """An app with one class and settings of its own, its tests, pyproject.toml, a configuration, a Containerfile, and a
README that says how it is put on a server (tidegate install-service). NAME is a folder that does not exist yet, or is
empty; its last part names the app.

examples:
  tidegate new shop && cd shop && tidegate serve shop.py --dev
  tidegate new ~/projects/till
"""

_PLACEHOLDER = "shop"
"""What the template calls itself, in its texts and in names of its files."""
_RENAMED = {"gitignore": ".gitignore"}
"""A file of that name would be heeded where the template is."""
_TAKEN = sys.stdlib_module_names | {"tidegate", "tests"}


def add(commands: Any) -> None:
    new = add_command(commands, "new", _EPILOG, run)
    new.add_argument("name", metavar="NAME", help="the folder to be made; letters, digits and underscores")


def run(options: argparse.Namespace) -> int:
    folder = Path(options.name)
    name = folder.absolute().name.replace("-", "_") if options.name else ""
    if problem := _why_not(name):
        raise OperatorError("new", options.name, problem, "choose another name")
    try:
        made = _make(folder, name)
    except OSError as error:
        raise OperatorError("new", options.name, error.strerror or str(error), "name a folder that can be made") from error
    print(f"{folder}: {', '.join(made)}\n\nnext:")
    steps = [] if folder.absolute() == Path.cwd() else [f"cd {folder}"]
    for step in (*steps, f"tidegate serve {name}.py --dev", "tidegate call Stock tea add 10    # in another terminal", "pytest"):
        print(f"  {step}")
    return EXIT_OK


def _why_not(name: str) -> str | None:
    """It is the name of a module, which must not take the place of another."""
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        return f"{name!r} cannot be the name of a module: use letters, digits and underscores"
    if name in _TAKEN or name in importlib.metadata.packages_distributions():
        return f"a module {name} is there already, and the app would take its place"
    return None


def _make(folder: Path, name: str) -> list[str]:
    """What is in it now; nothing is, if it could not be made whole. Raises OSError, OperatorError."""
    is_new = not folder.exists()
    if not is_new and (not folder.is_dir() or any(folder.iterdir())):
        raise OperatorError("new", str(folder), "there is something already", "name a folder that does not exist, or is empty")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in _template(files("tidegate") / "template"):
            target = folder / path.replace(_PLACEHOLDER, name)
            if not target.parent.exists():
                target.parent.mkdir()
                written.append(target.parent)
            with open(target, "x", encoding="utf-8") as file:
                written.append(target)
                file.write(text.replace(_PLACEHOLDER, name))
    except BaseException:
        for each in reversed(written):
            _remove(each)
        if is_new:
            _remove(folder)
        raise
    return sorted(os.path.relpath(path, folder) for path in written if path.is_file())


def _remove(path: Path) -> None:
    try:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    except OSError:  # Somebody has put something there.
        return


def _template(folder: Traversable, below: str = "") -> Iterator[tuple[str, str]]:
    for each in folder.iterdir():
        if each.is_dir() and not each.name.startswith((".", "__")):
            yield from _template(each, f"{below}{each.name}/")
        elif each.is_file():
            yield below + _RENAMED.get(each.name, each.name), each.read_text(encoding="utf-8")
