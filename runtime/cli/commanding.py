"""A command for the supervisor of a service on this machine: given, followed, and what came of it."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from tidegate.runtime.cli.arguments import add_client_options
from tidegate.runtime.cli.asking import status_of
from tidegate.runtime.cli.exits import EXIT_OK, fail
from tidegate.runtime.cli.local import connect, is_trusted, lives
from tidegate.runtime.cli.pages import plural, table
from tidegate.runtime.errors import OperatorError, from_wire, one_line
from tidegate.runtime.options.settings import SECTION
from tidegate.runtime.options.shown import ShownOption
from tidegate.runtime.options.words import shown
from tidegate.runtime.wire.commands import (
    COMMAND_BYTES_MAX,
    AuditedValues,
    Command,
    Ended,
    Said,
    ShownConfig,
    Status,
    decode_answer,
    encode,
)
from tidegate.runtime.wire.plain_json import with_values as as_plain
from tidegate.runtime.wire.wishes import Wish

ObjectCall = Literal["release_object", "drop_alarm", "run_alarm"]
_BEYOND_S = 2.0
"""So long after its time an answer is waited for: the worker says best what has become of it."""
_ELSEWHERE = "run it on the machine of the service, as the user of the service or root"


def add_command_options(parser: argparse.ArgumentParser) -> None:
    add_client_options(parser, timeout="wait so long for the service to answer; then until it is done")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")


def command(options: argparse.Namespace, what: Literal["reload", "restart"]) -> int:
    """Returns when it is over; with Ctrl-C sooner, and it goes on. Raises OperatorError."""
    ended: Ended | None = None
    for message in _give(Command(what), options, follow=True):
        if isinstance(message, Ended):
            ended = message
        elif isinstance(message, Said) and not options.json:
            print(message.text, flush=True)
    if ended is None:
        raise OperatorError(what, options.connect, "the supervisor ended before it was done", "look at the log of the service")
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
    for message in _give(Command("config"), options):
        if isinstance(message, ShownConfig):
            return msgspec.convert(message.options, list[ShownOption])
    raise OperatorError(
        "config", options.connect, "the supervisor does not say", "use the tidegate command that the service is of"
    )


def administer(options: argparse.Namespace, method: ObjectCall, target: str) -> None:
    """What an operator asks of one object, `CLASS/NAME`. Returns when it is done. Raises CallError, OperatorError."""
    _end_of(options, Command(method, target))


def wish_for(options: argparse.Namespace, wish: Wish, target: str) -> dict[str, Any]:
    """What came of it; values in it are as `plain_json` has them. Raises CallError, OperatorError."""
    values: AuditedValues = getattr(options, "audit_values", "old")
    result = _end_of(options, Command("wish", target, wish, options.timeout, values)).result
    assert result is not None, "it has come to something, or there is an error"
    return as_plain(result)


def _end_of(options: argparse.Namespace, command: Command) -> Ended:
    given = _give(command, options, beyond_s=_BEYOND_S)
    ended = next((each for each in given if isinstance(each, Ended)), None)
    if ended is None:
        raise OperatorError(
            command.what, command.object, "the supervisor ended before it was done", "look at the log of the service"
        )
    if ended.error is not None:
        raise from_wire(ended.error)
    if ended.failed is not None:
        raise OperatorError(command.what, command.object, ended.failed.problem, ended.failed.hint)
    return ended


def _line(command: Command) -> bytes:
    """Raises OperatorError for what cannot be said."""
    try:
        line = encode(command) + b"\n"
    except UnicodeEncodeError:
        problem = "a name, key or value is not UTF-8"
        raise OperatorError(command.what, one_line(ascii(command.object)), problem, "correct it") from None
    if len(line) > COMMAND_BYTES_MAX:
        problem = f"it has {len(line)} bytes as JSON, and {COMMAND_BYTES_MAX} at most can be said"
        raise OperatorError(command.what, command.object, problem, "a value has 2 MiB at most")
    return line


def _give(
    command: Command, options: argparse.Namespace, *, follow: bool = False, beyond_s: float = 0.0
) -> Iterator[Said | Ended | ShownConfig]:
    """`follow`: what was begun is waited for as long as the supervisor lives; else its answer for as long as was said, and so
    much longer. Raises OperatorError."""
    timeout_s, line = options.timeout + beyond_s, _line(command)
    path = options.commands = getattr(options, "commands", None) or status_of(options).get("commands", "")
    with socket.socket(socket.AF_UNIX) as supervisor:
        try:
            connect(supervisor, path, timeout_s)
            if not is_trusted(supervisor, options.connect):
                problem = "who listens there is another user, and not this service"
                raise OperatorError(command.what, path, problem, _ELSEWHERE)
            supervisor.settimeout(timeout_s)
            supervisor.sendall(line)
            for line in _lines(supervisor, lambda: follow and lives(path)):
                message = decode_answer(line)
                if not isinstance(message, Status):
                    yield message
        except TimeoutError as error:
            problem = f"the supervisor has not said within {timeout_s:g} s that it is done"
            hint = "see tidegate status; what it has heard it does when it can"
            raise OperatorError(command.what, command.object or path, problem, hint) from error
        except OSError as error:
            problem = f"the supervisor cannot be reached: {error.strerror or error}"
            raise OperatorError(command.what, path or "the service", problem, _ELSEWHERE) from error


def _lines(supervisor: socket.socket, is_waited_for: Callable[[], bool]) -> Iterator[bytes]:
    """To the end. Raises TimeoutError when nothing comes for so long as the socket says, and it is not to be waited for."""
    begun: list[bytes] = []
    while True:
        try:
            part = supervisor.recv(1 << 16)
        except TimeoutError:
            if is_waited_for():
                continue
            raise
        if not part:
            return
        first, *rest = part.split(b"\n")
        begun.append(first)
        for each in rest:
            yield b"".join(begun)
            begun = [each]


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
