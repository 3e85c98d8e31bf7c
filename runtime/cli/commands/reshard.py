"""`tidegate reshard`: another number of shards."""

from __future__ import annotations

import argparse
import json
from typing import Annotated, Any

import msgspec

from tidegate.runtime.cli.above_data import above_of_root
from tidegate.runtime.cli.arguments import add_command, read_as
from tidegate.runtime.cli.commands.check import add_data, progress
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import plural
from tidegate.runtime.data.directory import describe_directory
from tidegate.runtime.data.successor import Successor
from tidegate.runtime.limits import SHARDS_MAX
from tidegate.shard.offline.reshard import reshard

_EPILOG = """A shard is what a worker can be given: with fewer shards than cores some have nothing to do. N is a power of two.
The service must be stopped. A new directory is made beside DATA, read back, and put in its place in one step; what was
there is kept as DATA.before-TIME. Killed at any moment, nothing has changed, or all of it. The next backup is a full one.

examples:
  tidegate reshard /var/lib/shop --shards 64
  tidegate reshard --shards 8 --json                the directory where a service in this folder keeps its data
"""
Shards = Annotated[int, msgspec.Meta(ge=1, le=SHARDS_MAX)]


def add(commands: Any) -> None:
    command = add_command(commands, "reshard", _EPILOG, run)
    add_data(command)
    command.set_defaults(parts=lambda options, owner: above_of_root(owner, options.data))
    command.add_argument("--shards", metavar="N", type=read_as(Shards), required=True, help="how many there shall be")
    command.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(options: argparse.Namespace) -> int:
    if options.shards & (options.shards - 1):
        return fail_usage(f"reshard: the number of shards is a power of two, not {options.shards}")
    before = describe_directory(options.data)
    if before.shards == options.shards:
        done = {"data": str(options.data), "shards": before.shards, "kept": None}
        print(json.dumps(done) if options.json else f"{options.data} has {plural(before.shards, 'shard')}; nothing to do")
        return EXIT_OK
    with Successor(options.data, options.of_root.get("above")) as successor:
        starts = describe_directory(options.data).starts
        result = reshard(options.data, before.shards, successor.path, options.shards, starts, progress())
        kept = successor.take_place(options.shards, starts)
    if options.json:
        numbers = {**result._asdict(), "counts": result.counts._asdict()}
        print(json.dumps({"data": str(options.data), **numbers, "kept": str(kept)}, indent=2))
    else:
        counts = result.counts
        what = f"{plural(counts.objects, 'object')}, {plural(counts.rows, 'row')}, {plural(counts.alarms, 'alarm')}"
        print(f"{options.data}: {before.shards} shards, now {options.shards}: {what}; everything was read back")
        print(f"what was there before is kept as {kept}")
    return EXIT_OK
