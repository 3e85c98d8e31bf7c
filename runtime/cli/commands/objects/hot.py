"""`tidegate objects hot`: who is called most."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import Parser, add_command
from tidegate.runtime.cli.asking import read_status, status_of
from tidegate.runtime.cli.commands.objects.terms import LISTED
from tidegate.runtime.cli.pages import hot_objects, render_hot
from tidegate.runtime.cli.wishing import tell

_EPILOG = """Now is the last two seconds. Of many calls every so-manieth is looked at, so these are estimates; each worker names
the ten that are called most now, and in the last minute. First come those that are called now.

examples:
  tidegate objects hot
  tidegate objects hot --limit 3 --json
"""
LIMIT = 10


def add(actions: Any) -> Iterator[Parser]:
    parser = add_command(actions, "hot", _EPILOG, _hot, says="list the objects that are called most, now and in the last minute")
    parser.add_argument("--limit", type=LISTED, default=LIMIT, metavar="N", help=f"at most so many (default: {LIMIT})")
    yield parser


def _hot(options: argparse.Namespace) -> int:
    found = hot_objects(read_status(status_of(options)))[: options.limit]
    text = "\n".join(render_hot(found)) if found else "nothing was called in the last minute"
    return tell(options, {"objects": found}, text)
