"""`tidegate status`: how a service is."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from tidegate.runtime.cli.arguments import add_client_options, add_command
from tidegate.runtime.cli.asking import read_status, status_of
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.pages import render_status

_EPILOG = """Begins with what is wrong now: what, where, and the next step. Then the processes and what the data takes,
and, if there are any, objects that others wait for and those that pile up work or data. Exits 1 if nobody answers.

examples:
  tidegate status
  tidegate status --json | jq .problems
"""


def add(commands: Any) -> None:
    status = add_command(commands, "status", _EPILOG, run)
    add_client_options(status)
    status.add_argument("--json", action="store_true", help="print everything known as JSON")


def run(options: argparse.Namespace) -> int:
    status = status_of(options)
    print(json.dumps(status, indent=2) if options.json else render_status(read_status(status), time.time_ns() // 1_000_000))
    return EXIT_OK
