"""`tidegate alarms`: those that were given up; listed, dropped, run again."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from tidegate.runtime.cli.arguments import add_client_options, add_command
from tidegate.runtime.cli.asking import read_status, report_call_error, status_of
from tidegate.runtime.cli.commanding import ObjectCall, administer
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import alarm_target, newest_abandoned, render_alarms
from tidegate.runtime.errors import CallError

_ALARMS_EPILOG = """An alarm is given up when its handler has raised seven times, or its process has died four times while it ran.

examples:
  tidegate alarms                     list them, the newest first
  tidegate alarms run Order 4711      set it again, for now
  tidegate alarms drop Order 4711     forget it
"""

ALARM_ACTIONS: dict[str, ObjectCall] = {"drop": "drop_alarm", "run": "run_alarm"}
ALARM_LISTED_S = 6.0
"""The list may be so old."""


def add(commands: Any) -> None:
    alarms = add_command(commands, "alarms", _ALARMS_EPILOG, run)
    alarms.add_argument("action", nargs="?", choices=("list", *ALARM_ACTIONS), default="list", help="default: list")
    alarms.add_argument("class_name", metavar="CLASS", nargs="?", help="with drop and run: whose alarm")
    alarms.add_argument("name", metavar="NAME", nargs="?")
    add_client_options(alarms)
    alarms.add_argument("--json", action="store_true", help="print the list, or the error, as JSON")


def run(options: argparse.Namespace) -> int:
    if options.action in ALARM_ACTIONS:
        return _alarm_action(options)
    if options.class_name is not None:
        return fail_usage("alarms list: takes no object; it lists them all")
    status = read_status(status_of(options))
    print(json.dumps(newest_abandoned(status), indent=2) if options.json else render_alarms(status))
    return EXIT_OK


def _alarm_action(options: argparse.Namespace) -> int:
    operation = f"alarms {options.action}"
    if options.name is None:
        return fail_usage(f"{operation}: name the object: tidegate {operation} CLASS NAME")
    target = f"{options.class_name}/{options.name}"
    try:
        administer(options, ALARM_ACTIONS[options.action], target)
    except CallError as error:
        return report_call_error(f"{operation} {target}", error, as_json=options.json)
    give_up_at = time.monotonic() + ALARM_LISTED_S
    while target in map(alarm_target, newest_abandoned(read_status(status_of(options)))) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    print(f"{target}: its alarm " + ("is dropped" if options.action == "drop" else "rings again now"))
    return EXIT_OK
