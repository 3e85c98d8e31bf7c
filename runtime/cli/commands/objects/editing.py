"""`tidegate objects put | delete`: what one has stored, changed, on a condition if need be."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tidegate.runtime.addresses import LISTEN_DEFAULT
from tidegate.runtime.cli.arguments import Parser
from tidegate.runtime.cli.commands.objects.terms import VALUE_WIDTH, add_audit
from tidegate.runtime.cli.exits import fail_usage
from tidegate.runtime.cli.wishing import Result, add_wish, as_text, carry_out, read_plain, stored, target_of, tell
from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.wire.wishes import Condition, Delete, Put

_PUT_EPILOG = """The object's own code does not run, and does not hear of it: what an instance keeps in memory stays until it is
evicted (`tidegate objects evict`). What is printed ends in the command that takes the edit back; later: objects undo.

examples:
  tidegate objects put Counter alice counter 42                whatever it is now
  tidegate objects put Counter alice counter 42 --if-value 41  only if it is 41
  tidegate objects put Counter alice note '"a text"' --if-missing
  tidegate objects put Counter alice big --file big.json --if-digest 0011223344556677
"""
_DELETE_EPILOG = """Without KEY the whole object, with its alarm; that asks for --yes, since nothing brings it back.

examples:
  tidegate objects delete Counter alice note
  tidegate objects delete Counter alice counter --if-value 42
  tidegate objects delete Counter alice --yes                  all of it
"""
_UNDO_CHARACTERS_MAX = 2_000


def add(actions: Any) -> Iterator[Parser]:
    put = add_wish(actions, "put", "set one value", _PUT_EPILOG, _put)
    put.add_argument("key", metavar="KEY", type=_key)
    put.add_argument("value", metavar="JSON", nargs="?", type=_Given)
    put.add_argument("--file", metavar="FILE", help='where the value is, "-" is the standard input')
    put.add_argument("--create", action="store_true", help="make the object, where there is none")
    delete = add_wish(actions, "delete", "delete one key, or the whole object", _DELETE_EPILOG, _delete)
    delete.add_argument("key", metavar="KEY", nargs="?", type=_key)
    delete.add_argument("--yes", action="store_true", help="of a whole object: it is meant")
    for parser in (put, delete):
        _add_conditions(parser)
        add_audit(parser)
    yield from (put, delete)


def _key(text: str) -> str:
    """An empty one, as of a variable that is not set, is not the whole object."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


class _Given:
    """A value from the command line; also one that is None."""

    def __init__(self, text: str) -> None:
        self.plain = read_plain(text)


def _add_conditions(parser: Parser) -> None:
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--if-value", metavar="JSON", type=_Given, help="only if the key has this value")
    only.add_argument("--if-digest", metavar="DIGEST", default="", help="only if its value has this digest (see get --json)")
    only.add_argument("--if-missing", action="store_true", help="only if there is no such key")


def _condition(options: argparse.Namespace) -> Condition:
    value = msgspec.UNSET if options.if_value is None else options.if_value.plain
    return Condition(value, options.if_digest, options.if_missing)


def _put(options: argparse.Namespace) -> int:
    if (options.value is None) == (options.file is None):
        return fail_usage("objects put: give the value as JSON, or --file FILE")
    value = options.value.plain if options.file is None else _read(options.file)
    packed = stored(value, f"{options.key!r} of {target_of(options)}")
    result = carry_out(options, Put(options.key, packed, _condition(options), options.create))
    return tell(options, result, edited(options, result))


def _read(file: str) -> Any:
    try:
        return read_plain(sys.stdin.read() if file == "-" else Path(file).read_text())
    except OSError as error:
        raise OperatorError("read", file, error.strerror or str(error), "name a file of JSON with --file") from error
    except UnicodeError:
        raise OperatorError("read", file, "it is not UTF-8", "name a file of JSON with --file") from None
    except argparse.ArgumentTypeError as error:
        raise OperatorError("read", file, one_line(str(error))[:200], "it must be one JSON value") from None


def _delete(options: argparse.Namespace) -> int:
    if options.key is None and not options.yes:
        return fail_usage(f"objects delete {target_of(options)}: that is the whole object; say --yes, or name a key")
    result = carry_out(options, Delete(options.key or "", _condition(options)))
    if options.key is None:
        return tell(options, result, f"{target_of(options)} is deleted")
    return tell(options, result, edited(options, result))


def edited(options: argparse.Namespace, result: Result) -> str:
    """What has changed, and what takes it back."""
    before, after = result["before"], result["after"]
    if before is not None and after is not None and before["digest"] == after["digest"]:
        return f"{target_of(options)} {options.key!r}: unchanged"
    shown = ["none" if each is None else as_text(each["value"], VALUE_WIDTH) for each in (before, after)]
    lines = [one_line(f"{target_of(options)} {options.key!r}: {shown[0]} -> {shown[1]}")]
    where = shlex.join((options.class_name, options.name, options.key))
    service = "" if options.connect == LISTEN_DEFAULT else f" --connect {shlex.quote(options.connect)}"
    if before is None and after is not None:
        lines.append(f"undo: tidegate objects delete {where} --if-digest {after['digest']}{service}")
    elif before is not None and len(text := as_text(before["value"])) <= _UNDO_CHARACTERS_MAX:
        condition = "--if-missing" if after is None else f"--if-digest {after['digest']}"
        lines.append(f"undo: tidegate objects put {where} {shlex.quote(text)} {condition}{service}")
    elif before is not None:
        lines.append("undo: the old value is too long for a command line; --json prints it whole, as before.value")
    return "\n".join(lines)
