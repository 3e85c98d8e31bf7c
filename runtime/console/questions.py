"""What the pages ask, and what operators change from them: each by the function that the command of the same purpose uses.

Guarantee: an edit is made only if the key still has the value that the page has shown, or still is not there; the audit log has
it, with the user who runs the console. Values travel as the JSON texts of `tidegate objects`: a browser would make other numbers
of them.

All of these block, and raise CallError or OperatorError.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidegate.runtime.cli import gathered
from tidegate.runtime.cli.commanding import administer, wish_for
from tidegate.runtime.cli.local import ask_supervisor
from tidegate.runtime.cli.wishing import as_text, read_plain, stored
from tidegate.runtime.console.backups import KnownBackups
from tidegate.runtime.errors import BadRequest, OperatorError
from tidegate.runtime.wire.wishes import (
    LISTED_OBJECTS,
    SHOWN_ROWS,
    Condition,
    Delete,
    Evict,
    Get,
    Inspect,
    ListAlarms,
    ListErrors,
    ListNames,
    Put,
    Show,
    TurnAlarm,
    Wish,
)

Ask = Callable[[Any], dict[str, Any]]

ANSWER_S = 8.0
"""What cannot be begun in this time is not done."""
PREVIEW_CHARACTERS = 300
LINED_BYTES_MAX = 64 << 10
LINED_DEPTH_MAX = 20
"""Up to these a value is shown in lines."""
ERRORS_SHOWN = 30


class FindObjects(msgspec.Struct, frozen=True):
    """Which objects. `prefix` is of the name; without a class of `Class/name`."""

    class_name: str = ""
    prefix: str = ""
    after: str = ""
    """The last one of the page before, as `Class/name`."""
    limit: int = LISTED_OBJECTS
    orphans: bool = False


class Target(msgspec.Struct, frozen=True):
    """One object."""

    class_name: str
    name: str


class Rows(msgspec.Struct, frozen=True):
    """A page of the keys of one object."""

    class_name: str
    name: str
    prefix: str = ""
    after: str = ""
    limit: int = SHOWN_ROWS


class Key(msgspec.Struct, frozen=True):
    class_name: str
    name: str
    key: str


class PutText(msgspec.Struct, frozen=True):
    """A value is set that the page has shown. `digest`: what it has been; empty: there was no such key."""

    class_name: str
    name: str
    key: str
    text: str
    digest: str


class DeleteKey(msgspec.Struct, frozen=True):
    class_name: str
    name: str
    key: str
    digest: str


class DoAlarm(msgspec.Struct, frozen=True):
    """The one that was shown: given up at that time, or else scheduled."""

    class_name: str
    name: str
    do: Literal["run", "drop"]
    abandoned_at: str = ""
    due_ms: int | None = None


class Questions:
    """To the service that listens at an endpoint, on this machine."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._commands = ""
        self._data = ""
        self._known_backups = KnownBackups()

    def status(self) -> dict[str, Any]:
        status = ask_supervisor(self._endpoint)
        if status is None:
            hint = "start it, as this user or with this command run as root; or name another endpoint with --connect"
            raise OperatorError("ask the service at", self._endpoint, "no service of this user answers there", hint)
        self._commands, self._data = str(status.get("commands", "")), str(status.get("data", ""))
        return status

    def _options(self) -> argparse.Namespace:
        """As commands have them."""
        return argparse.Namespace(connect=self._endpoint, timeout=ANSWER_S, key_file=None, commands=self._commands)

    def _wish(self, wish: Wish, class_name: str, name: str) -> dict[str, Any]:
        return wish_for(self._options(), wish, f"{class_name}/{name}")

    def looks(self) -> dict[str, tuple[Any, Ask]]:
        """By name: what is asked, and who answers."""
        return {
            "objects": (FindObjects, self.objects),
            "object": (Target, self.object),
            "rows": (Rows, self.rows),
            "value": (Key, self.value),
        }

    def changes(self) -> dict[str, tuple[Any, Ask]]:
        """The same of what changes something."""
        return {
            "put": (PutText, self.put),
            "delete": (DeleteKey, self.delete),
            "alarm": (DoAlarm, self.alarm),
            "evict": (Target, self.evict),
            "release": (Target, self.release),
        }

    # Looking

    def objects(self, asked: FindObjects) -> dict[str, Any]:
        class_name, _, name = asked.after.partition("/")
        after = (class_name, name) if asked.after else None
        wish = ListNames(asked.class_name, asked.prefix, after, asked.limit, orphans=asked.orphans)
        objects, missing, more = gathered.names(self._options(), wish)
        return {"objects": objects, "more": more, "missing": missing}

    def classes(self) -> dict[str, Any]:
        classes, missing = gathered.classes(self._options())
        return {"classes": classes, "missing": missing}

    def object(self, asked: Target) -> dict[str, Any]:
        return self._wish(Inspect(), asked.class_name, asked.name)

    def rows(self, asked: Rows) -> dict[str, Any]:
        result = self._wish(Show(asked.prefix, asked.after, asked.limit), asked.class_name, asked.name)
        for row in result["rows"]:
            row["text"] = as_text(row.pop("value"), PREVIEW_CHARACTERS) if "value" in row else None
        return result

    def value(self, asked: Key) -> dict[str, Any]:
        return _with_text(self._wish(Get(asked.key), asked.class_name, asked.name))

    def alarms(self) -> dict[str, Any]:
        result, missing = gathered.alarms(self._options(), ListAlarms())
        return {**result, "missing": missing}

    def errors(self) -> dict[str, Any]:
        result, missing = gathered.errors(self._options(), ListErrors(ERRORS_SHOWN))
        return {**result, "missing": missing}

    def backups(self) -> dict[str, Any]:
        return self._known_backups.of(Path(self._data))

    # Changing

    def put(self, asked: PutText) -> dict[str, Any]:
        try:
            value = read_plain(asked.text)
        except argparse.ArgumentTypeError:
            raise BadRequest("that is not JSON; a text needs its quotes") from None
        condition = Condition(digest=asked.digest) if asked.digest else Condition(missing=True)
        try:
            packed = stored(value, f"{asked.key!r} of {asked.class_name}/{asked.name}")
            return _edited(self._wish(Put(asked.key, packed, condition), asked.class_name, asked.name))
        except RecursionError:
            raise BadRequest("it nests too deeply") from None

    def delete(self, asked: DeleteKey) -> dict[str, Any]:
        if not asked.key or not asked.digest:
            raise BadRequest("a key is deleted if it still has the value that was shown; a whole object: tidegate objects delete")
        return _edited(self._wish(Delete(asked.key, Condition(digest=asked.digest)), asked.class_name, asked.name))

    def alarm(self, asked: DoAlarm) -> dict[str, Any]:
        if asked.due_ms is None and not asked.abandoned_at:
            raise BadRequest("an alarm is run or dropped if it is the one that was shown: say for when")
        return self._wish(TurnAlarm(asked.do, asked.due_ms, asked.abandoned_at), asked.class_name, asked.name)

    def evict(self, asked: Target) -> dict[str, Any]:
        return self._wish(Evict(), asked.class_name, asked.name)

    def release(self, asked: Target) -> dict[str, Any]:
        administer(self._options(), "release_object", f"{asked.class_name}/{asked.name}")
        return {}


def _with_text(told: dict[str, Any]) -> dict[str, Any]:
    return {**{key: each for key, each in told.items() if key != "value"}, "text": _text_of(told["value"])}


def _text_of(plain: Any) -> str:
    """In lines, unless it is large or deep: then these would be mostly the spaces that they begin with."""
    text = msgspec.json.encode(plain)
    if len(text) <= LINED_BYTES_MAX and not _is_deeper(plain, LINED_DEPTH_MAX):
        text = msgspec.json.format(text, indent=2)
    return text.decode()


def _is_deeper(plain: Any, most: int) -> bool:
    level = [plain]
    for _ in range(most):
        level = [inner for each in level for inner in _inner(each)]
    return any(isinstance(each, dict | list) for each in level)


def _inner(plain: Any) -> Iterable[Any]:
    if isinstance(plain, dict):
        return plain.values()
    return plain if isinstance(plain, list) else ()


def _edited(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, **{when: None if result[when] is None else _with_text(result[when]) for when in ("before", "after")}}
