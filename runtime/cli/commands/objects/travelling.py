"""`tidegate objects export | import`: objects as files."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from tidegate.runtime.cli.arguments import Parser, add_command
from tidegate.runtime.cli.commands.export import write
from tidegate.runtime.cli.commands.objects.listing import check_class
from tidegate.runtime.cli.commands.objects.terms import add_audit
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, fail, fail_usage
from tidegate.runtime.cli.exporting import PAGE, Unsteady, object_records, records_of
from tidegate.runtime.cli.importing import Importer
from tidegate.runtime.cli.pages import plural
from tidegate.runtime.cli.wishing import patiently, reporting, target_of, tell
from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.wire.object_records import FORMS, Head, Pair, read_records, whole_objects
from tidegate.runtime.wire.wishes import ListNames

_EXPORT_EPILOG = """A line for the object, one for each key, one at the end (docs/operations.md). It is as it was at one instant;
of several each is, by itself: the service works on meanwhile, and each is read behind its gate. One that is changed
each time while it is read is named, and not in it. FILE is replaced once it is whole; where that fails it is as it was.

examples:
  tidegate objects export Counter alice > alice.jsonl
  tidegate objects export Order --out orders.jsonl             all of a class
  tidegate objects export Order --prefix 2026- | gzip > orders.gz
  tidegate objects export --all --format msgpack --out all.msgpack
  tidegate objects export Counter alice --format msgpack --out alice.msgpack
"""
_IMPORT_EPILOG = """An object is there as a whole or not at all where it has less than 1 MiB; a larger one comes in
several steps: if that is interrupted, give the command again with --replace. None of the object's code
runs. Alarms of times that are past ring at once; --no-alarm leaves them out.

examples:
  tidegate objects import alice.jsonl
  tidegate objects import alice.jsonl --as Counter/alice-copy
  tidegate objects import alice.jsonl --replace --connect tcp://127.0.0.1:7712      into another service
"""


def add(actions: Any) -> Iterator[Parser]:
    what = "write an object, or all of a class, to a file"
    export = add_command(actions, "export", _EXPORT_EPILOG, reporting(_export, "{0.class_name}"), says=what)
    export.add_argument("class_name", metavar="CLASS", nargs="?")
    export.add_argument("name", metavar="NAME", nargs="?")
    export.add_argument("--prefix", metavar="TEXT", default="", help="only objects whose names begin with it")
    export.add_argument("--all", action="store_true", help="objects of all classes")
    export.add_argument("--out", metavar="FILE", default="-", help='where to, "-" is the standard output (default)')
    export.add_argument("--format", choices=FORMS, default="json", help="json: JSON lines (default); msgpack")
    imported = add_command(actions, "import", _IMPORT_EPILOG, reporting(_import, "{0.file}"), says="read objects from a file")
    imported.add_argument("file", metavar="FILE", help='what export has written, "-" is the standard input')
    imported.add_argument("--as", dest="target", metavar="CLASS/NAME", help="under this name, of one object")
    imported.add_argument("--replace", action="store_true", help="objects that exist are deleted for it")
    imported.add_argument("--no-alarm", action="store_true", help="without their alarms")
    add_audit(imported)
    yield from (export, imported)


def _export(options: argparse.Namespace) -> int:
    if options.name is not None:
        return _export_one(options)
    if (options.class_name is None) != options.all:
        return fail_usage("objects export: name a CLASS, an object of it too if it is one, or say --all")
    if options.class_name is not None:
        patiently(options, partial(check_class, options))
    unsteady: list[str] = []
    wish = ListNames(options.class_name or "", options.prefix, limit=PAGE)
    count = write(records_of(options, wish, unsteady), options.out, options.format)
    if options.out != "-":
        result = {"objects": count, "left_out": unsteady}
        tell(options, result, f"{plural(count, 'object')} written to {options.out}")
    for target in unsteady:
        fail(one_line(f"objects export {target}: it was changed each time while it was read: export it when its callers pause"))
    return EXIT_FAILED if unsteady else EXIT_OK


def _export_one(options: argparse.Namespace) -> int:
    if options.prefix or options.all:
        return fail_usage("objects export: one object is named whole, without --prefix and --all")
    try:
        records = object_records(options, target_of(options))
    except Unsteady:
        hint = "let its callers pause, or try again"
        raise OperatorError("export", target_of(options), "it was changed each time while it was read", hint) from None
    write(records, options.out, options.format)
    if options.out == "-":
        return EXIT_OK
    keys = len(records) - 2
    return tell(options, {"keys": keys}, f"{target_of(options)}: {plural(keys, 'key')} written to {options.out}")


def _import(options: argparse.Namespace) -> int:
    if options.target is not None and "/" not in options.target:
        return fail_usage("objects import: --as names an object: CLASS/NAME")
    importer = Importer(options)
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if options.file == "-" else stack.enter_context(open(options.file, "rb"))
            importer.run(_named(options, whole_objects(read_records(file))))
    except ValueError as error:
        done = f"; {plural(importer.objects, 'object')} of it are imported" if importer.objects else ""
        raise OperatorError("import", options.file, f"{one_line(str(error))}{done}", "export it again") from None
    text = f"{plural(importer.objects, 'object')} with {plural(importer.keys, 'key')} imported"
    return tell(options, {"objects": importer.objects, "keys": importer.keys}, text)


def _named(
    options: argparse.Namespace, objects: Iterator[tuple[Head, Iterator[Pair]]]
) -> Iterator[tuple[str, Head, Iterator[Pair]]]:
    for number, (head, pairs) in enumerate(objects):
        if number and options.target is not None:
            raise ValueError("it has more than one object; --as is for one")
        yield options.target or head.object, head, pairs
