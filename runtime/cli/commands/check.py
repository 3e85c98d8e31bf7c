"""`tidegate check`: whether everything in a data directory is whole."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidegate.runtime.cli.arguments import a_path, add_command
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK
from tidegate.runtime.cli.pages import mebibytes, plural
from tidegate.runtime.data.directory import open_idle_directory
from tidegate.runtime.supervisor.config import DATA_DEFAULT
from tidegate.shard.offline.check import Check, Counts, Finding

_EPILOG = """Looks at every page, row and log record, at headers and alarms. Changes nothing. The service must be stopped.
Exits 0 if everything is whole, 1 if anything is not.

examples:
  tidegate check                        the directory where a service in this folder keeps its data
  tidegate check /var/lib/shop --json
"""
PROGRESS_EVERY_S = 1.0


def add(commands: Any) -> None:
    check = add_command(commands, "check", _EPILOG, run)
    add_data(check)
    check.add_argument("--json", action="store_true", help="print what was found as JSON")


def add_data(parser: argparse.ArgumentParser) -> None:
    """The directory, as the first argument. Root's command on it is its owner's: see `as_owner`."""
    what, default = "the data directory (default: %(default)s)", Path(DATA_DEFAULT)
    parser.add_argument("data", metavar="DATA", nargs="?", type=lambda text: Path(a_path(text)), default=default, help=what)
    parser.set_defaults(works_on=lambda options: options.data)


def progress() -> Callable[[str, float], None]:
    """Says on stderr what is being done, a line each second at most, and none in the first."""
    said_at = time.monotonic()

    def say(what: str, share: float) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= PROGRESS_EVERY_S:
            said_at = time.monotonic()
            print(f"{what}: {min(share, 1.0):.0%}", file=sys.stderr, flush=True)

    return say


def run(options: argparse.Namespace) -> int:
    with open_idle_directory(options.data) as directory:
        check = Check(directory.path, directory.shards, progress())
        findings = []
        for finding in check.run():
            findings.append(finding)
            if not options.json:
                print(f"PROBLEM {finding.where}: {finding.what}\n  next: {finding.next}", flush=True)
    if options.json:
        print(json.dumps(_as_json(options.data, check.counts, findings), indent=2))
    else:
        print(_summary(options.data, check.counts, findings))
    return EXIT_FAILED if findings else EXIT_OK


def _as_json(data: Path, counts: Counts, findings: list[Finding]) -> dict[str, Any]:
    return {"data": str(data), **counts._asdict(), "problems": [finding._asdict() for finding in findings]}


def _summary(data: Path, counts: Counts, findings: list[Finding]) -> str:
    size = f"{mebibytes(counts.state_bytes)} of states, {mebibytes(counts.log_bytes)} of logs"
    looked = f"{plural(counts.shards, 'shard')}, {plural(counts.objects, 'object')}, {plural(counts.rows, 'row')}, {size}"
    return f"{data}: {looked}: {plural(len(findings), 'problem') if findings else 'everything is whole'}"
