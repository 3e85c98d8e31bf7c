"""The audit log: what operators change in objects, who they are, when, and what came of it: `audit.jsonl` in the data directory.

Guarantee: nothing is changed before the disk has the line that says who asks for it; a second line, with the same `edit`, says
what came of it. Where there is only the first, nobody knows: the service or the machine ended in between. Of values it has the
digests, and those that an edit has taken away and that are not larger than OLD_VALUE_BYTES_MAX, so that it can be taken back;
all, or none, where whoever edits asks for that.

Rule: the disk is waited for in a thread of its own, in order. A file that has grown large gets another name, `audit.jsonl.1` and
so on; of more than AUDIT_FILES_MAX the oldest is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import pwd
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tidegate.runtime.data.replacing import sync
from tidegate.runtime.wire.commands import AuditedValues, Command
from tidegate.runtime.wire.plain_json import with_values as as_plain
from tidegate.runtime.wire.wishes import CallMethod, Delete, LoadMany, Put

AUDIT_NAME = "audit.jsonl"
AUDIT_FILE_BYTES_MAX = 16 << 20
AUDIT_FILES_MAX = 8
OLD_VALUE_BYTES_MAX = 16 << 10
"""As it is stored."""


class CommandGiver(NamedTuple):
    """Whose process has given a command, as the kernel says."""

    pid: int
    uid: int

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"pid": self.pid, "uid": self.uid, "user": _user(self.uid)}
        with contextlib.suppress(OSError, ValueError):  # Who has logged in, where that is another than who runs it now (sudo).
            login = int(Path(f"/proc/{self.pid}/loginuid").read_text())
            if login not in (self.uid, 0xFFFFFFFF):
                shown["login"] = _user(login)
        return shown


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class AuditLog:
    """Of one service; nobody else writes into the file."""

    def __init__(self, directory: Path, start: int) -> None:
        """`start`: the number of this start, so that no two edits have the same name."""
        self._path = directory / AUDIT_NAME
        self._start = start
        self._edits = 0
        self._thread = ThreadPoolExecutor(1, "tidegate-audit")

    def asked(self, command: Command, caller: CommandGiver) -> tuple[str, asyncio.Future[None]]:
        """The name of the edit, and what is over when the disk has it. Raises OSError then where it could not be written."""
        self._edits += 1
        edit = f"{self._start}-{self._edits}"
        return edit, self._write({"edit": edit, "by": caller.shown(), **_said(command)})

    def ended(
        self, edit: str, error: dict[str, Any] | None, result: dict[str, Any] | None, values: AuditedValues
    ) -> asyncio.Future[None]:
        if error is not None:
            told = {key: error.get(key) for key in ("code", "message", "outcome")}
            return self._write({"edit": edit, "state": "unknown" if told["outcome"] == "unknown" else "refused", "error": told})
        line: dict[str, Any] = {"edit": edit, "state": "done"}
        if result is not None and "pages" in result:
            errors = {
                at: page["error"] if page else {} for at, page in enumerate(result["pages"]) if page is None or "error" in page
            }
            line["refused"] = [at for at, error in errors.items() if error.get("outcome") != "unknown"]
            line["unknown"] = [at for at, error in errors.items() if error.get("outcome") == "unknown"]
        for name in ("before", "after"):
            if result is not None and name in result:
                line[name] = _value(result[name], values, is_old=name == "before")
        return self._write(line)

    def close(self) -> None:
        """Blocks until all of it is written."""
        self._thread.shutdown()

    def _write(self, line: dict[str, Any]) -> asyncio.Future[None]:
        line = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"), **line}
        return asyncio.get_running_loop().run_in_executor(self._thread, self._append, line)

    def _append(self, told: dict[str, Any]) -> None:
        line = msgspec.json.encode(as_plain(told)) + b"\n"
        is_new = not self._path.exists()
        if not is_new and self._path.stat().st_size + len(line) > AUDIT_FILE_BYTES_MAX:
            self._rename()
            is_new = True
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(fd).st_size
            try:
                if os.write(fd, line) < len(line):
                    raise OSError("there is no room for the whole line")
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, end)  # The next line begins a line.
                raise
        finally:
            os.close(fd)
        if is_new:
            sync(self._path.parent)

    def _rename(self) -> None:
        for number in range(AUDIT_FILES_MAX - 1, 0, -1):
            older = self._path if number == 1 else self._path.with_name(f"{AUDIT_NAME}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                older.rename(self._path.with_name(f"{AUDIT_NAME}.{number}"))


def _said(command: Command) -> dict[str, Any]:
    wish = command.wish
    if wish is None:
        return {"what": command.what, "object": command.object, "state": "asked"}
    if isinstance(wish, LoadMany):
        return {"what": "load", "objects": wish.names(), "replace": wish.replace, "state": "asked"}
    said: dict[str, Any] = {"what": wish.__struct_config__.tag, "object": command.object}
    if isinstance(wish, Put | Delete) and wish.key:
        said["key"] = wish.key
    if isinstance(wish, CallMethod):
        said["method"] = wish.method
        if command.values == "all":
            said["arguments"] = wish.arguments
    return {**said, "state": "asked"}


def _value(told: dict[str, Any] | None, values: AuditedValues, *, is_old: bool) -> dict[str, Any] | None:
    if told is None or values == "all" or (values == "old" and is_old and told["bytes"] <= OLD_VALUE_BYTES_MAX):
        return told
    return {key: value for key, value in told.items() if key != "packed"}
