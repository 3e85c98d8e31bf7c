"""shard/offline/export.py: the objects of a directory in the form in which they travel."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.data_directory import ALARM_EVERY, KEYS, OBJECTS, make_data_directory, name_of
from tidegate.runtime.cli.commands.export import write
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.wire.object_records import FORMS, Form, Head, ObjectEnd, Record, read_records, whole_objects


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
    assert out.read_bytes().count(b'"object"') == OBJECTS, "what was there is as it was"


RECORDS: list[Record] = [Head("Shop/a"), ObjectEnd("Shop/a", 0)]


def ending(error: BaseException) -> Iterator[Record]:
    """Between two objects."""
    yield from RECORDS
    raise error


@pytest.mark.parametrize("error", [OperatorError("export", "x", "gone", "try again"), ValueError("damaged"), KeyboardInterrupt()])
def test_one_that_cannot_go_on_leaves_the_file_as_it_was(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(type(error)):
            write(ending(error), str(file), "json")
        assert not file.exists() or file.read_text() == "of yesterday"
        file.write_text("of yesterday")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", FORMS)
def test_what_flows_and_cannot_go_on_says_at_its_end_that_it_is_not_whole(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], form: Form
) -> None:
    with pytest.raises(OSError, match="no more"):
        write(ending(OSError("no more")), "-", form)
    with pytest.raises(ValueError, match="what wrote this could not go on: no more"):
        list(read_records(io.BytesIO(capfdbinary.readouterr().out)))
    os.mkfifo(pipe := tmp_path / "pipe")
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(pipe.read_bytes)
        with pytest.raises(ValueError, match="damaged"):
            write(ending(ValueError("damaged")), str(pipe), form)
        with pytest.raises(ValueError, match="what wrote this could not go on: damaged"):
            list(read_records(io.BytesIO(reading.result())))
    assert pipe.is_fifo()


def test_the_file_keeps_its_mode_and_its_links_and_is_whole_whoever_writes_it_too(tmp_path: Path) -> None:
    (real := tmp_path / "real").write_text("of yesterday")
    real.chmod(0o640)
    (link := tmp_path / "link").symlink_to(real)

    def slowly() -> Iterator[Record]:
        """Somebody else writes the same meanwhile."""
        yield RECORDS[0]
        assert write([], str(link), "json") == 0
        assert real.read_bytes() == b""
        yield RECORDS[1]

    assert write(slowly(), str(link), "json") == 1
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert list(read_records(io.BytesIO(real.read_bytes()))) == RECORDS
    assert write(RECORDS, os.devnull, "json") == 1


def test_where_nothing_can_be_written_it_is_a_line_with_the_place(tmp_path: Path) -> None:
    make_data_directory(tmp_path / "data")
    result = tidegate("export", tmp_path / "data", "--out", tmp_path / "nowhere" / "out")
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"No such file or directory" in result.stderr
