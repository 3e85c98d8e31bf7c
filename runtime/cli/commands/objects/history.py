"""`tidegate objects history | undo`: what operators have changed, out of the audit log, and taken back."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tidegate.runtime.cli.arguments import Parser, read_as
from tidegate.runtime.cli.commands.objects.editing import edited
from tidegate.runtime.cli.commands.objects.terms import VALUE_WIDTH, add_audit
from tidegate.runtime.cli.local import ask_supervisor
from tidegate.runtime.cli.pages import table
from tidegate.runtime.cli.wishing import add_wish, as_text, carry_out, stored, target_of, tell
from tidegate.runtime.data.audit import AUDIT_NAME
from tidegate.runtime.data.audit_history import Edit, Value, edits_of
from tidegate.runtime.errors import BadRequest, OperatorError, one_line
from tidegate.runtime.wire.wishes import Condition, Delete, Put

_HISTORY_EPILOG = """By these commands and the console, the newest first, as far back as the audit log goes (audit.jsonl in the
data directory: 128 MiB). What the object's own code has changed is not in it. Old values are there up to 16 KiB each; of
others stands how large they were.

examples:
  tidegate objects history Counter alice
  tidegate objects history Counter alice counter --limit 5
  tidegate objects history Counter alice --json
"""
_UNDO_EPILOG = """Of the newest edit of a key that the audit log has of the object: sets the value that was there before, or
deletes the key if there was none, but only if it still is what that edit has made of it (else exit code 3). It is an edit
by itself, in the audit log: given again it takes that back. A whole object that was deleted or replaced, and what a
method has done, is not in the log: `tidegate restore DEST --object CLASS/NAME --at TIME`.

examples:
  tidegate objects undo Counter alice
  tidegate objects undo Counter alice counter                  the newest edit of this key
  tidegate objects undo Counter alice --edit 3-17              this one, as history names it
"""
LIMIT = 20


def add(actions: Any) -> Iterator[Parser]:
    history = add_wish(actions, "history", "list what operators have changed of an object", _HISTORY_EPILOG, _history)
    undo = add_wish(actions, "undo", "take back an edit of a value", _UNDO_EPILOG, _undo)
    for parser in (history, undo):
        parser.add_argument("key", metavar="KEY", nargs="?", help="only edits of it")
    count = read_as(Annotated[int, msgspec.Meta(ge=1, le=10_000)])
    history.add_argument("--limit", type=count, default=LIMIT, metavar="N", help=f"at most so many (default: {LIMIT})")
    undo.add_argument("--edit", metavar="EDIT", default="", help="this one, as history names it (default: the newest)")
    add_audit(undo)
    yield from (history, undo)


def _edits(options: argparse.Namespace) -> list[Edit]:
    """Newest first."""
    if (told := ask_supervisor(options.connect)) is None:  # A router may be on another machine, and its paths are that one's.
        hint = "run it on the machine of the service, as its user or root, while it runs"
        raise OperatorError("find the audit log of", options.connect, "its supervisor does not answer here", hint)
    data = Path(str(told["data"]))
    try:
        found = edits_of(data, target_of(options))
    except OSError as error:
        hint = "run it on the machine of the service, as its user or root"
        raise OperatorError("read the audit log", data / AUDIT_NAME, error.strerror or str(error), hint) from error
    return [each for each in reversed(found) if options.key is None or each.key == options.key]


def _history(options: argparse.Namespace) -> int:
    edits = _edits(options)
    shown = edits[: options.limit]
    result = {"object": target_of(options), "edits": msgspec.to_builtins(shown), "more": len(edits) > len(shown)}
    rows = [("edit", "when", "who", "what", "from", "to")]
    rows += [(each.edit, each.time, _who(each), _what(each), _shown(each.before), _shown(each.after)) for each in shown]
    lines = table(rows) if shown else ["no edits in the audit log"]
    if result["more"]:
        lines.append(f"there are more: --limit {len(edits)}")
    return tell(options, result, "\n".join(lines))


def _who(edit: Edit) -> str:
    return one_line(str(edit.by.get("login") or edit.by.get("user", "")))


def _what(edit: Edit) -> str:
    came_of_it = {"done": "", "refused": f" (refused: {edit.error.get('code', 'an error')})"}.get(edit.state, " (unknown)")
    return one_line(f"{edit.what} {edit.key or edit.method}".rstrip() + came_of_it)


def _shown(value: Value | msgspec.UnsetType | None) -> str:
    if value is msgspec.UNSET:
        return ""
    if value is None:
        return "none"
    if value.value is msgspec.UNSET:
        return f"{value.bytes} bytes, {value.digest}"
    return one_line(as_text(value.value, VALUE_WIDTH // 2))


def _undo(options: argparse.Namespace) -> int:
    edit = _to_be_undone(options)
    before, after = edit.before, edit.after
    assert before is not msgspec.UNSET
    assert after is not msgspec.UNSET
    options.key = edit.key
    condition = Condition(missing=True) if after is None else Condition(digest=after.digest)
    if before is None:
        result = carry_out(options, Delete(edit.key, condition))
    elif before.value is msgspec.UNSET:
        lacks = f"the audit log does not have the value that {edit.key!r} had before edit {edit.edit}: only that it had"
        raise _refusal(options, f"{lacks} {before.bytes} bytes with the digest {before.digest}", edit)
    else:
        packed = stored(before.value, f"{edit.key!r} of {target_of(options)}")
        result = carry_out(options, Put(edit.key, packed, condition))
    text = f"edit {edit.edit} of {edit.time} is taken back\n{edited(options, result)}"
    return tell(options, {"undone": edit.edit, **result}, text)


def _to_be_undone(options: argparse.Namespace) -> Edit:
    """One of a key, which has changed it. Raises BadRequest for others."""
    edits = _edits(options)
    if options.edit:
        edit = next((each for each in edits if each.edit == options.edit), None)
        none = f"the audit log has no edit {options.edit!r} of it"
    else:
        edit = next((each for each in edits if _may_have_changed_values(each)), None)
        none = "the audit log has no edit of it that has changed a value"
    if edit is None:
        raise BadRequest(f"{none}; see `tidegate objects history`", details={"missing": True})
    if edit.changed:
        return edit
    if edit.state in ("asked", "unknown"):
        why = "nobody knows what came of it; see `tidegate objects show`"
    elif edit.state == "refused" or edit.key:
        why = "it has changed nothing"
    else:
        why = "the audit log has no value of it"
    raise _refusal(options, f"edit {edit.edit} ({_what(edit)}) cannot be taken back: {why}", edit)


def _may_have_changed_values(edit: Edit) -> bool:
    """Other than by the object's own code."""
    if edit.state == "refused" or edit.what not in ("put", "delete", "load"):
        return False
    return edit.changed or not edit.key or edit.state != "done"


def _refusal(options: argparse.Namespace, problem: str, edit: Edit) -> BadRequest:
    backup = f"a backup may have it: tidegate restore DEST --object {target_of(options)} --at {edit.time}"
    return BadRequest(f"{problem} ({backup})", details={"missing": True})
