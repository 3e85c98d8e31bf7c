"""`tidegate objects errors`: what went wrong lately, and what was slow."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import Parser, add_command
from tidegate.runtime.cli.commands.objects.terms import LISTED, utc
from tidegate.runtime.cli.gathered import errors
from tidegate.runtime.cli.pages import table
from tidegate.runtime.cli.wishing import Result, reporting, tell
from tidegate.runtime.wire.wishes import LISTED_ERRORS, ListErrors

_ERRORS_EPILOG = """What objects raised, and why they were reset, since their workers were started; 5 of each object are kept.
Then the calls that took longer than [log] slow_call_s, with where their time went.

examples:
  tidegate objects errors
  tidegate objects errors --limit 3 --json
"""


def add(actions: Any) -> Iterator[Parser]:
    says = "list the newest errors and slow calls of all objects"
    found = add_command(actions, "errors", _ERRORS_EPILOG, reporting(_errors, ""), says=says)
    most = f"at most so many of each (default: {LISTED_ERRORS})"
    found.add_argument("--limit", type=LISTED, default=LISTED_ERRORS, metavar="N", help=most)
    yield found


def _errors(options: argparse.Namespace) -> int:
    result, missing = errors(options, ListErrors(options.limit))
    return tell(options, result, _page(result), missing)


def _page(result: Result) -> str:
    rows = [("when", "object", "where", "what went wrong")]
    rows += [(utc(each["time_ms"]), f"{each['class']}/{each['name']}", each["code"], each["what"]) for each in result["errors"]]
    lines = table(rows) if result["errors"] else ["no errors"]
    if result["slow"]:
        slow: list[tuple[str, ...]] = [("when", "slow call", "took", "queue", "gate", "run", "commit")]
        for each in result["slow"]:
            parts = (f"{each[part]:.3f} s" for part in ("took_s", "queue_s", "gate_s", "run_s", "commit_s"))
            slow.append((utc(each["time_ms"]), _called(each), *parts))
        lines += ["", *table(slow, numbers={2, 3, 4, 5, 6})]
    return "\n".join(lines)


def _called(each: Result) -> str:
    """Of calls that came in one message it is not known which was slow, nor of which object."""
    return f"{each['class']}/{each['name']}.{each['method']}" if each["name"] else f"{each['class']}: {each['method']}"
