"""shard/offline/upgrade.py: data of an older format becomes data of this one; what is newer is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.damage import write_format_1
from tests.support.data_directory import make_data_directory, state_file
from tidegate.runtime.data.directory import FORMAT, describe_directory, open_directory
from tidegate.runtime.ids import object_key
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.offline.check import Check, ReadState, state_path


def tidegate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory in which everything is of the first format."""
    data = tmp_path / "data"
    open_directory(data, 2).close()
    (data / "tidegate.json").write_text('{"format":1,"shards":2,"starts":4}')
    for shard in range(2):
        rows = {object_key("Counter", name): encode_header(Header("Counter", name)) for name in ("a", "b")}
        mine = {key: value for key, value in rows.items() if key[0] >> 5 == shard}
        write_format_1(state_path(data, shard), shard, mine, 3)
    return data


def test_an_older_directory_is_brought_to_this_format_with_all_that_is_in_it(old: Path) -> None:
    result = tidegate("upgrade", old, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"data": str(old), "format": FORMAT, "format_before": 1, "shards": [0, 1]}
    assert describe_directory(old) == (2, 4)
    check = Check(old, 2, lambda *_: None)
    assert list(check.run()) == []
    assert check.counts.objects == 2
    for shard in range(2):
        state = ReadState(state_path(old, shard), shard, checksums=True)
        assert state.applied_seq == 3
        state.close()
    again = tidegate("upgrade", old)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)


def test_a_newer_directory_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    make_data_directory(data := tmp_path / "data")
    newer = f'{{"format":{FORMAT + 1},"shards":4,"starts":1}}'
    (data / "tidegate.json").write_text(newer)
    result = tidegate("upgrade", data)
    assert result.returncode == 1
    assert f"format {FORMAT + 1} is of another version" in result.stderr
    assert (data / "tidegate.json").read_text() == newer


def test_a_damaged_shard_is_named(old: Path) -> None:
    whole = state_file(old, 1).read_bytes()
    state_file(old, 1).write_bytes(whole[: len(whole) // 2])
    result = tidegate("upgrade", old)
    assert result.returncode == 1
    assert "upgrade shard 1" in result.stderr
    assert "tidegate check" in result.stderr
