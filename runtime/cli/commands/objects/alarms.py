"""`tidegate objects alarms`: scheduled and abandoned ones; listed, run, dropped."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import Parser, add_command
from tidegate.runtime.cli.commands.objects.terms import LISTED, MOST, utc
from tidegate.runtime.cli.exits import fail_usage
from tidegate.runtime.cli.gathered import alarms
from tidegate.runtime.cli.pages import table
from tidegate.runtime.cli.wishing import Result, carry_out, reporting, target_of, tell
from tidegate.runtime.errors import one_line
from tidegate.runtime.wire.wishes import LISTED_OBJECTS, ListAlarms, TurnAlarm

_ALARMS_EPILOG = """Those due first come first; one that is late stands with how late. A late alarm waits for its
worker, for its turn, or for a class that the app does not have (tidegate classes).

examples:
  tidegate objects alarms
  tidegate objects alarms --late
  tidegate objects alarms Order --limit 20                     of a class
  tidegate objects alarms run Order 4711                       now instead of at its time
  tidegate objects alarms drop Order 4711
  tidegate objects alarms drop Order 4711 --if-due 1790000000000   if it is this one, as --json lists it
"""


def add(actions: Any) -> Iterator[Parser]:
    parser = add_command(
        actions, "alarms", _ALARMS_EPILOG, reporting(_alarms, ""), says="list scheduled and abandoned alarms; run, drop one"
    )
    what = "CLASS, to list those of a class (default: of all); run CLASS NAME; drop CLASS NAME"
    parser.add_argument("words", metavar="WORD", nargs="*", help=what)
    what = "run, drop: only if it is due at this Unix time in ms, as --json lists it"
    parser.add_argument("--if-due", metavar="MS", type=int, help=what)
    parser.add_argument("--late", action="store_true", help="only those that should have rung by now")
    parser.add_argument("--after", metavar="MS", type=int, default=0, help="only those due at this Unix time in ms, or later")
    parser.add_argument("--limit", type=LISTED, default=LISTED_OBJECTS, metavar="N", help=MOST)
    yield parser


def _alarms(options: argparse.Namespace) -> int:
    do, *words = options.words if options.words and options.words[0] in ("list", "run", "drop") else ("list", *options.words)
    if do == "list":
        return _list(options, words)
    if len(words) != 2:
        return fail_usage(f"objects alarms {do}: name the object: tidegate objects alarms {do} CLASS NAME")
    options.class_name, options.name = words
    result = carry_out(options, TurnAlarm(do, options.if_due))
    return tell(options, result, f"{target_of(options)}: its alarm " + ("rings now" if do == "run" else "is dropped"))


def _list(options: argparse.Namespace, words: list[str]) -> int:
    if len(words) > 1:
        return fail_usage(f"objects alarms: one class is listed, not {' '.join(words)}; with run or drop: CLASS NAME")
    wish = ListAlarms(words[0] if words else "", options.after, options.limit)
    result, missing = alarms(options, wish, late=options.late)
    return tell(options, result, _alarms_page(result, late=options.late), missing)


def _alarms_page(result: Result, *, late: bool) -> str:
    rows = [("object", "due", "late")]
    for each in result["alarms"]:
        how_late = f"{each['late_s']:,.1f} s" if each["late_s"] > 0 else ""
        rows.append((one_line(f"{each['class']}/{each['name']}"), utc(each["due_ms"]), how_late))
    none = "no alarm is late" if late else "no alarm is scheduled"
    lines = table(rows, numbers={2}) if result["alarms"] else [none]
    if result["more"]:
        lines.append(f"there are more: --after {result['alarms'][-1]['due_ms']}")
    if result["abandoned"]:
        gone = [("abandoned", "at", "because")]
        gone += [
            (one_line(f"{each['class']}/{each['name']}"), each["abandoned_at"], each["error"]) for each in result["abandoned"]
        ]
        lines += ["", *table(gone), "(tidegate alarms run, or drop)"]
    return "\n".join(lines)
