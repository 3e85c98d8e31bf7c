"""`tidegate export`: the objects of a data directory, to be imported into another service."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import lmdb

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.check import add_data
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, fail
from tidegate.runtime.cli.exporting import PAGE, records_of
from tidegate.runtime.cli.local import service_of
from tidegate.runtime.errors import CallError, OperatorError, one_line
from tidegate.runtime.supervisor.directory import open_idle_directory
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
            count = write(records, options.out, options.format, even_none=wanted is None)
        except (ValueError, lmdb.Error) as error:
            hint = f"see `tidegate check {options.data}`; {_left(options.out)}"
            raise OperatorError("export", options.data, str(error), hint) from error
    return _ended(options, count, [])


def _of_service(options: argparse.Namespace, status: dict[str, Any]) -> int:
    asked = argparse.Namespace(connect=status["listen"], commands=status["commands"], timeout=ANSWER_S, key_file=None, json=False)
    wishes = [ListNames(name, limit=PAGE) for name in sorted(set(options.classes or ("",)))]
    unsteady: list[str] = []
    try:
        records = (record for wish in wishes for record in records_of(asked, wish, unsteady))
        return _ended(options, write(records, options.out, options.format, even_none=options.classes is None), unsteady)
    except CallError as error:
        hint = f"see `tidegate status`, and try again; {_left(options.out)}"
        raise OperatorError("export", options.data, f"{error.code}: {error.message}", hint) from error


def _ended(options: argparse.Namespace, count: int, unsteady: list[str]) -> int:
    out = "standard output" if options.out == "-" else options.out
    print(f"{options.data}: {count} objects written to {out}", file=sys.stderr)
    for target in unsteady:
        fail(one_line(f"export {target}: it was changed each time while it was read: `tidegate objects export` it"))
    return EXIT_OK if not unsteady and (count or options.classes is None) else EXIT_FAILED


def _left(out: str) -> str:
    return "what was written is not whole, and says so at its end" if out == "-" else f"{out} is as it was"


def write(records: Iterable[Record], out: str, form: Form, *, even_none: bool = True) -> int:
    """How many objects. `out`: "-" is the standard output. A file has all of them or is as it was, so too if there are none and
    not `even_none`; in what flows a record at its end says that it is not whole. Raises OperatorError, and all that `records`
    does."""
    if out == "-":
        sys.stdout.flush()
        return _poured(records, sys.stdout.buffer, form)
    try:
        if os.path.exists(out) and not os.path.isfile(out):  # A pipe, or /dev/null.
            with open(out, "wb") as file:
                return _poured(records, file, form)
        return _put_in_place(records, Path(os.path.realpath(out)), form, even_none=even_none)
    except OSError as error:
        problem = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        raise OperatorError("write", out, problem, f"name another file, or make room; {_left(out)}") from error


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


def _put_in_place(records: Iterable[Record], path: Path, form: Form, *, even_none: bool) -> int:
    fd, new = tempfile.mkstemp(".new", f"{path.name}.", path.parent)  # Of its own: others may write the same file meanwhile.
    try:
        with open(fd, "wb") as file:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                was = path.stat()
                os.fchmod(fd, stat.S_IMODE(was.st_mode))
                os.fchown(fd, was.st_uid, was.st_gid)
            count = _written(records, file, form)
            file.flush()
            os.fsync(fd)
        if count or even_none:
            os.rename(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
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
