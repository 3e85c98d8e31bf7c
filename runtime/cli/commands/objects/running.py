"""`tidegate objects call | evict`: an object, run or let go."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import Parser, parse_arguments
from tidegate.runtime.cli.commands.objects.terms import add_audit
from tidegate.runtime.cli.exits import fail_usage
from tidegate.runtime.cli.wishing import add_wish, as_text, carry_out, target_of, tell
from tidegate.runtime.wire.wishes import CallMethod, Evict

_CALL_EPILOG = """Like `tidegate call`, but past the routers, and written to the audit log.

examples:
  tidegate objects call Counter alice get_unique_number
"""
_EVICT_EPILOG = """Only memory is lost; the next call makes a new instance. An object that is at work stays.

examples:
  tidegate objects evict Counter alice
"""


def add(actions: Any) -> Iterator[Parser]:
    call = add_wish(actions, "call", "call a method", _CALL_EPILOG, _call)
    add_audit(call)
    call.add_argument("method", metavar="METHOD")
    call.add_argument("arguments", nargs="*", metavar="JSON", help="an argument, or name=JSON for one passed by keyword")
    evict = add_wish(actions, "evict", "let an object leave memory", _EVICT_EPILOG, _evict)
    yield from (call, evict)


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
