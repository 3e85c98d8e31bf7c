"""What may be written on a command line, and how it is said that something else was.

Rule: whatever is wrong is one line, with what was given and how it should be.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from tidegate.runtime.addresses import check_target
from tidegate.runtime.errors import one_line
from tidegate.runtime.supervisor.config import LISTEN_DEFAULT

_USAGE = 2
_TIMEOUT_S_MAX = 1e6
_DIGITS_MAX = 9


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
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return options

    def _begins_number(self, text: str) -> bool:
        return self._negative_number_matcher.match(text) is not None


def add_client_options(parser: argparse.ArgumentParser) -> None:
    add_connect(parser)
    parser.add_argument("--timeout", metavar="SECONDS", type=seconds, default=10.0, help="give up after this time (default: 10)")


def add_connect(parser: argparse.ArgumentParser) -> None:
    what = "the service (default: %(default)s)"
    parser.add_argument("--connect", metavar="ENDPOINT", type=endpoint, default=LISTEN_DEFAULT, help=what)


def endpoint(text: str) -> str:
    if problem := check_target(text):
        raise argparse.ArgumentTypeError(f"{problem}, not {text!r}")
    return text


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _TIMEOUT_S_MAX:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, up to {_TIMEOUT_S_MAX:,.0f}, not {text!r}")
    return value


def whole_number(text: str) -> str:
    if not _is_whole(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return text


def whole_numbers(text: str) -> str:
    if not all(_is_whole(part.strip()) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be whole numbers from 1 on with commas between them, not {text!r}")
    return text


def _is_whole(text: str) -> bool:
    return len(text) <= _DIGITS_MAX and text.isascii() and text.isdecimal() and int(text) > 0


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
