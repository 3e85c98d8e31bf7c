"""shard/offline/export.py: the objects of a directory in the form in which they travel."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.data_directory import ALARM_EVERY, KEYS, OBJECTS, make_data_directory, name_of
from tidegate.runtime.wire.object_records import read_records, whole_objects


def tidegate(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tidegate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_every_object_is_written_with_its_keys_and_its_alarm_whether_in_a_state_or_a_log(tmp_path: Path, form: str) -> None:
    make_data_directory(tmp_path / "data")
    result = tidegate("export", tmp_path / "data", "--format", form)
    assert result.returncode == 0, result.stderr
    assert b"400 objects written to standard output" in result.stderr
    found = {}
    for head, pairs in whole_objects(read_records(io.BytesIO(result.stdout))):
        found[head.object] = (head.alarm_ms, {pair.key: pair.value for pair in pairs})
    values = {f"k{key}": "value of a row that is forty bytes long." for key in range(KEYS)}
    assert found == {
        f"Counter/{name_of(number)}": (number * 1_000 if number % ALARM_EVERY == 0 else None, values) for number in range(OBJECTS)
    }


def test_only_the_classes_that_are_asked_for_are_written_and_none_is_an_error(tmp_path: Path) -> None:
    make_data_directory(tmp_path / "data")
    out = tmp_path / "out.jsonl"
    assert tidegate("export", tmp_path / "data", "--class", "Counter", "--class", "Other", "--out", out).returncode == 0
    assert out.read_bytes().count(b'"object"') == OBJECTS
    assert out.stat().st_mode & 0o777 == 0o600
    assert tidegate("export", tmp_path / "data", "--class", "Other", "--out", out).returncode == 1
    assert out.read_bytes() == b""
