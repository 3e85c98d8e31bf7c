"""`tidegate objects show | get`: what one has stored."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from tidegate.runtime.cli.arguments import Parser, read_as
from tidegate.runtime.cli.commands.objects.terms import VALUE_WIDTH, utc
from tidegate.runtime.cli.pages import plural, table
from tidegate.runtime.cli.wishing import Result, add_wish, as_text, carry_out, target_of, tell
from tidegate.runtime.errors import one_line
from tidegate.runtime.wire.wishes import SHOWN_ROWS, SHOWN_ROWS_MAX, Get, Show

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


def add(actions: Any) -> Iterator[Parser]:
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
            as_text(row["value"], VALUE_WIDTH) if "value" in row else f"(large: tidegate objects get … {shlex.quote(row['key'])})"
        )
        rows.append((one_line(row["key"]), str(row["bytes"]), row["digest"], one_line(value)))
    lines = table(rows, numbers={1}) if result["rows"] else ["no keys"]
    if (alarm := result["alarm"]) is not None:
        lines.append(f"its alarm is due {_alarm_text(alarm)}")
    if result["undurable"]:
        lines.append("something of it is not durable yet")
    if result["more"]:
        lines.append(f"there are more: --after {shlex.quote(result['rows'][-1]['key'])}, or --all")
    return "\n".join(lines)


def _alarm_text(alarm: Result) -> str:
    when = utc(alarm["due_ms"])
    retries = f", after {plural(alarm['retries'], 'failure')}" if alarm["retries"] else ""
    return f"{when}{retries}"


def _get(options: argparse.Namespace) -> int:
    result = carry_out(options, Get(options.key))
    return tell(options, result, as_text(result["value"]))
