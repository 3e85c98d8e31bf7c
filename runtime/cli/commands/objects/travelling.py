"""`tidegate objects export | import`: objects as files."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import Parser, add_command
from tidegate.runtime.cli.commands.objects.terms import add_audit
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import plural
from tidegate.runtime.cli.wishing import Result, add_wish, carry_out, reporting, stored, target_of, tell
from tidegate.runtime.errors import CallError, OperatorError, one_line
from tidegate.runtime.wire.object_records import FORMS, Head, ObjectEnd, Pair, Record, encoder, read_records, whole_objects
from tidegate.runtime.wire.wishes import SHOWN_ROWS_MAX, Load, Show

_EXPORT_EPILOG = """A line for the object, one for each key, one at the end (docs/operations.md). It is as it was at one instant.

examples:
  tidegate objects export Counter alice > alice.jsonl
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
_EXPORT_ATTEMPTS = 5
_LOAD_BYTES = 1 << 20


def add(actions: Any) -> Iterator[Parser]:
    export = add_wish(actions, "export", "write an object to a file", _EXPORT_EPILOG, _export)
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
    """Read twice where it does not fit in one page: what is the same both times was so at one instant."""
    for _ in range(_EXPORT_ATTEMPTS):
        alarm, rows, is_whole = _all_rows(options)
        if is_whole or _digests(options) == [(row["key"], row["digest"]) for row in rows]:
            break
    else:
        hint = "let its callers pause, or try again"
        raise OperatorError("export", target_of(options), "it was changed each time while it was read", hint)
    encode = encoder(options.format)
    records: tuple[Record, ...] = (
        Head(target_of(options), None if alarm is None else alarm["due_ms"]),
        *(Pair(row["key"], row["value"]) for row in rows),
        ObjectEnd(target_of(options), len(rows)),
    )
    if options.out == "-":
        sys.stdout.flush()
        for record in records:
            sys.stdout.buffer.write(encode(record))
        sys.stdout.buffer.flush()
        return EXIT_OK
    with open(options.out, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        for record in records:
            file.write(encode(record))
        file.flush()
        os.fsync(file.fileno())
    return tell(options, {"keys": len(rows)}, f"{target_of(options)}: {plural(len(rows), 'key')} written to {options.out}")


def _all_rows(options: argparse.Namespace) -> tuple[Result | None, list[Result], bool]:
    """Its alarm, its rows, and whether one page had them all."""
    rows: list[Result] = []
    result = carry_out(options, Show(limit=SHOWN_ROWS_MAX, whole=True))
    alarm, is_whole = result["alarm"], not result["more"]
    rows += result["rows"]
    while result["more"]:
        result = carry_out(options, Show(after=rows[-1]["key"], limit=SHOWN_ROWS_MAX, whole=True))
        rows += result["rows"]
    return alarm, rows, is_whole


def _digests(options: argparse.Namespace) -> list[tuple[str, str]]:
    _, rows, _ = _all_rows(options)
    return [(row["key"], row["digest"]) for row in rows]


def _import(options: argparse.Namespace) -> int:
    if options.target is not None and "/" not in options.target:
        return fail_usage("objects import: --as names an object: CLASS/NAME")
    loaded: list[Result] = []
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if options.file == "-" else stack.enter_context(open(options.file, "rb"))
            for head, pairs in whole_objects(read_records(file)):
                if loaded and options.target is not None:
                    raise ValueError("it has more than one object; --as is for one")
                loaded.append(_load(options, options.target or head.object, head, pairs))
    except ValueError as error:
        done = f"; {plural(len(loaded), 'object')} of it are imported" if loaded else ""
        raise OperatorError("import", options.file, f"{one_line(str(error))}{done}", "export it again") from None
    keys = sum(each["keys"] for each in loaded)
    text = f"{plural(len(loaded), 'object')} with {plural(keys, 'key')} imported"
    return tell(options, {"objects": loaded}, text)


def _load(options: argparse.Namespace, target: str, head: Head, pairs: Iterator[Pair]) -> Result:
    """In one step if it is small, else in several, each whole."""
    options.class_name, _, options.name = target.partition("/")
    rows: list[tuple[str, bytes]] = []
    size = count = parts = 0

    def send(alarm_ms: int | None) -> None:
        nonlocal rows, size, parts
        try:
            carry_out(options, Load(rows, parts > 0, options.replace, alarm_ms))
        except CallError as error:
            if not parts:
                raise
            problem = f"{target} is there in part: {error.code}: {error.message}"
            raise OperatorError("import", options.file, problem, "give the command again with --replace") from error
        rows, size, parts = [], 0, parts + 1

    for pair in pairs:
        packed = stored(pair.value, f"{pair.key!r} of {target}")
        bytes_here = len(pair.key) + len(packed)
        if rows and size + bytes_here > _LOAD_BYTES:
            send(None)
        rows.append((pair.key, packed))
        size += bytes_here
        count += 1
    send(None if options.no_alarm else head.alarm_ms)
    return {"object": target, "keys": count}
