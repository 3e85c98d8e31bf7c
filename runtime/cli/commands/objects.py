"""`tidegate objects`: what objects have stored; looked at, changed, listed."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tidegate.runtime.cli.arguments import Parser, add_command, parse_arguments, read_as
from tidegate.runtime.cli.asking import read_status, status_of
from tidegate.runtime.cli.commanding import administer
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import plural, render_quarantine, table
from tidegate.runtime.cli.wishing import (
    Result,
    add_wish,
    add_wish_options,
    as_text,
    carry_out,
    of_all,
    read_plain,
    reporting,
    target_of,
    tell,
)
from tidegate.runtime.errors import CallError, OperatorError, Unavailable, UnknownClass, one_line
from tidegate.runtime.ids import name_row
from tidegate.runtime.wire.object_records import FORMS, Head, ObjectEnd, Pair, Record, encoder, read_records, whole_objects
from tidegate.runtime.wire.wishes import (
    LISTED_OBJECTS,
    LISTED_OBJECTS_MAX,
    SHOWN_ROWS,
    SHOWN_ROWS_MAX,
    CallMethod,
    Condition,
    Delete,
    Evict,
    Get,
    ListAlarms,
    ListClasses,
    ListNames,
    Load,
    Put,
    Show,
    TurnAlarm,
    Weigh,
)

_EPILOG = """Every command goes to the worker that owns the object, past the routers: it sees what is not durable yet, and
waits at the object's gate as calls do. Run it on the machine of the service, as its user or root. Edits are written to
audit.jsonl in the data directory. Exit code 3: there is no such thing, or it is not as --if-… says.

examples:
  tidegate objects ls Counter
  tidegate objects show Counter alice
  tidegate objects get Counter alice counter
  tidegate objects blocked
"""
_LS_EPILOG = """In the order of class and name, page by page. Sizes are those of keys and values as they are stored, of what is
durable; with --biggest of what is in the data files, which may lack the last seconds.

examples:
  tidegate objects ls                                          of all classes
  tidegate objects ls Counter --prefix user/ --limit 20
  tidegate objects ls Counter --after alice                    the next page
  tidegate objects ls Counter --biggest 5                      looks at every object of the class
  tidegate objects ls --orphans --long
  tidegate objects ls Counter --all --json > names.jsonl
"""
_SHOW_EPILOG = """Values are JSON; what JSON has not is an object with one key: {"$bytes": base64}, {"$time": …},
{"$float": "nan"}, {"$map": [[key, value]]}, {"$ext": [code, base64]}. A value of more than 16 KiB is shown by its size:
`tidegate objects get` has it.

examples:
  tidegate objects show Counter alice
  tidegate objects show Counter alice --prefix day/2026 --limit 20
  tidegate objects show Counter alice --after counter          the next page
  tidegate objects show Counter alice --all --json
"""
_GET_EPILOG = """examples:
  tidegate objects get Counter alice counter
  tidegate objects get Counter alice counter --json            with size and digest
"""
_PUT_EPILOG = """The object's own code does not run, and does not hear of it: what an instance keeps in memory stays until it is
evicted (`tidegate objects evict`). What is printed ends in the command that takes the edit back.

examples:
  tidegate objects put Counter alice counter 42                whatever it is now
  tidegate objects put Counter alice counter 42 --if-value 41  only if it is 41
  tidegate objects put Counter alice note '"a text"' --if-missing
  tidegate objects put Counter alice big --file big.json --if-digest 0011223344556677
"""
_DELETE_EPILOG = """Without KEY the whole object, with its alarm; that asks for --yes, since nothing brings it back.

examples:
  tidegate objects delete Counter alice note
  tidegate objects delete Counter alice counter --if-value 42
  tidegate objects delete Counter alice --yes                  all of it
"""
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
_ALARMS_EPILOG = """Those due first come first; one that is late stands with how late. A late alarm waits for its
worker, for its turn, or for a class that the app does not have (tidegate classes).

examples:
  tidegate objects alarms
  tidegate objects alarms --late
  tidegate objects alarms list Order --limit 20
  tidegate objects alarms run Order 4711                       now instead of at its time
  tidegate objects alarms drop Order 4711
"""
_CALL_EPILOG = """Like `tidegate call`, but past the routers, and written to the audit log.

examples:
  tidegate objects call Counter alice get_unique_number
"""
_EVICT_EPILOG = """Only memory is lost; the next call makes a new instance. An object that is at work stays.

examples:
  tidegate objects evict Counter alice
"""
_BLOCKED_EPILOG = """An object is in quarantine when its code has held up or ended its worker more than once: its callers are
refused, for 4 s at first and twice as long each time.

examples:
  tidegate objects blocked
"""
_RELEASE_EPILOG = """It is served again. If its code does the same again, it comes back for longer.

examples:
  tidegate objects release Counter alice
"""

LISTED_S = 6.0
"""The list of the objects in quarantine may be so old."""
_VALUE_WIDTH = 80
_EXPORT_ATTEMPTS = 5
_LOAD_BYTES = 1 << 20
_ALL_LIMIT = 1_000
"""Objects of a page where all are asked for."""
_UNDO_CHARACTERS_MAX = 2_000


_LISTED = read_as(Annotated[int, msgspec.Meta(ge=1, le=LISTED_OBJECTS_MAX)])
_MOST = f"at most so many (default: {LISTED_OBJECTS})"


def add(commands: Any) -> None:
    objects = add_command(commands, "objects", _EPILOG, lambda options: fail_usage("objects: say what to do; see --help"))
    actions = objects.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for add_some in (_add_listing, _add_looking, _add_editing, _add_travelling, _add_alarms, _add_turning):
        for parser in add_some(actions):
            add_wish_options(parser)


def _add_listing(actions: Any) -> Iterator[Parser]:
    listed = add_command(
        actions, "ls", _LS_EPILOG, reporting(_list, "{0.class_name}"), says="list objects, in the order of their names"
    )
    listed.add_argument("class_name", metavar="CLASS", nargs="?", default="", help="of this class (default: of all)")
    listed.add_argument("--prefix", default="", metavar="TEXT", help="only names that begin with it")
    listed.add_argument("--after", default="", metavar="NAME", help="only names behind it; without CLASS: CLASS/NAME")
    listed.add_argument("--limit", type=_LISTED, default=LISTED_OBJECTS, metavar="N", help=_MOST)
    listed.add_argument("--long", action="store_true", help="with the number of keys, and bytes")
    listed.add_argument("--all", action="store_true", help="all of them, page by page; with --json an object a line")
    listed.add_argument("--orphans", action="store_true", help="only of classes that the app does not have")
    count = read_as(Annotated[int, msgspec.Meta(ge=1, le=10_000)])
    listed.add_argument("--biggest", type=count, metavar="N", help="the N with the most bytes, of all that are named")
    yield listed


def _add_looking(actions: Any) -> Iterator[Parser]:
    show = add_wish(actions, "show", "list the keys of an object, with their values", _SHOW_EPILOG, _show)
    show.add_argument("--prefix", default="", metavar="TEXT", help="only keys that begin with it")
    show.add_argument("--after", default="", metavar="KEY", help="only keys behind it, in byte order")
    limit = read_as(Annotated[int, msgspec.Meta(ge=1, le=SHOWN_ROWS_MAX)])
    show.add_argument(
        "--limit", type=limit, default=SHOWN_ROWS, metavar="N", help=f"at most so many keys (default: {SHOWN_ROWS})"
    )
    show.add_argument("--all", action="store_true", help="all of them, page by page")
    get = add_wish(actions, "get", "print one value as JSON", _GET_EPILOG, _get)
    get.add_argument("key", metavar="KEY")
    yield from (show, get)


def _add_editing(actions: Any) -> Iterator[Parser]:
    put = add_wish(actions, "put", "set one value", _PUT_EPILOG, _put)
    put.add_argument("key", metavar="KEY")
    put.add_argument("value", metavar="JSON", nargs="?", type=_Given)
    put.add_argument("--file", metavar="FILE", help='where the value is, "-" is the standard input')
    put.add_argument("--create", action="store_true", help="make the object, where there is none")
    delete = add_wish(actions, "delete", "delete one key, or the whole object", _DELETE_EPILOG, _delete)
    delete.add_argument("key", metavar="KEY", nargs="?")
    delete.add_argument("--yes", action="store_true", help="of a whole object: it is meant")
    for parser in (put, delete):
        _add_conditions(parser)
        _add_audit(parser)
    yield from (put, delete)


def _add_travelling(actions: Any) -> Iterator[Parser]:
    export = add_wish(actions, "export", "write an object to a file", _EXPORT_EPILOG, _export)
    export.add_argument("--out", metavar="FILE", default="-", help='where to, "-" is the standard output (default)')
    export.add_argument("--format", choices=FORMS, default="json", help="json: JSON lines (default); msgpack")
    imported = add_command(actions, "import", _IMPORT_EPILOG, reporting(_import, "{0.file}"), says="read objects from a file")
    imported.add_argument("file", metavar="FILE", help='what export has written, "-" is the standard input')
    imported.add_argument("--as", dest="target", metavar="CLASS/NAME", help="under this name, of one object")
    imported.add_argument("--replace", action="store_true", help="objects that exist are deleted for it")
    imported.add_argument("--no-alarm", action="store_true", help="without their alarms")
    _add_audit(imported)
    yield from (export, imported)


def _add_alarms(actions: Any) -> Iterator[Parser]:
    alarms = add_command(
        actions, "alarms", _ALARMS_EPILOG, reporting(_alarms, ""), says="list scheduled and abandoned alarms; run, drop one"
    )
    alarms.add_argument("what", nargs="?", choices=("list", "run", "drop"), default="list", help="default: list")
    alarms.add_argument(
        "class_name", metavar="CLASS", nargs="?", default="", help="of this class; with run and drop: whose alarm"
    )
    alarms.add_argument("name", metavar="NAME", nargs="?", default="")
    alarms.add_argument("--late", action="store_true", help="only those that should have rung by now")
    alarms.add_argument("--after", metavar="MS", type=int, default=0, help="only those due at this Unix time in ms, or later")
    alarms.add_argument("--limit", type=_LISTED, default=LISTED_OBJECTS, metavar="N", help=_MOST)
    yield alarms


def _add_turning(actions: Any) -> Iterator[Parser]:
    call = add_wish(actions, "call", "call a method", _CALL_EPILOG, _call)
    _add_audit(call)
    call.add_argument("method", metavar="METHOD")
    call.add_argument("arguments", nargs="*", metavar="JSON", help="an argument, or name=JSON for one passed by keyword")
    evict = add_wish(actions, "evict", "let an object leave memory", _EVICT_EPILOG, _evict)
    blocked = add_command(actions, "blocked", _BLOCKED_EPILOG, _blocked, says="list the objects in quarantine")
    release = add_wish(actions, "release", "let an object out of quarantine", _RELEASE_EPILOG, _release)
    yield from (call, evict, blocked, release)


def _add_audit(parser: Parser) -> None:
    parser.add_argument("--audit-values", action="store_true", help="what the values were, and are, is in the audit log, too")


class _Given:
    """A value from the command line; also one that is None."""

    def __init__(self, text: str) -> None:
        self.plain = read_plain(text)


def _add_conditions(parser: Parser) -> None:
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--if-value", metavar="JSON", type=_Given, help="only if the key has this value")
    only.add_argument("--if-digest", metavar="DIGEST", default="", help="only if its value has this digest (see get --json)")
    only.add_argument("--if-missing", action="store_true", help="only if there is no such key")


def _condition(options: argparse.Namespace) -> Condition:
    value = msgspec.UNSET if options.if_value is None else options.if_value.plain
    return Condition(value, options.if_digest, options.if_missing)


# Listing


def _list(options: argparse.Namespace) -> int:
    wish = ListNames(options.class_name, options.prefix, _after(options), options.limit, options.long, options.orphans)
    if options.biggest is not None:
        return _biggest(options)
    if options.all:
        return _all(options, wish)
    objects, missing, more = _names(options, wish)
    result: Result = {"objects": objects, "more": more}
    if not objects and not missing and options.class_name:
        _check_class(options)
    return tell(options, result, _names_page(result, options), missing)


def _after(options: argparse.Namespace) -> tuple[str, str] | None:
    if not options.after:
        return None
    if options.class_name:
        return options.class_name, options.after
    class_name, _, name = options.after.partition("/")
    return class_name, name


def _names(options: argparse.Namespace, wish: ListNames) -> tuple[list[Result], list[str], bool]:
    """A page of all workers together; what is missing; whether there are more."""
    answers, missing = of_all(options, wish)
    objects = sorted((each for answer in answers for each in answer["objects"]), key=_row)
    # Behind the last one of a worker that has more, not all are known.
    ends = [_row(answer["objects"][-1]) for answer in answers if answer["more"]]
    known = [each for each in objects if not ends or _row(each) <= min(ends)][: wish.limit]
    return known, missing, len(known) < len(objects) or bool(ends)


def _row(each: Result) -> str:
    return name_row(each["class"], each["name"])


def _pages(options: argparse.Namespace, wish: ListNames) -> Iterator[list[Result]]:
    """All of them. Raises CallError where a worker does not answer: nothing is passed over."""
    more = True
    while more:
        objects, missing, more = _names(options, wish)
        if missing:
            raise Unavailable(missing[0])
        yield objects
        if objects:
            wish = msgspec.structs.replace(wish, after=(objects[-1]["class"], objects[-1]["name"]))


def _all(options: argparse.Namespace, wish: ListNames) -> int:
    for objects in _pages(options, msgspec.structs.replace(wish, limit=max(wish.limit, _ALL_LIMIT))):
        for each in objects:
            print(json.dumps(each, ensure_ascii=False) if options.json else one_line(f"{each['class']}/{each['name']}"))
    return EXIT_OK


def _biggest(options: argparse.Namespace) -> int:
    """Every object in the data files is looked at: the largest are kept. Raises CallError where a worker does not answer."""
    wish = Weigh(options.class_name, options.prefix, options.biggest)
    found: list[Result] = []
    seen, said_s, more = 0, time.monotonic(), True
    while more:
        answers, missing = of_all(options, wish)
        if missing:
            raise Unavailable(missing[0])
        found = sorted([*found, *(each for answer in answers for each in answer["objects"])], key=_weight)[: options.biggest]
        seen += sum(answer["seen"] for answer in answers)
        after = {answer["worker"]: answer["next"] for answer in answers if answer["next"] is not None}
        more, wish = bool(after), msgspec.structs.replace(wish, after=after)
        if time.monotonic() - said_s > 1.0 and sys.stderr.isatty():
            said_s = time.monotonic()
            print(f"{seen:,} objects looked at", file=sys.stderr)
    options.long = True
    return tell(options, {"objects": found, "seen": seen, "more": False}, _names_page({"objects": found, "more": False}, options))


def _weight(each: Result) -> tuple[int, str]:
    return -each["bytes"], _row(each)


def _names_page(result: Result, options: argparse.Namespace) -> str:
    rows = [("object", "in memory", *(("keys", "bytes") if options.long else ()))]
    for each in result["objects"]:
        sizes = (f"{each['keys']:,}", f"{each['bytes']:,}") if options.long else ()
        rows.append((one_line(f"{each['class']}/{each['name']}"), "yes" if each.get("in_memory") else "", *sizes))
    lines = table(rows, numbers={2, 3}) if result["objects"] else ["no objects"]
    if result["more"]:
        last = result["objects"][-1]
        after = last["name"] if options.class_name else f"{last['class']}/{last['name']}"
        lines.append(f"there are more: --after {shlex.quote(after)}, or --all")
    return "\n".join(lines)


def _check_class(options: argparse.Namespace) -> None:
    """Whether anybody knows it. Raises CallError."""
    answers, _ = of_all(options, ListClasses())
    known = sorted({name for answer in answers for name in answer["classes"]})
    if options.class_name not in known:
        near = difflib.get_close_matches(options.class_name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise UnknownClass(f"no object and no class of the app has that name; {hint}", details={"missing": True})


# Looking


def _show(options: argparse.Namespace) -> int:
    rows: list[Result] = []
    limit = SHOWN_ROWS_MAX if options.all else options.limit
    result = carry_out(options, Show(options.prefix, options.after, limit))
    rows += result["rows"]
    while options.all and result["more"]:
        result = carry_out(options, Show(options.prefix, rows[-1]["key"], limit))
        rows += result["rows"]
    result = {"object": target_of(options), **result, "rows": rows}
    return tell(options, result, _page(result))


def _page(result: Result) -> str:
    rows = [("key", "bytes", "digest", "value")]
    for row in result["rows"]:
        value = (
            as_text(row["value"], _VALUE_WIDTH)
            if "value" in row
            else f"(large: tidegate objects get … {shlex.quote(row['key'])})"
        )
        rows.append((one_line(row["key"]), str(row["bytes"]), row["digest"], one_line(value)))
    lines = table(rows, numbers={1}) if result["rows"] else ["no keys"]
    if (alarm := result["alarm"]) is not None:
        lines.append(f"its alarm is due {alarm_text(alarm)}")
    if result["undurable"]:
        lines.append("something of it is not durable yet")
    if result["more"]:
        lines.append(f"there are more: --after {shlex.quote(result['rows'][-1]['key'])}, or --all")
    return "\n".join(lines)


def alarm_text(alarm: Result) -> str:
    when = _utc(alarm["due_ms"])
    retries = f", after {plural(alarm['retries'], 'failure')}" if alarm["retries"] else ""
    return f"{when}{retries}"


def _get(options: argparse.Namespace) -> int:
    result = carry_out(options, Get(options.key))
    return tell(options, result, as_text(result["value"]))


# Changing


def _put(options: argparse.Namespace) -> int:
    if (options.value is None) == (options.file is None):
        return fail_usage("objects put: give the value as JSON, or --file FILE")
    value = options.value.plain if options.file is None else _read(options.file)
    result = carry_out(options, Put(options.key, value, _condition(options), options.create))
    return tell(options, result, _edited(options, result))


def _read(file: str) -> Any:
    try:
        return read_plain(sys.stdin.read() if file == "-" else Path(file).read_text())
    except OSError as error:
        raise OperatorError("read", file, error.strerror or str(error), "name a file of JSON with --file") from error
    except UnicodeError:
        raise OperatorError("read", file, "it is not UTF-8", "name a file of JSON with --file") from None
    except argparse.ArgumentTypeError as error:
        raise OperatorError("read", file, one_line(str(error))[:200], "it must be one JSON value") from None


def _delete(options: argparse.Namespace) -> int:
    if options.key is None and not options.yes:
        return fail_usage(f"objects delete {target_of(options)}: that is the whole object; say --yes, or name a key")
    result = carry_out(options, Delete(options.key or "", _condition(options)))
    if options.key is None:
        return tell(options, result, f"{target_of(options)} is deleted")
    return tell(options, result, _edited(options, result))


def _edited(options: argparse.Namespace, result: Result) -> str:
    """What has changed, and what takes it back."""
    before, after = result["before"], result["after"]
    if before is not None and after is not None and before["digest"] == after["digest"]:
        return f"{target_of(options)} {options.key!r}: unchanged"
    shown = ["none" if each is None else as_text(each["value"], _VALUE_WIDTH) for each in (before, after)]
    lines = [one_line(f"{target_of(options)} {options.key!r}: {shown[0]} -> {shown[1]}")]
    where = shlex.join((options.class_name, options.name, options.key))
    if before is None and after is not None:
        lines.append(f"undo: tidegate objects delete {where} --if-digest {after['digest']}")
    elif before is not None and len(text := as_text(before["value"])) <= _UNDO_CHARACTERS_MAX:
        condition = "--if-missing" if after is None else f"--if-digest {after['digest']}"
        lines.append(f"undo: tidegate objects put {where} {shlex.quote(text)} {condition}")
    elif before is not None:
        lines.append("undo: the old value is too long for a command line; --json prints it whole, as before.value")
    return "\n".join(lines)


def _call(options: argparse.Namespace) -> int:
    try:
        positional, keywords = parse_arguments(options.arguments)
    except ValueError as error:
        return fail_usage(f"objects call {target_of(options)} {options.method}: {error}")
    result = carry_out(options, CallMethod(options.method, keywords or positional))
    return tell(options, result, as_text(result["result"]))


def _evict(options: argparse.Namespace) -> int:
    result = carry_out(options, Evict())
    was = "has left memory" if result["evicted"] else "was not in memory"
    return tell(options, result, f"{target_of(options)} {was}")


# Travelling


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
    rows: list[tuple[str, Any]] = []
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
        bytes_here = len(pair.key) + len(as_text(pair.value))
        if rows and size + bytes_here > _LOAD_BYTES:
            send(None)
        rows.append((pair.key, pair.value))
        size += bytes_here
        count += 1
    send(None if options.no_alarm else head.alarm_ms)
    return {"object": target, "keys": count}


# Alarms


def _alarms(options: argparse.Namespace) -> int:
    if options.what != "list":
        if not options.name:
            return fail_usage(
                f"objects alarms {options.what}: name the object: tidegate objects alarms {options.what} CLASS NAME"
            )
        result = carry_out(options, TurnAlarm(options.what))
        return tell(
            options, result, f"{target_of(options)}: its alarm " + ("rings now" if options.what == "run" else "is dropped")
        )
    answers, missing = of_all(options, ListAlarms(options.class_name, options.after, options.limit))
    now_ms = max(answer["now_ms"] for answer in answers)
    alarms = sorted((each for answer in answers for each in answer["alarms"]), key=lambda each: int(each["due_ms"]))
    more = len(alarms) > options.limit or any(answer["more"] for answer in answers)
    alarms = [{**each, "late_s": round((now_ms - each["due_ms"]) / 1_000, 3)} for each in alarms[: options.limit]]
    if options.late:
        more, alarms = more and alarms[-1]["late_s"] > 0, [each for each in alarms if each["late_s"] > 0]
    abandoned = sorted((each for answer in answers for each in answer["abandoned"]), key=lambda each: str(each["abandoned_at"]))
    result = {"alarms": alarms, "abandoned": abandoned[::-1][: options.limit], "more": more}
    return tell(options, result, _alarms_page(result), missing)


def _alarms_page(result: Result) -> str:
    rows = [("object", "due", "late")]
    for each in result["alarms"]:
        late = f"{each['late_s']:,.1f} s" if each["late_s"] > 0 else ""
        rows.append((one_line(f"{each['class']}/{each['name']}"), _utc(each["due_ms"]), late))
    lines = table(rows, numbers={2}) if result["alarms"] else ["no alarm is scheduled"]
    if result["more"]:
        lines.append(f"there are more: --after {result['alarms'][-1]['due_ms']}")
    if result["abandoned"]:
        gone = [("abandoned", "at", "because")]
        gone += [
            (one_line(f"{each['class']}/{each['name']}"), each["abandoned_at"], each["error"]) for each in result["abandoned"]
        ]
        lines += ["", *table(gone), "(tidegate alarms run, or drop)"]
    return "\n".join(lines)


def _utc(time_ms: int) -> str:
    return datetime.datetime.fromtimestamp(time_ms / 1_000, datetime.UTC).isoformat(timespec="milliseconds")


# Quarantine


def _blocked(options: argparse.Namespace) -> int:
    status = read_status(status_of(options))
    found = msgspec.to_builtins(status.quarantined_objects)
    print(json.dumps(found, indent=2) if options.json else render_quarantine(status))
    return EXIT_OK


def _release(options: argparse.Namespace) -> int:
    target = target_of(options)
    administer(options, "release_object", target)
    give_up_at = time.monotonic() + LISTED_S
    while time.monotonic() < give_up_at and target in _listed(options):
        time.sleep(0.1)
    return tell(options, {"released": target}, f"{target} is released")


def _listed(options: argparse.Namespace) -> list[str]:
    return [each.object for each in read_status(status_of(options)).quarantined_objects]
