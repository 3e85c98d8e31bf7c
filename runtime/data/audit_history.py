"""What the audit log has of one object: its edits, each with what came of it.

Guarantee: the edits come in the order in which they were asked for, as far back as the files go. A line that is not whole, as a
full disk leaves one, is passed over. Of a log that goes on meanwhile each line is read once, or is too new.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tidegate.runtime.data.audit import AUDIT_FILES_MAX, AUDIT_NAME
from tidegate.runtime.regular import open_regular

LINE_BYTES_MAX = 64 << 20
"""More than any command has, with the names of all its objects; what is longer is none of ours."""


class Value(msgspec.Struct):
    """Before an edit, or after it."""

    bytes: int
    digest: str
    value: Any | msgspec.UnsetType = msgspec.UNSET
    """As `plain_json` has it, where the log has it."""


class _Line(msgspec.Struct):
    edit: str
    time: str
    state: str
    by: dict[str, Any] = {}
    what: str = ""
    object: str = ""
    objects: list[str] = []
    key: str = ""
    method: str = ""
    before: Value | msgspec.UnsetType | None = msgspec.UNSET
    after: Value | msgspec.UnsetType | None = msgspec.UNSET
    error: dict[str, Any] = {}
    refused: list[int] = []
    unknown: list[int] = []


class Edit(msgspec.Struct, omit_defaults=True):
    """One of one object."""

    edit: str
    """Its name in the log."""
    time: str
    """When it was asked for."""
    by: dict[str, Any]
    what: str
    state: str
    """`asked`: nobody knows what came of it, and so with `unknown`. `done`, `refused`."""
    key: str = ""
    method: str = ""
    before: Value | msgspec.UnsetType | None = msgspec.UNSET
    """None: there was no such key. Unset: it is no edit of one key, or was not done."""
    after: Value | msgspec.UnsetType | None = msgspec.UNSET
    error: dict[str, Any] = {}

    @property
    def changed(self) -> bool:
        """One key, to something else."""
        if self.before is msgspec.UNSET or self.after is msgspec.UNSET:
            return False
        return (self.before and self.before.digest) != (self.after and self.after.digest)


def edits_of(data: Path, target: str) -> list[Edit]:
    """Oldest first. `target`: `Class/name`. Raises OSError."""
    found: dict[str, Edit] = {}
    places: dict[str, int] = {}
    """Of edits of many objects: which of them it is."""
    for line in _lines(data):
        if line.state == "asked":
            if target == line.object or target in line.objects:
                found[line.edit] = Edit(line.edit, line.time, line.by, line.what, line.state, line.key, line.method)
                places[line.edit] = line.objects.index(target) if line.objects else -1
        elif (edit := found.get(line.edit)) is not None:
            at = places[line.edit]
            edit.state = "refused" if at in line.refused else "unknown" if at in line.unknown else line.state
            edit.before, edit.after, edit.error = line.before, line.after, line.error
    return list(found.values())


def _lines(data: Path) -> Iterator[_Line]:
    with contextlib.ExitStack() as opened:
        for file in _files(data, opened):
            while line := file.readline(LINE_BYTES_MAX):
                try:
                    yield _decode(line)
                except msgspec.MsgspecError:
                    continue


def _files(data: Path, opened: contextlib.ExitStack) -> list[BinaryIO]:
    """Oldest first. All are opened before one is read, and the newest first: where they are renamed meanwhile, one may be met
    twice, and is known again, but none is passed over."""
    found: dict[tuple[int, int], BinaryIO] = {}
    for path in [data / AUDIT_NAME] + [data / f"{AUDIT_NAME}.{number}" for number in range(1, AUDIT_FILES_MAX)]:
        try:
            file = opened.enter_context(open_regular(path))
        except FileNotFoundError:
            continue
        told = os.fstat(file.fileno())
        found.setdefault((told.st_dev, told.st_ino), file)
    return [*reversed(found.values())]


_decode = msgspec.json.Decoder(_Line).decode
