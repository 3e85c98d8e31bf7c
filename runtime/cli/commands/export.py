"""`tidegate export`: the objects of a data directory, to be imported into another service."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any

import lmdb

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.check import add_data
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, fail
from tidegate.runtime.cli.exporting import PAGE, records_of
from tidegate.runtime.cli.local import service_of
from tidegate.runtime.cli.out_file import OutFile, cannot_write, file_of_root
from tidegate.runtime.data.directory import open_idle_directory
from tidegate.runtime.errors import CallError, OperatorError, one_line
from tidegate.runtime.wire.object_records import FORMS, BrokenOff, Form, ObjectEnd, Record, encoder
from tidegate.runtime.wire.wishes import ListNames
from tidegate.shard.offline.export import exported

_EPILOG = """Writes all objects, or those of some classes, one after another in the form of `tidegate objects export`
(docs/operations.md), which `tidegate objects import` takes into a service that runs, under its gates. FILE is replaced
once it is whole; where that fails it is as it was. If a service uses
the directory, objects are read through it as by `tidegate objects export`: each as it was at one instant. Else all are
as they were when it ended. Answers to keys do not go along: see `tidegate backup` for a whole service.

examples:
  tidegate export /var/lib/shop --class Order --out orders.jsonl
  tidegate export /srv/shop-copy --format msgpack --out all.msgpack
"""


ANSWER_S = 30.0
"""For so long a worker that does not answer, or a gate that is closed, is waited for."""


def add(commands: Any) -> None:
    parser = add_command(commands, "export", _EPILOG, run)
    add_data(parser)
    parser.add_argument("--class", dest="classes", metavar="CLASS", action="append", help="of this class; may be given again")
    add_out(parser)
    parser.set_defaults(parts=lambda options, owner: file_of_root(owner, options.out))


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="FILE", default="-", help='where objects are written, "-" is the standard output (default)'
    )
    parser.add_argument("--format", choices=FORMS, default="json", help="of objects; json: JSON lines (default); msgpack")


def run(options: argparse.Namespace) -> int:
    if (status := service_of(options.data)) is not None:
        return _of_service(options, status)
    with open_idle_directory(options.data) as directory:
        wanted = None if options.classes is None else frozenset(options.classes)
        records = exported(directory.path, directory.shards, lambda header: wanted is None or header.class_name in wanted)
        try:
            file = options.of_root.get("out")
            count = write(records, options.out, options.format, even_none=wanted is None, file=file)
        except (ValueError, lmdb.Error) as error:
            hint = f"see `tidegate check {options.data}`; {_left(options.out)}"
            raise OperatorError("export", options.data, str(error), hint) from error
    return _ended(options, count, [])


def _of_service(options: argparse.Namespace, status: dict[str, Any]) -> int:
    asked = argparse.Namespace(connect=status["listen"], commands=status["commands"], timeout=ANSWER_S, key_file=None, json=False)
    asked.elsewhere = ()
    wishes = [ListNames(name, limit=PAGE) for name in sorted(set(options.classes or ("",)))]
    unsteady: list[str] = []
    try:
        records = (record for wish in wishes for record in records_of(asked, wish, unsteady))
        file = options.of_root.get("out")
        count = write(records, options.out, options.format, even_none=options.classes is None, file=file)
        return _ended(options, count, unsteady, asked.elsewhere)
    except CallError as error:
        hint = f"see `tidegate status`, and try again; {_left(options.out)}"
        raise OperatorError("export", options.data, f"{error.code}: {error.message}", hint) from error


def _ended(options: argparse.Namespace, count: int, unsteady: list[str], elsewhere: Sequence[str] = ()) -> int:
    """Exits 1 where that is not all there is, as on a host of a cluster."""
    out = "standard output" if options.out == "-" else options.out
    print(f"{options.data}: {count} objects written to {out}", file=sys.stderr)
    for target in unsteady:
        fail(one_line(f"export {target}: it was changed each time while it was read: `tidegate objects export` it"))
    for each in elsewhere:
        fail(one_line(f"export {options.data}: {each}"))
    return EXIT_OK if not unsteady and not elsewhere and (count or options.classes is None) else EXIT_FAILED


def _left(out: str) -> str:
    return "what was written is not whole, and says so at its end" if out == "-" else f"{out} is as it was"


def write(records: Iterable[Record], out: str, form: Form, *, even_none: bool = True, file: OutFile | None = None) -> int:
    """How many objects. `out`: "-" is the standard output. A file has all of them or is as it was, so too if there are none and
    not `even_none`; in what flows a record at its end says that it is not whole. `file`: of root's process, if it writes. Raises
    OperatorError, and all that `records` does."""
    if out == "-":
        sys.stdout.flush()
        return _poured(records, sys.stdout.buffer, form)
    file = file or OutFile(out)
    try:
        with contextlib.closing(file), open(file.fd, "wb", closefd=False) as opened:
            if file.flows:
                return _poured(records, opened, form)
            count = _written(records, opened, form)
            opened.flush()
            if count or even_none:
                file.put_in_place()
            return count
    except OSError as error:
        raise cannot_write(out, error) from error


def _poured(records: Iterable[Record], file: IO[bytes], form: Form) -> int:
    try:
        count = _written(records, file, form)
        file.flush()
    except BaseException as error:
        with contextlib.suppress(OSError):
            file.write(encoder(form)(BrokenOff(one_line(str(error)) or type(error).__name__)))
            file.flush()
        raise
    return count


def _written(records: Iterable[Record], file: IO[bytes], form: Form) -> int:
    encode, count, said_s = encoder(form), 0, time.monotonic()
    for record in records:
        file.write(encode(record))
        count += isinstance(record, ObjectEnd)
        if isinstance(record, ObjectEnd) and time.monotonic() - said_s > 1.0 and sys.stderr.isatty():
            said_s = time.monotonic()
            print(f"{count:,} objects written", file=sys.stderr)
    return count
