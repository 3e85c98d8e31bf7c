"""What the audit log has of one object: in order, over files that were renamed, with what came of each edit."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidegate.runtime.data import audit, audit_history
from tidegate.runtime.data.audit import AUDIT_FILES_MAX, AUDIT_NAME, OLD_VALUE_BYTES_MAX, AuditLog, CommandGiver
from tidegate.runtime.data.audit_history import Edit, edits_of
from tidegate.runtime.regular import open_regular
from tidegate.runtime.wire.commands import AuditedValues, Command
from tidegate.runtime.wire.plain_json import pack
from tidegate.runtime.wire.wishes import Delete, LoadMany, LoadOne, Put

GIVER = CommandGiver(1, 0)
Told = tuple[Command, dict[str, Any] | None, dict[str, Any] | None]
"""A command, and with which error or result it ended; with neither: it did not."""


def write(folder: Path, *told: Told, start: int = 1) -> None:
    async def main() -> None:
        log = AuditLog(folder, start)
        for command, error, result in told:
            edit, written = log.asked(command, GIVER)
            await written
            if error is not None or result is not None:
                await log.ended(edit, error, result, command.values)
        log.close()

    asyncio.run(main())


def value(plain: Any, size: int | None = None) -> dict[str, Any]:
    packed = pack(plain)
    return {"bytes": size or len(packed), "digest": f"d{plain}"[:16], "packed": base64.b64encode(packed).decode()}


def put(key: str, before: Any, after: Any, values: AuditedValues = "old", size: int | None = None) -> Told:
    result = {"before": None if before is None else value(before, size), "after": value(after)}
    return Command("wish", "Shop/a", Put(key, pack(after)), values=values), None, result


def old(edit: Edit) -> Any:
    assert edit.before
    return edit.before.value


def test_edits_of_an_object_come_in_order_with_the_values_that_were_there(tmp_path: Path) -> None:
    others = Command("wish", "Shop/b", Delete("k")), None, {"before": value(3), "after": None}
    write(tmp_path, put("k", None, 1), others, put("k", 1, 2), put("l", 5, 5))
    first, second, third = edits_of(tmp_path, "Shop/a")
    assert [(each.edit, each.what, each.key, each.state) for each in (first, second, third)] == [
        ("1-1", "put", "k", "done"),
        ("1-3", "put", "k", "done"),
        ("1-4", "put", "l", "done"),
    ]
    assert first.before is None
    assert old(second) == 1
    assert second.after
    assert (second.after.digest, second.after.value) == ("d2", msgspec.UNSET)
    assert [each.changed for each in (first, second, third)] == [True, True, False]
    assert second.by["uid"] == 0


@pytest.mark.parametrize(
    ("values", "size", "has_it"),
    [("old", OLD_VALUE_BYTES_MAX, True), ("old", OLD_VALUE_BYTES_MAX + 1, False), ("all", 1 << 20, True), ("none", 1, False)],
)
def test_an_old_value_is_there_up_to_the_bound_unless_otherwise_is_asked_for(
    tmp_path: Path, values: AuditedValues, size: int, has_it: bool
) -> None:
    write(tmp_path, put("k", 1, 2, values, size))
    (edit,) = edits_of(tmp_path, "Shop/a")
    assert old(edit) == (1 if has_it else msgspec.UNSET)
    assert edit.before
    assert (edit.before.bytes, edit.before.digest) == (size, "d1")


def test_what_was_refused_and_what_nobody_knows_says_so_also_of_many(tmp_path: Path) -> None:
    error = {"code": "bad_request", "message": "no", "outcome": "not_executed"}
    many = Command("wish", "", LoadMany([LoadOne("Shop/b", []), LoadOne("Shop/a", [])]))
    refused = {"pages": [{"rows": 0}, {"error": error}]}
    command = put("k", 1, 2)[0]
    write(tmp_path, (command, error, None), (many, None, refused), (many, None, {"pages": [{"error": error}, {"rows": 0}]}))
    lost = {"pages": [{"rows": 0}, {"error": {"code": "shard_lost", "message": "gone", "outcome": "unknown"}}]}
    write(tmp_path, (command, None, None), (many, None, lost), start=2)
    found = edits_of(tmp_path, "Shop/a")
    assert [(each.edit, each.what, each.state) for each in found] == [
        ("1-1", "put", "refused"),
        ("1-2", "load", "refused"),
        ("1-3", "load", "done"),
        ("2-1", "put", "asked"),
        ("2-2", "load", "unknown"),
    ]
    assert found[0].error["code"] == "bad_request"
    assert edits_of(tmp_path, "Shop/c") == []


def test_it_goes_back_over_the_files_before_and_over_lines_that_are_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edits_of(tmp_path, "Shop/a") == [], "there is no log yet"
    monkeypatch.setattr(audit, "AUDIT_FILE_BYTES_MAX", 600)
    write(tmp_path, *(put("k", number, number + 1) for number in range(6)))
    assert (tmp_path / f"{AUDIT_NAME}.2").exists()
    with (tmp_path / AUDIT_NAME).open("ab") as file:
        file.write(b'{"edit": "1-9", "ti')
    assert [old(each) for each in edits_of(tmp_path, "Shop/a")] == list(range(6))


def test_no_file_that_is_renamed_while_the_log_is_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each instant at which one of the renames could come between two of the reader's steps."""
    monkeypatch.setattr(audit, "AUDIT_FILE_BYTES_MAX", 600)
    opened, opens = open_regular, [0]
    (before := tmp_path / "before").mkdir()
    write(before, *(put("k", number, number + 1) for number in range(6)))
    for whens in itertools.combinations_with_replacement(range(AUDIT_FILES_MAX + 1), 3):
        data = shutil.copytree(before, tmp_path / "-".join(map(str, whens)))
        files = [data / AUDIT_NAME, data / f"{AUDIT_NAME}.1", data / f"{AUDIT_NAME}.2"]
        assert all(file.exists() for file in files)
        assert not (data / f"{AUDIT_NAME}.3").exists()
        renames = [
            (when, file, data / f"{AUDIT_NAME}.{at + 1}")
            for (at, file), when in zip(reversed([*enumerate(files)]), whens, strict=True)
        ]
        opens[0] = 0

        def opening(path: Path, renames: Any = renames) -> Any:
            for when, before, after in renames:
                if when == opens[0]:
                    before.rename(after)
            opens[0] += 1
            return opened(path)

        with monkeypatch.context() as patch:
            patch.setattr(audit_history, "open_regular", opening)
            found = edits_of(data, "Shop/a")
        assert [old(each) for each in found] == list(range(6)), whens
        assert opens[0] == AUDIT_FILES_MAX, "it was looked for all of them"
