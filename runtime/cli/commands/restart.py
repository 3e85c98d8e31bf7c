"""`tidegate restart --rolling`: every process but the supervisor is a new one."""

from __future__ import annotations

import argparse
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commanding import add_command_options, command
from tidegate.runtime.cli.exits import fail_usage

_EPILOG = """As `tidegate reload`, and the routers are replaced too, each in turn: its successor listens first.
The supervisor stays the same: for another version of Tidegate stop the service and start it.

example:
  tidegate restart --rolling
"""


def add(commands: Any) -> None:
    restart = add_command(commands, "restart", _EPILOG, run)
    restart.add_argument("--rolling", action="store_true", help="required: one by one, while the service goes on")
    add_command_options(restart)


def run(options: argparse.Namespace) -> int:
    if not options.rolling:
        hint = "for a stop and a start use what runs the service, such as systemctl restart tidegate"
        return fail_usage(f"restart: say --rolling to replace the processes one by one ({hint})")
    return command(options, "restart")
