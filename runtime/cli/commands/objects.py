"""`tidegate objects`: those in quarantine; listed, released."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import msgspec

from tidegate.runtime.cli.arguments import add_client_options, add_command
from tidegate.runtime.cli.asking import read_status, report_call_error, status_of
from tidegate.runtime.cli.commanding import administer
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import render_quarantine
from tidegate.runtime.errors import CallError

_EPILOG = """An object is in quarantine when its code has held up or ended its worker more than once: its callers are refused, for
4 s at first and twice as long each time.

examples:
  tidegate objects                          list them
  tidegate objects release Counter alice    serve it again, once its code is corrected
"""

LISTED_S = 6.0
"""The list may be so old."""


def add(commands: Any) -> None:
    objects = add_command(commands, "objects", _EPILOG, run)
    objects.add_argument("action", nargs="?", choices=("list", "release"), default="list", help="default: list")
    objects.add_argument("class_name", metavar="CLASS", nargs="?", help="with release: which object")
    objects.add_argument("name", metavar="NAME", nargs="?")
    add_client_options(objects)
    objects.add_argument("--json", action="store_true", help="print the list, or the error, as JSON")


def run(options: argparse.Namespace) -> int:
    if options.action == "release":
        return _release(options)
    if options.class_name is not None:
        return fail_usage("objects list: takes no object; it lists them all")
    status = read_status(status_of(options))
    found = msgspec.to_builtins(status.quarantined_objects)
    print(json.dumps(found, indent=2) if options.json else render_quarantine(status))
    return EXIT_OK


def _release(options: argparse.Namespace) -> int:
    if options.name is None:
        return fail_usage("objects release: name the object: tidegate objects release CLASS NAME")
    target = f"{options.class_name}/{options.name}"
    try:
        administer(options, "release_object", target)
    except CallError as error:
        return report_call_error(f"objects release {target}", error, as_json=options.json)
    give_up_at = time.monotonic() + LISTED_S
    while time.monotonic() < give_up_at and target in _listed(options):
        time.sleep(0.1)
    print(f"{target} is released")
    return EXIT_OK


def _listed(options: argparse.Namespace) -> list[str]:
    return [each.object for each in read_status(status_of(options)).quarantined_objects]
