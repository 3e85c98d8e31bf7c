"""A command for the supervisor of a service on this machine: given, followed, and what came of it."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from tidegate.runtime.cli.arguments import add_client_options
from tidegate.runtime.cli.asking import status_of
from tidegate.runtime.cli.exits import EXIT_OK, fail
from tidegate.runtime.cli.local import unix_path
from tidegate.runtime.cli.pages import plural, table
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.options.settings import SECTION
from tidegate.runtime.options.shown import ShownOption
from tidegate.runtime.options.words import shown
from tidegate.runtime.wire.commands import Command, Ended, Said, ShownConfig, Status, decode_answer, encode

_ELSEWHERE = "run it on the machine of the service, as the user of the service or root"


def add_command_options(parser: argparse.ArgumentParser) -> None:
    add_client_options(parser, timeout="wait so long for the service to answer; then until it is done")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")


def command(options: argparse.Namespace, what: Literal["reload", "restart"]) -> int:
    """Returns when it is over; with Ctrl-C sooner, and it goes on. Raises OperatorError."""
    path = status_of(options).get("commands", "")
    ended: Ended | None = None
    for message in _give(Command(what), path):
        if isinstance(message, Ended):
            ended = message
        elif isinstance(message, Said) and not options.json:
            print(message.text, flush=True)
    if ended is None:
        raise OperatorError(what, path, "the supervisor ended before it was done", "look at the log of the service")
    for each in ended.config.changed if not options.json else ():
        if each.option.startswith(f"{SECTION}."):  # The others were said at the beginning.
            print(f"{each.option} is {shown(each.after)}, it was {shown(each.before)}")
    if options.json:
        print(json.dumps(msgspec.to_builtins(ended), indent=2))
    elif ended.replaced:
        print("\n".join(_table(ended)))
    if ended.failed is None:
        return EXIT_OK
    failed = ended.failed
    if failed.traceback and not options.json:
        print(failed.traceback.rstrip(), file=sys.stderr)
    now = "workers run different versions of the app" if ended.mixed else "the version before goes on"
    return fail(f"{what} failed, {now}: {failed.operation} {failed.place}: {failed.problem} ({failed.hint})")


def ask_config(options: argparse.Namespace) -> list[ShownOption]:
    """What is in effect in the service. Raises OperatorError."""
    path = status_of(options).get("commands", "")
    for message in _give(Command("config"), path):
        if isinstance(message, ShownConfig):
            return msgspec.convert(message.options, list[ShownOption])
    raise OperatorError("config", path, "the supervisor does not say", "use the tidegate command that the service is of")


def _give(command: Command, path: str) -> Iterator[Said | Ended | ShownConfig]:
    with socket.socket(socket.AF_UNIX) as supervisor:
        try:
            supervisor.connect(unix_path(path))
        except OSError as error:
            problem = f"the supervisor cannot be reached: {error.strerror or error}"
            raise OperatorError(command.what, path or "the service", problem, _ELSEWHERE) from error
        supervisor.sendall(encode(command) + b"\n")
        with supervisor.makefile("rb") as answers:
            for line in answers:
                message = decode_answer(line)
                if not isinstance(message, Status):
                    yield message


def _table(ended: Ended) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("replaced", "app version", "calls that waited", "longest wait", "served by nobody for", "lost")
    ]
    for each in ended.replaced:
        row: tuple[Any, ...] = (
            each.name,
            each.app_version or "-",
            each.waited_calls,
            f"{each.waited_ms_max:g} ms",
            f"{each.gap_ms:g} ms",
            each.unanswered,
        )
        rows.append(tuple(map(str, row)))
    calls, lost = (sum(column) for column in zip(*((each.waited_calls, each.unanswered) for each in ended.replaced), strict=True))
    longest = max(each.waited_ms_max for each in ended.replaced)
    total = f"{plural(calls, 'call')} waited, {longest:g} ms at most; {plural(lost, 'call')} ran too long and were lost"
    return [*table(rows), total]
