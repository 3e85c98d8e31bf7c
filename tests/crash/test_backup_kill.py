"""`kill -9` of backups, restores and reshardings at random moments, and full disks where they write: nothing is lost."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.crash.disk import Disk, MakeDisk
from tests.support.data_directory import SHARDS, name_of, rows_of_object, shard_of
from tests.support.service import FULL
from tidegate.runtime.data.directory import describe_directory, open_directory
from tidegate.shard.offline.check import Check, ReadState, state_path
from tidegate.shard.offline.rows import OWN_FIRST
from tidegate.shard.store.interface import NAMES_KEY
from tidegate.shard.store.state.lmdb_state import LmdbState

OBJECTS = 6_000
KILLS = 60 if FULL else 6
Rows = dict[bytes, bytes]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tidegate", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300)


def done(*arguments: object) -> float:
    """How long it took."""
    began = time.monotonic()
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return time.monotonic() - began


def killed(within_s: float, *arguments: object) -> bool:
    """Whether it had not ended before."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(random.uniform(0.1, within_s))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.wait() != 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    open_directory(path, SHARDS).close()
    rows: list[Rows] = [{} for _ in range(SHARDS)]
    for number in range(OBJECTS):
        for owner, writes in rows_of_object(number).items():
            rows[shard_of(name_of(number))] |= {owner + key.encode(): value or b"" for key, value in writes.items()}
    for shard in range(SHARDS):
        state = LmdbState(state_path(path, shard), shard)
        batch = state.begin()
        batch.put_many(sorted(rows[shard].items()))
        batch.set_applied_seq(1)
        batch.commit()
        state.close()
    return path


def rows_in(data: Path) -> Rows:
    """All of all shards, which are whole."""
    shards = describe_directory(data).shards
    assert list(Check(data, shards, lambda *_: None).run()) == []
    rows: Rows = {}
    for shard in range(shards):
        state = ReadState(state_path(data, shard), shard, checksums=True)
        rows |= {key: value for key, value in state.rows() if not key.startswith(NAMES_KEY)}  # An index: made anew.
        state.close()
    return rows


def test_a_backup_that_is_killed_again_and_again_is_complete_in_the_end(data: Path, tmp_path: Path) -> None:
    whole_s = done("backup", tmp_path / "first", "--data", data, "--once", "--rate", 2)
    kills = sum(killed(whole_s, "backup", tmp_path / "depot", "--data", data, "--rate", 2) for _ in range(KILLS))
    assert kills > 0
    done("backup", tmp_path / "depot", "--data", data)
    done("restore", tmp_path / "depot", "--data", tmp_path / "new")
    assert rows_in(tmp_path / "new") == rows_in(data)
    assert len({path.parent for path in (tmp_path / "depot").glob("*/*")}) == 1


def test_a_restore_that_is_killed_leaves_the_old_data_or_the_new(data: Path, tmp_path: Path) -> None:
    done("backup", tmp_path / "depot", "--data", data)
    restored = rows_in(data)
    arguments = ("restore", tmp_path / "depot", "--data", data, "--yes")
    old = {key: value for key, value in restored.items() if key < OWN_FIRST}
    whole_s = done("restore", tmp_path / "depot", "--data", tmp_path / "new")
    for _ in range(KILLS):
        killed(whole_s * 1.1, *arguments)
        assert {key: value for key, value in rows_in(data).items() if key < OWN_FIRST} == old
    done(*arguments)
    assert rows_in(data) == restored
    assert list(tmp_path.glob("*being-made*")) == []


def test_a_resharding_that_is_killed_has_changed_nothing_or_all(data: Path, tmp_path: Path) -> None:
    before = rows_in(data)
    whole_s = done("reshard", data, "--shards", 16)
    seen = set()
    for number in range(KILLS):
        shards = 16 if describe_directory(data).shards == 8 else 8
        killed(whole_s * (1.1 if number % 2 else 0.8), "reshard", data, "--shards", shards)
        seen.add(describe_directory(data).shards)
        assert rows_in(data) == before
    assert seen <= {8, 16}
    done("reshard", data, "--shards", SHARDS)
    assert rows_in(data) == before
    assert list(tmp_path.glob("*being-made*")) == []


def test_a_backup_goes_on_when_there_is_room_again_where_it_goes(data: Path, make_disk: MakeDisk, tmp_path: Path) -> None:
    disk: Disk = make_disk(8 << 20, "tmpfs")
    depot = disk.place / "depot"
    disk.fill_to_the_last_block()
    full = run("backup", depot, "--data", data)
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "run the same command again" in full.stderr
    assert len(full.stderr.splitlines()) == 1
    disk.empty()
    done("backup", depot, "--data", data)
    listed = json.loads(run("restore", depot, "--list", "--json").stdout)
    assert len(listed["lineages"]) == 1
    done("restore", depot, "--data", tmp_path / "new")
    assert rows_in(tmp_path / "new") == rows_in(data)


def test_a_restore_for_which_there_is_no_room_replaces_nothing(data: Path, make_disk: MakeDisk, tmp_path: Path) -> None:
    done("backup", tmp_path / "depot", "--data", data)
    disk: Disk = make_disk(2 << 20, "tmpfs")
    full = run("restore", tmp_path / "depot", "--data", disk.place / "data")
    assert full.returncode == 1
    assert "make room on this file system" in full.stderr, full.stderr
    assert len(full.stderr.splitlines()) == 1
    assert list(disk.place.iterdir()) == []
