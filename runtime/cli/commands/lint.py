"""`tidegate lint`: mistakes that can be seen in the source of an app."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.lint import findings

_EPILOG = """Looks for state that is kept in memory only, what blocks, a missing `await`, state of a module, tasks that nobody
hears of, lists that only grow, and calls of other objects inside a transaction. Nothing is run. A line that is meant so ends in
`# tidegate: ignore`. The exit code is 1 where anything was found.

examples:
  tidegate lint shop.py
  tidegate lint shop.orders --json
"""


def add(commands: Any) -> None:
    lint = add_command(commands, "lint", _EPILOG, run)
    lint.add_argument("app", metavar="APP", help="a file, app.py, or a module, package.module")
    lint.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(options: argparse.Namespace) -> int:
    path = _source(options.app.partition(":")[0])
    try:
        found = findings(path.read_text())
    except SyntaxError as error:
        raise OperatorError("read", f"{path}:{error.lineno}", error.msg, "mend it first") from error
    if options.json:
        print(json.dumps([{"file": str(path), **each._asdict()} for each in found], indent=2))
    else:
        for each in found:
            print(f"{path}:{each.line}: {each.rule}: {each.text}")
    return EXIT_FAILED if found else EXIT_OK


def _source(app: str) -> Path:
    if app.endswith(".py"):
        path = Path(app)
    else:
        try:
            spec = importlib.util.find_spec(app)
        except ModuleNotFoundError:
            spec = None
        path = Path(spec.origin) if spec is not None and spec.origin else Path(f"{app.replace('.', '/')}.py")
    if not path.is_file():
        raise OperatorError("read", str(path), "there is no such file", "name a file, app.py, or a module")
    return path
