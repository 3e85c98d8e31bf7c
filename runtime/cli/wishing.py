"""A wish of an operator about objects: given to the supervisor of a service on this machine, and what came of it told."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from tidegate.runtime.cli.arguments import Parser, add_client_options, add_command
from tidegate.runtime.cli.asking import report_call_error
from tidegate.runtime.cli.commanding import wish_for
from tidegate.runtime.cli.exits import EXIT_CONDITION, EXIT_FAILED, EXIT_OK, fail
from tidegate.runtime.errors import BadRequest, CallError, from_wire, one_line
from tidegate.runtime.limits import VALUE_BYTES_MAX
from tidegate.runtime.wire.plain_json import pack
from tidegate.runtime.wire.wishes import Wish

Result = dict[str, Any]
T = TypeVar("T")

AGAIN_S = 0.1
"""After so long it is asked again."""


def reporting(run: Callable[[argparse.Namespace], int], of: str) -> Callable[[argparse.Namespace], int]:
    """The same, but for CallError, which is told; `of` stands before what the service says."""

    def reported(options: argparse.Namespace) -> int:
        operation = f"{options.parser.prog.removeprefix('tidegate ')} {of.format(options)}".rstrip()
        options.elsewhere = ()
        try:
            code = run(options)
            for each in options.elsewhere:
                fail(one_line(f"{operation}: {each}"))
            return code
        except CallError as error:
            if not error.details.get("missing") and not error.details.get("conflict"):
                return report_call_error(operation, error, as_json=options.json)
            if options.json:
                print(msgspec.json.encode({"error": error.to_wire()}).decode())
            fail(one_line(f"{operation}: {error.message}"))
            return EXIT_CONDITION

    return reported


def add_wish(commands: Any, name: str, says: str, epilog: str, run: Callable[[argparse.Namespace], int]) -> Parser:
    """A command about one object. `run` may raise CallError."""
    parser = add_command(commands, name, epilog, reporting(run, "{0.class_name}/{0.name}"), says=says)
    parser.add_argument("class_name", metavar="CLASS")
    parser.add_argument("name", metavar="NAME")
    return parser


def add_wish_options(parser: Parser) -> None:
    add_client_options(parser, timeout="what cannot be begun in this time is not done")
    parser.add_argument("--json", action="store_true", help="print what came of it, or the error, as JSON")


def target_of(options: argparse.Namespace) -> str:
    return f"{options.class_name}/{options.name}"


def carry_out(options: argparse.Namespace, wish: Wish) -> Result:
    """What came of it. Raises CallError, OperatorError."""
    return wish_for(options, wish, target_of(options))


def stored(plain: Any, place: str) -> bytes:
    """The value that this JSON means, as it is stored. Raises BadRequest, with the place."""
    try:
        packed = pack(plain)
    except ValueError as error:
        raise BadRequest(f"{place} cannot have this value: {error}") from None
    if len(packed) > VALUE_BYTES_MAX:
        raise BadRequest(f"{place} cannot have this value: it has {len(packed)} bytes encoded; the limit is {VALUE_BYTES_MAX}")
    return packed


def of_all(options: argparse.Namespace, wish: Wish) -> tuple[list[Result], list[str]]:
    """What came of it at each worker; which have not answered, and why. `options.elsewhere` says then what other hosts have.
    Raises CallError where none has; OperatorError."""
    told = wish_for(options, wish, "")
    workers, options.elsewhere = told["workers"], told.get("elsewhere", ())
    failed = {worker: from_wire(each["error"]) for worker, each in workers.items() if "error" in each}
    if len(failed) == len(workers):
        raise next(iter(failed.values()))
    missing = [f"worker {worker} is missing: {error.message}" for worker, error in failed.items()]
    return [each["result"] for each in workers.values() if "error" not in each], missing


def tell(options: argparse.Namespace, result: Result, text: str, missing: Sequence[str] = ()) -> int:
    """`missing`: what it lacks, beside what other hosts have."""
    lacks = {"missing": missing, "elsewhere": getattr(options, "elsewhere", ())}
    result = {**result, **{name: each for name, each in lacks.items() if each}}
    print(json.dumps(result, indent=2, ensure_ascii=False) if options.json else text)
    for each in missing:
        fail(one_line(f"{options.parser.prog.removeprefix('tidegate ')}: {each}"))
    return EXIT_FAILED if missing else EXIT_OK


def patiently(options: argparse.Namespace, ask: Callable[[], T]) -> T:
    """What it returns, asked again for as long as `--timeout` says where it might: a worker is replaced, or has ended and is
    started. Raises what it raises."""
    until_s = time.monotonic() + options.timeout
    while True:
        try:
            return ask()
        except CallError as error:
            if not error.retryable or time.monotonic() >= until_s:
                raise
        time.sleep(AGAIN_S)


def read_plain(text: str) -> Any:
    """A value as JSON, for `type=` of an argument."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON (a text needs its quotes: '{json.dumps(text)}')") from None
    except RecursionError:
        raise argparse.ArgumentTypeError("it nests too deeply") from None


def as_text(plain: Any, width: int | None = None) -> str:
    """A value in a line; `…` at the end of what is longer."""
    text = msgspec.json.encode(plain).decode()
    return text if width is None or len(text) <= width else text[: width - 1] + "…"
