"""The audit log: a line before, a line after, on the disk, with who it was, and values only for who asks for them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from tidegate.runtime.data import audit
from tidegate.runtime.data.audit import AUDIT_NAME, AuditLog, CommandGiver
from tidegate.runtime.wire.commands import Command
from tidegate.runtime.wire.plain_json import pack
from tidegate.runtime.wire.wishes import CallMethod, Delete, LoadMany, LoadOne, Put

ROOT = CommandGiver(os.getpid(), 0)
DONE = {"before": {"bytes": 1, "digest": "aa", "packed": base64.b64encode(pack("secret")).decode()}, "after": None}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / AUDIT_NAME).read_text().splitlines()]


def run(folder: Path, *commands: Command, start: int = 1, error: dict[str, Any] | None = None) -> None:
    async def main() -> None:
        log = AuditLog(folder, start)
        for command in commands:
            edit, written = log.asked(command, ROOT)
            await written
            await log.ended(edit, error, None if error else DONE, command.values)
        log.close()

    asyncio.run(main())


def test_an_edit_is_a_line_before_and_a_line_after_without_its_values(tmp_path: Path) -> None:
    run(tmp_path, Command("wish", "Shop/a", Put("k", pack("secret")), values="none"))
    before, after = lines(tmp_path)
    assert before["by"] == {"pid": os.getpid(), "uid": 0, "user": pwd.getpwuid(0).pw_name, **before["by"]}
    assert {**before, "time": "", "by": {}} == {
        "time": "",
        "edit": "1-1",
        "by": {},
        "what": "put",
        "object": "Shop/a",
        "key": "k",
        "state": "asked",
    }
    assert {**after, "time": ""} == {
        "time": "",
        "edit": "1-1",
        "state": "done",
        "before": {"bytes": 1, "digest": "aa"},
        "after": None,
    }
    assert "secret" not in (tmp_path / AUDIT_NAME).read_text()
    assert (tmp_path / AUDIT_NAME).stat().st_mode & 0o777 == 0o600


def test_values_are_in_it_for_who_asks_for_that(tmp_path: Path) -> None:
    commands = Command("wish", "Shop/a", Delete("k"), values="all"), Command("wish", "Shop/a", CallMethod("m", [1]))
    run(tmp_path, *commands, Command("wish", "Shop/a", CallMethod("m", [1]), values="all"), Command("drop_alarm", "Shop/a"))
    found = lines(tmp_path)
    assert found[1]["before"]["value"] == "secret"
    assert [line.get("arguments") for line in found[2::2]] == [None, [1], None]
    assert [line["what"] for line in found[::2]] == ["delete", "call", "call", "drop_alarm"]
    assert len({line["edit"] for line in found}) == 4


@pytest.mark.parametrize(("outcome", "state"), [("not_executed", "refused"), ("unknown", "unknown")])
def test_what_was_refused_and_what_nobody_knows_are_told_apart(tmp_path: Path, outcome: str, state: str) -> None:
    told = {"code": "x", "message": "no", "outcome": outcome, "digest": "y"}
    run(tmp_path, Command("wish", "Shop/a", Put("k", pack(1))), error=told)
    assert lines(tmp_path)[1]["state"] == state
    assert lines(tmp_path)[1]["error"] == {"code": "x", "message": "no", "outcome": outcome}


def test_edits_of_several_starts_have_several_names(tmp_path: Path) -> None:
    run(tmp_path, Command("wish", "Shop/a", Put("k", pack(1))))
    run(tmp_path, Command("wish", "Shop/a", Put("k", pack(1))), start=2)
    assert [line["edit"] for line in lines(tmp_path)] == ["1-1", "1-1", "2-1", "2-1"]


def test_a_large_file_gets_another_name_and_of_many_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_FILE_BYTES_MAX", 400)
    run(tmp_path, *(Command("wish", f"Shop/{number}", Put("k", pack(1))) for number in range(40)))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [AUDIT_NAME, *(f"{AUDIT_NAME}.{number}" for number in range(1, audit.AUDIT_FILES_MAX))]
    assert all(path.stat().st_size <= 400 for path in tmp_path.iterdir())
    assert lines(tmp_path)[-1]["edit"] == "1-40"


def test_what_cannot_be_written_is_told_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, Command("wish", "Shop/a", Put("k", pack(1))))
    whole = (tmp_path / AUDIT_NAME).read_bytes()
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
        with pytest.raises(OSError, match="no room for the whole line"):
            run(tmp_path, Command("wish", "Shop/a", Put("k", pack(1))), start=2)
    assert (tmp_path / AUDIT_NAME).read_bytes() == whole


def test_what_is_made_together_is_one_line_with_all_names_and_says_which_were_refused_and_which_nobody_knows(
    tmp_path: Path,
) -> None:
    wish = LoadMany([LoadOne("Shop/a", [("k", pack("secret"))]), *(LoadOne(f"Shop/{name}", []) for name in "bcd")], replace=True)

    async def main() -> None:
        log = AuditLog(tmp_path, 1)
        edit, written = log.asked(Command("wish", wish=wish), ROOT)
        await written
        gone = {"code": "shard_lost", "outcome": "unknown"}
        await log.ended(edit, None, {"pages": [{"rows": 1}, {"error": {"code": "bad_request"}}, None, {"error": gone}]}, "old")
        log.close()

    asyncio.run(main())
    before, after = lines(tmp_path)
    assert (before["what"], before["objects"], before["replace"]) == ("load", [f"Shop/{name}" for name in "abcd"], True)
    assert (after["state"], after["refused"], after["unknown"]) == ("done", [1, 2], [3])
    assert "secret" not in (tmp_path / AUDIT_NAME).read_text()
