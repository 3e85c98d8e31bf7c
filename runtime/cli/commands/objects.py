"""`tidegate objects`: what objects have stored; looked at, changed, listed."""

from __future__ import annotations

import argparse
import datetime
import difflib
import heapq
import json
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
from tidegate.runtime.errors import OperatorError, Unavailable, UnknownClass, one_line
from tidegate.runtime.ids import name_row
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
    ListClasses,
    ListNames,
    Put,
    Show,
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
durable.

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
_ALL_LIMIT = 1_000
"""Objects of a page where all are asked for."""
_UNDO_CHARACTERS_MAX = 2_000


def add(commands: Any) -> None:
    objects = add_command(commands, "objects", _EPILOG, lambda options: fail_usage("objects: say what to do; see --help"))
    actions = objects.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    listed = add_command(
        actions, "ls", _LS_EPILOG, reporting(_list, "{0.class_name}"), says="list objects, in the order of their names"
    )
    listed.add_argument("class_name", metavar="CLASS", nargs="?", default="", help="of this class (default: of all)")
    listed.add_argument("--prefix", default="", metavar="TEXT", help="only names that begin with it")
    listed.add_argument("--after", default="", metavar="NAME", help="only names behind it; without CLASS: CLASS/NAME")
    most = f"at most so many (default: {LISTED_OBJECTS})"
    limit = read_as(Annotated[int, msgspec.Meta(ge=1, le=LISTED_OBJECTS_MAX)])
    listed.add_argument("--limit", type=limit, default=LISTED_OBJECTS, metavar="N", help=most)
    listed.add_argument("--long", action="store_true", help="with the number of keys, and bytes")
    listed.add_argument("--all", action="store_true", help="all of them, page by page; with --json an object a line")
    listed.add_argument("--orphans", action="store_true", help="only of classes that the app does not have")
    count = read_as(Annotated[int, msgspec.Meta(ge=1, le=10_000)])
    listed.add_argument("--biggest", type=count, metavar="N", help="the N with the most bytes, of all that are named")
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
    call = add_wish(actions, "call", "call a method", _CALL_EPILOG, _call)
    call.add_argument("method", metavar="METHOD")
    call.add_argument("arguments", nargs="*", metavar="JSON", help="an argument, or name=JSON for one passed by keyword")
    evict = add_wish(actions, "evict", "let an object leave memory", _EVICT_EPILOG, _evict)
    blocked = add_command(actions, "blocked", _BLOCKED_EPILOG, _blocked, says="list the objects in quarantine")
    release = add_wish(actions, "release", "let an object out of quarantine", _RELEASE_EPILOG, _release)
    for parser in (put, delete, call):
        told = "what the values were, and are, is in the audit log, too"
        parser.add_argument("--audit-values", action="store_true", help=told)
    for parser in (listed, show, get, put, delete, call, evict, blocked, release):
        add_wish_options(parser)


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
        return _biggest(options, wish)
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


def _biggest(options: argparse.Namespace, wish: ListNames) -> int:
    """Every object is looked at: the largest are kept."""
    kept: list[tuple[int, int, Result]] = []
    seen, said_s = 0, time.monotonic()
    for objects in _pages(options, msgspec.structs.replace(wish, sizes=True, limit=_ALL_LIMIT)):
        for each in objects:
            seen += 1
            heapq.heappush(kept, (each["bytes"], -seen, each))
            if len(kept) > options.biggest:
                heapq.heappop(kept)
        if time.monotonic() - said_s > 1.0 and sys.stderr.isatty():
            said_s = time.monotonic()
            print(f"{seen:,} objects looked at", file=sys.stderr)
    result: Result = {"objects": [each for _, _, each in sorted(kept, reverse=True)], "more": False, "seen": seen}
    options.long = True
    return tell(options, result, _names_page(result, options))


def _names_page(result: Result, options: argparse.Namespace) -> str:
    rows = [("object", "in memory", *(("keys", "bytes") if options.long else ()))]
    for each in result["objects"]:
        sizes = (f"{each['keys']:,}", f"{each['bytes']:,}") if options.long else ()
        rows.append((one_line(f"{each['class']}/{each['name']}"), "yes" if each["in_memory"] else "", *sizes))
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
    result = carry_out(options, Show(options.prefix, options.after, options.limit))
    rows += result["rows"]
    while options.all and result["more"]:
        result = carry_out(options, Show(options.prefix, rows[-1]["key"], options.limit))
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
    when = datetime.datetime.fromtimestamp(alarm["due_ms"] / 1_000, datetime.UTC).isoformat(timespec="milliseconds")
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
    except (OSError, UnicodeError) as error:
        raise OperatorError("read", file, str(error), "name a file of JSON with --file") from error
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
