"""`tidegate status`: how a service is."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from tidegate.runtime.cli.arguments import add_client_options
from tidegate.runtime.cli.asking import read_status, status_of
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.pages import render_status


def add(commands: Any) -> None:
    status = commands.add_parser("status", help="show how a service is")
    add_client_options(status)
    status.add_argument("--json", action="store_true", help="print everything known as JSON")
    status.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    status = status_of(options)
    print(json.dumps(status, indent=2) if options.json else render_status(read_status(status), time.time_ns() // 1_000_000))
    return EXIT_OK
