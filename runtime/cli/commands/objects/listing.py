"""`tidegate objects ls`: which there are."""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from tidegate.runtime.cli.arguments import Parser, add_command, read_as
from tidegate.runtime.cli.commands.objects.terms import LISTED, MOST
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.gathered import classes, names, pages, row_of
from tidegate.runtime.cli.pages import table
from tidegate.runtime.cli.wishing import Result, of_all, reporting, tell
from tidegate.runtime.errors import Unavailable, UnknownClass, one_line
from tidegate.runtime.wire.wishes import LISTED_OBJECTS, ListNames, Weigh

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
_ALL_LIMIT = 1_000
"""Objects of a page where all are asked for."""


def add(actions: Any) -> Iterator[Parser]:
    listed = add_command(
        actions, "ls", _LS_EPILOG, reporting(_list, "{0.class_name}"), says="list objects, in the order of their names"
    )
    listed.add_argument("class_name", metavar="CLASS", nargs="?", default="", help="of this class (default: of all)")
    listed.add_argument("--prefix", default="", metavar="TEXT", help="only names that begin with it")
    listed.add_argument("--after", default="", metavar="NAME", help="only names behind it; without CLASS: CLASS/NAME")
    listed.add_argument("--limit", type=LISTED, default=LISTED_OBJECTS, metavar="N", help=MOST)
    listed.add_argument("--long", action="store_true", help="with the number of keys, and bytes")
    listed.add_argument("--all", action="store_true", help="all of them, page by page; with --json an object a line")
    listed.add_argument("--orphans", action="store_true", help="only of classes that the app does not have")
    count = read_as(Annotated[int, msgspec.Meta(ge=1, le=10_000)])
    listed.add_argument("--biggest", type=count, metavar="N", help="the N with the most bytes, of all that are named")
    yield listed


def _list(options: argparse.Namespace) -> int:
    wish = ListNames(options.class_name, options.prefix, _after(options), options.limit, options.long, options.orphans)
    if options.biggest is not None:
        return _biggest(options)
    if options.all:
        return _all(options, wish)
    objects, missing, more = names(options, wish)
    result: Result = {"objects": objects, "more": more}
    if not objects and not missing and options.class_name:
        check_class(options)
    return tell(options, result, _names_page(result, options), missing)


def _after(options: argparse.Namespace) -> tuple[str, str] | None:
    if not options.after:
        return None
    if options.class_name:
        return options.class_name, options.after
    class_name, _, name = options.after.partition("/")
    return class_name, name


def _all(options: argparse.Namespace, wish: ListNames) -> int:
    for objects in pages(options, msgspec.structs.replace(wish, limit=max(wish.limit, _ALL_LIMIT))):
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
    none = "no objects in the data files: what was made in the last seconds may not be there yet"
    text = _names_page({"objects": found, "more": False}, options) if found else none
    return tell(options, {"objects": found, "seen": seen, "more": False}, text)


def _weight(each: Result) -> tuple[int, str]:
    return -each["bytes"], row_of(each)


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


def check_class(options: argparse.Namespace) -> None:
    """Whether anybody knows it. Raises CallError."""
    known, missing = classes(options)
    if options.class_name not in known:
        if missing:
            raise Unavailable(missing[0])
        near = difflib.get_close_matches(options.class_name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise UnknownClass(f"no object and no class of the app has that name; {hint}", details={"missing": True})
