"""`tidegate compact`: give back what deleted data has left in the files."""

from __future__ import annotations

import argparse
import json
from typing import Any

import lmdb

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.check import add_data, progress
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.pages import mebibytes
from tidegate.runtime.data.directory import open_idle_directory
from tidegate.runtime.errors import OperatorError
from tidegate.shard.offline.compact import compact_all

_EPILOG = """A service does this by itself for files that are mostly free. It must be stopped; a damaged shard is refused.

examples:
  tidegate compact /var/lib/shop
"""


def add(commands: Any) -> None:
    compact = add_command(commands, "compact", _EPILOG, run)
    add_data(compact)
    compact.add_argument("--json", action="store_true", help="print the sizes as JSON")


def run(options: argparse.Namespace) -> int:
    with open_idle_directory(options.data) as directory:
        try:
            done = list(compact_all(directory.path, directory.shards, progress()))
        except PermissionError:
            raise
        except (OSError, lmdb.Error) as error:
            hint = "files that were done are smaller, the others as they were; each needs room for a second one of what is in it"
            raise OperatorError("compact", options.data, str(error), hint) from error
    before, after = sum(each.before_bytes for each in done), sum(each.after_bytes for each in done)
    if options.json:
        print(json.dumps({"data": str(options.data), "shards": [each._asdict() for each in done]}, indent=2))
    else:
        print(f"{options.data}: {mebibytes(before)} of states, now {mebibytes(after)}")
    return EXIT_OK
