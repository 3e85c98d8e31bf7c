"""`tidegate objects blocked | release`: those whose callers are refused."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from tidegate.runtime.cli.arguments import Parser, add_command
from tidegate.runtime.cli.asking import read_status, status_of
from tidegate.runtime.cli.commanding import administer
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.pages import render_quarantine
from tidegate.runtime.cli.wishing import add_wish, target_of, tell

_BLOCKED_EPILOG = """An object is in quarantine when its code has held up or ended its worker more than once: its callers are
refused, for 4 s at first and twice as long each time. The list says for how long yet, which method it was, and what it
did; the stack stands in the log of the service, and `tidegate inspect CLASS NAME` has the line of code.

examples:
  tidegate objects blocked
"""
_RELEASE_EPILOG = """It is served again. If its code does the same again, it comes back for longer.

examples:
  tidegate objects release Counter alice
"""
LISTED_S = 6.0
"""The list of the objects in quarantine may be so old."""


def add(actions: Any) -> Iterator[Parser]:
    blocked = add_command(actions, "blocked", _BLOCKED_EPILOG, _blocked, says="list the objects in quarantine")
    release = add_wish(actions, "release", "let an object out of quarantine", _RELEASE_EPILOG, _release)
    yield from (blocked, release)


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
