"""What may be written on a command line, and how it is said that something else was.

Rule: whatever is wrong is one line, with what was given and how it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import msgspec

from tidegate.runtime.addresses import LISTEN_DEFAULT, check_target
from tidegate.runtime.cli.catalogue import COMMANDS
from tidegate.runtime.errors import one_line
from tidegate.runtime.options.words import allowed

_USAGE = 2
CONNECT_VARIABLE = "TIDEGATE_CONNECT"

Count = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong. What begins like a number is a value, never an option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: {one_line(message)} ({' '.join(self.format_usage().split())})\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Arguments of a call may also stand behind its options."""
        options, rest = self.parse_known_args(args, namespace)
        if "arguments" in options and not any(text.startswith("-") and not self._begins_number(text) for text in rest):
            options.arguments += rest
        elif rest:
            options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        return options

    def _begins_number(self, text: str) -> bool:
        return self._negative_number_matcher.match(text) is not None


def add_command(commands: Any, name: str, epilog: str, run: Callable[[argparse.Namespace], int], *, says: str = "") -> Parser:
    """`epilog` explains, and has examples; `says`, of one that is part of another, is what it does, in a line."""
    says = says or COMMANDS[name]
    raw = argparse.RawDescriptionHelpFormatter
    parser: Parser = commands.add_parser(name, help=says, description=says, epilog=epilog, formatter_class=raw)
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_client_options(parser: argparse.ArgumentParser, timeout: str = "give up after this time") -> None:
    add_connect(parser)
    read = read_as(Seconds, "seconds")
    parser.add_argument("--timeout", metavar="SECONDS", type=read, default=10.0, help=f"{timeout} (default: 10)")


def add_connect(parser: argparse.ArgumentParser) -> None:
    add_endpoint(parser, "the service")
    what = "an access key, where the service asks for one (default: $TIDEGATE_KEY_FILE)"
    parser.add_argument("--key-file", metavar="FILE", help=what)


def add_endpoint(parser: argparse.ArgumentParser, what: str) -> None:
    """Which service: by the option, by the variable, or where one listens that was told nothing."""
    default = os.environ.get(CONNECT_VARIABLE) or LISTEN_DEFAULT
    says = f"{what} (default: ${CONNECT_VARIABLE}, else {LISTEN_DEFAULT})"
    parser.add_argument("--connect", metavar="ENDPOINT", type=endpoint, default=default, help=says)


def endpoint(text: str) -> str:
    if problem := check_target(text):
        raise argparse.ArgumentTypeError(f"{problem}, not {text!r}{by_variable(text)}")
    return text


def by_variable(endpoint: str) -> str:
    """To be said behind an endpoint that the environment names."""
    return f" (by {CONNECT_VARIABLE})" if endpoint == os.environ.get(CONNECT_VARIABLE) else ""


def read_as(kind: Any, unit: str = "") -> Callable[[str], Any]:
    """For `type=` of an argument: its text as `kind`, with the constraints that it has."""

    info = msgspec.inspect.type_info(kind)

    def read(text: str) -> Any:
        try:
            if isinstance(info, msgspec.inspect.IntType):
                return msgspec.convert(int(text), kind)  # msgspec alone would read "1e3", too.
            return msgspec.convert(text, kind, strict=False)
        except ValueError:  # Of which ValidationError is one.
            raise argparse.ArgumentTypeError(f"must be {allowed(info, unit)}, not {text!r}") from None

    return read


def a_path(text: str) -> str:
    """For `type=` of an argument. What a shell makes of a variable that is not set is not the folder where it is typed."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def counts(text: str) -> list[int]:
    read = read_as(Count)
    return [read(part.strip()) for part in text.split(",")]


def parse_arguments(texts: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Positional or keyword arguments, not both (the wire has one place). JSON never begins with `name=`. Raises ValueError."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        by_keyword = bool(equals) and name.isidentifier()
        try:
            parsed = msgspec.json.decode(value if by_keyword else text)
        except msgspec.ValidationError as error:
            raise ValueError(f"{text!r}: {error}") from None
        except (msgspec.DecodeError, UnicodeError):
            wrong = value if by_keyword else text
            raise ValueError(f"{wrong!r} is not JSON (a text needs its quotes: '{json.dumps(wrong)}')") from None
        except RecursionError:
            raise ValueError("an argument nests too deeply") from None
        if by_keyword:
            if name in keywords:
                raise ValueError(f"{name} is given twice")
            keywords[name] = parsed
        else:
            positional.append(parsed)
    if positional and keywords:
        raise ValueError("pass all arguments by position or all by name")
    return positional, keywords
