"""`tidegate objects`: what objects have stored; looked at, changed, listed. A module for each kind of doing."""

from __future__ import annotations

from typing import Any

from tidegate.runtime.cli.arguments import Parser, add_command
from tidegate.runtime.cli.commands.objects import (
    alarms,
    editing,
    errors,
    history,
    hot,
    listing,
    looking,
    quarantine,
    running,
    travelling,
)
from tidegate.runtime.cli.exits import fail_usage
from tidegate.runtime.cli.wishing import add_wish_options

_EPILOG = """Every command goes to the worker that owns the object, past the routers: it sees what is not durable yet, and
waits at the object's gate as calls do. Run it on the machine of the service, as its user or root. Edits are written to
audit.jsonl in the data directory: history lists them, undo takes one back. Exit code 3: there is no such thing, or it
is not as --if-… says.

examples:
  tidegate objects ls Counter
  tidegate objects show Counter alice
  tidegate objects get Counter alice counter
  tidegate objects blocked
"""


def add(commands: Any) -> None:
    objects = add_command(commands, "objects", _EPILOG, lambda options: fail_usage("objects: say what to do; see --help"))
    actions = objects.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for actions_of in (listing, looking, hot, errors, editing, history, travelling, alarms, running, quarantine):
        for parser in actions_of.add(actions):
            add_wish_options(parser)
