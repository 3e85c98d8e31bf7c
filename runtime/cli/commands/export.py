"""`tidegate export`: the objects of a stopped service, to be imported into another."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any

import lmdb

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.check import add_data
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.directory import open_idle_directory
from tidegate.runtime.wire.object_records import FORMS, Form, Head, Record, encoder
from tidegate.shard.offline.export import exported

_EPILOG = """Writes all objects, or those of some classes, one after another in the form of `tidegate objects export`
(docs/operations.md), which `tidegate objects import` takes into a service that runs, under its gates. The service must
be stopped; of one that runs, restore a backup elsewhere and export that, or take single objects with `tidegate objects
export`. Answers to keys do not go along: see `tidegate backup` for a whole service.

examples:
  tidegate export /var/lib/shop --class Order --out orders.jsonl
  tidegate export /srv/shop-copy --format msgpack --out all.msgpack
"""


def add(commands: Any) -> None:
    parser = add_command(commands, "export", _EPILOG, run)
    add_data(parser)
    parser.add_argument("--class", dest="classes", metavar="CLASS", action="append", help="of this class; may be given again")
    add_out(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="FILE", default="-", help='where objects are written, "-" is the standard output (default)'
    )
    parser.add_argument("--format", choices=FORMS, default="json", help="of objects; json: JSON lines (default); msgpack")


def run(options: argparse.Namespace) -> int:
    with open_idle_directory(options.data) as directory:
        wanted = None if options.classes is None else frozenset(options.classes)
        records = exported(directory.path, directory.shards, lambda header: wanted is None or header.class_name in wanted)
        try:
            count = write(records, options.out, options.format)
        except (ValueError, lmdb.Error) as error:
            hint = f"see `tidegate check {options.data}`; what was written is not whole"
            raise OperatorError("export", options.data, str(error), hint) from error
    print(
        f"{options.data}: {count} objects written to {'standard output' if options.out == '-' else options.out}", file=sys.stderr
    )
    return EXIT_OK if count or options.classes is None else EXIT_FAILED


def write(records: Iterable[Record], out: str, form: Form) -> int:
    """How many objects."""
    encode, count = encoder(form), 0
    if out == "-":
        sys.stdout.flush()
        for record in records:
            sys.stdout.buffer.write(encode(record))
            count += isinstance(record, Head)
        sys.stdout.buffer.flush()
        return count
    with open(out, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        for record in records:
            file.write(encode(record))
            count += isinstance(record, Head)
        file.flush()
        os.fsync(file.fileno())
    return count
