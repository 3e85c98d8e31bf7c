"""`tidegate upgrade`: a data directory of an older version."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.check import add_data, progress
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.pages import plural
from tidegate.runtime.data.directory import FORMAT, make_description, open_idle_directory
from tidegate.shard.offline.upgrade import upgrade

_EPILOG = """A service does this by itself when it starts; here it is done before, and said. A directory of a newer version
is refused and left as it is. There is no way back: make a backup before, with the version that wrote it. The service must
be stopped.

examples:
  tidegate upgrade /var/lib/shop
  tidegate upgrade --json                           the directory where a service in this folder keeps its data
"""


def add(commands: Any) -> None:
    command = add_command(commands, "upgrade", _EPILOG, run)
    add_data(command)
    command.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(options: argparse.Namespace) -> int:
    with open_idle_directory(options.data) as directory:
        done = list(upgrade(directory.path, directory.shards, progress()))
        if is_older := directory.format < FORMAT:
            make_description(directory.path, directory.shards, directory.starts)
    if options.json:
        numbers = {"format": FORMAT, "format_before": directory.format, "shards": [each.shard for each in done]}
        print(json.dumps({"data": str(options.data), **numbers}, indent=2))
    elif done or is_older:
        print(f"{options.data}: format {directory.format}, now {FORMAT}; {plural(len(done), 'shard')} written anew")
    else:
        print(f"{options.data}: format {FORMAT}, the newest that this version knows; nothing to do")
    return EXIT_OK
