"""`tidegate reload`: the workers run the app as it is on disk now."""

from __future__ import annotations

import argparse
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commanding import add_command_options, command

_EPILOG = """Each worker is replaced in turn. Its successor imports the app beside it; only then new calls wait, the
old worker answers what it has begun, and the successor goes on with what was written. A version that
cannot be imported changes nothing: the old one goes on, and the exit code is 1. So does a configuration
with a mistake. What is set otherwise by now is named, with what takes a stop and a start. SIGHUP to the
supervisor does the same, and says it in the log.

examples:
  tidegate reload             and see who waited for how long
  tidegate reload --json
"""


def add(commands: Any) -> None:
    reload = add_command(commands, "reload", _EPILOG, run)
    add_command_options(reload)


def run(options: argparse.Namespace) -> int:
    return command(options, "reload")
