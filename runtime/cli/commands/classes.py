"""`tidegate classes`: how many objects there are of each class, and whether the app has it."""

from __future__ import annotations

import argparse
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.gathered import classes
from tidegate.runtime.cli.pages import table
from tidegate.runtime.cli.wishing import Result, add_wish_options, reporting, tell

_EPILOG = """A class that was deleted or renamed leaves its objects: they are listed with "no" under "in the app", and are
orphans. They stay, can be looked at with `tidegate objects`, and are served again by an app that has a class of that name.

examples:
  tidegate classes
  tidegate classes --json
"""


def add(commands: Any) -> None:
    add_wish_options(add_command(commands, "classes", _EPILOG, reporting(run, "")))


def run(options: argparse.Namespace) -> int:
    counts, missing = classes(options)
    result: Result = {"classes": counts}
    return tell(options, result, _page(result), missing)


def _page(result: Result) -> str:
    rows = [("class", "objects", "in memory", "in the app")]
    for name, each in result["classes"].items():
        rows.append((name, f"{each['objects']:,}", f"{each['in_memory']:,}", "yes" if each["in_app"] else "no"))
    return "\n".join(table(rows, numbers={1, 2}))
