"""`tidegate call`: one method of one object."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from tidegate.runtime.cli.arguments import add_client_options, add_command, parse_arguments
from tidegate.runtime.cli.asking import ask, report_call_error
from tidegate.runtime.cli.exits import EXIT_OK, EXIT_USAGE, fail
from tidegate.runtime.errors import CallError, OperatorError, Unavailable
from tidegate.runtime.limits import IDEMPOTENCY_KEY_BYTES_MAX

_CALL_EPILOG = """examples:
  tidegate call Counter alice get_unique_number
  tidegate call Bank main transfer '"alice"' '"bob"' 10
  tidegate call Bank main transfer source='"alice"' target='"bob"' amount=10
  tidegate call --key order-17 Bank main transfer '"alice"' '"bob"' 10    # again: the same result, and no second transfer
"""


def add(commands: Any) -> None:
    call = add_command(commands, "call", _CALL_EPILOG, run)
    call.add_argument("class_name", metavar="CLASS")
    call.add_argument("name", metavar="NAME")
    call.add_argument("method", metavar="METHOD")
    call.add_argument("arguments", nargs="*", metavar="JSON", help="an argument, or name=JSON for one passed by keyword")
    call.add_argument(
        "--key", type=_key, help="a name of this call, 1 to 64 bytes: made again with the same one it gets the first one's result"
    )
    add_client_options(call)
    call.add_argument("--json", action="store_true", help='print errors as JSON too, on stdout: {"error": …}')


def _key(text: str) -> str:
    try:
        if 0 < len(text.encode()) <= IDEMPOTENCY_KEY_BYTES_MAX:
            return text
    except UnicodeEncodeError:
        pass
    raise argparse.ArgumentTypeError(f"a key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of UTF-8")


def run(options: argparse.Namespace) -> int:
    target = f"{options.class_name}/{options.name}"
    try:
        positional, keywords = parse_arguments(options.arguments)
    except ValueError as error:
        print(f"tidegate: call {target} {options.method}: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        result = ask(options, options.class_name, options.name, options.method, positional, keywords, key=options.key)
    except OperatorError as error:
        if not options.json:
            raise
        print(msgspec.json.encode({"error": Unavailable(str(error)).to_wire()}).decode())
        return fail(str(error))
    except Exception as error:  # A built-in exception that the method raised comes back as itself, with the reply as its cause.
        reply = error if isinstance(error, CallError) else error.__cause__
        if not isinstance(reply, CallError):
            raise
        return report_call_error(f"call {target} {options.method}", reply, as_json=options.json)
    try:
        text = msgspec.json.encode(result).decode()
    except (TypeError, ValueError, OverflowError) as error:
        problem = f"executed, but JSON cannot show its result: {error}"
        raise OperatorError("call", f"{target} {options.method}", problem, "let the method return what JSON has") from error
    print(text)
    return EXIT_OK
