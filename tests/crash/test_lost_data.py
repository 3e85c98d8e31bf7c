"""What a disk, a file system or an operator may lose or bring back: it is named, its shards are not served, the others are.

Real files, as a worker leaves them that was killed: two shards, commits of the one, of the other and of both in turn.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.crash.flipped_bits import DETECTED, HARMLESS, flip_bits
from tests.support.damaged_log import (
    KEY,
    RECORDS,
    SHARDS,
    append,
    in_store,
    log_of,
    place_of,
    shards_of,
    small_segments,
    value_of,
    write,
    zero,
)
from tidegate.shard.log.commit_log import list_segments
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.logs import list_logs
from tidegate.shard.store.worker_store import WorkerStore


@pytest.fixture(autouse=True)
def _small_segments() -> Iterator[None]:
    with small_segments():
        yield


def expect(data: Path, start: int, stopped: dict[int, str], newest: int = RECORDS, *, write: bool = True) -> None:
    """These shards are stopped, for that reason; the others have everything up to the newest record, and take more."""

    def look(store: WorkerStore) -> None:
        assert store.stopped.keys() == stopped.keys(), {shard: str(error) for shard, error in store.stopped.items()}
        for shard, reason in stopped.items():
            assert reason in str(store.stopped[shard])
            assert f"tidegate repair --shard {shard}" in store.stopped[shard].hint
        for shard, served in store.shards.items():
            mine = [record for record in range(1, newest + 1) if shard in shards_of(record)]
            assert served.get(KEY, "newest") == value_of(mine[-1])
            assert all(served.get(KEY, f"key {record}") == b"there" for record in mine)
        if write:
            append(store, 10_001, 10_003)

    in_store(data, start, look)


def test_what_nobody_has_damaged_is_all_there(tmp_path: Path) -> None:
    write(tmp_path)
    expect(tmp_path, 2, {})


@pytest.mark.parametrize("restarted", [False, True], ids=["next start", "worker again"])
def test_a_zeroed_tail_of_21_confirmed_records_is_refused(tmp_path: Path, restarted: bool) -> None:
    """It looked like the end of the log, and 21 numbers went back."""
    write(tmp_path)
    for record in range(RECORDS - 20, RECORDS + 1):
        if record % 2 == 1 or record < RECORDS - 3:  # One of the two rows a little further than the other.
            path, start, end = place_of(tmp_path, record)
            zero(path, start, end)
    reason = "missing: record"
    expect(tmp_path, 1 if restarted else 2, {0: reason, 1: reason})


def test_a_tail_zeroed_to_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path, start, _ = place_of(tmp_path, RECORDS - 5 if (RECORDS - 5) % 2 else RECORDS - 4)
    zero(path, start, path.stat().st_size)
    expect(tmp_path, 2, {0: "a good one follows", 1: "a good one follows"})


def test_of_the_very_last_record_alone_nothing_is_left_to_tell(tmp_path: Path) -> None:
    """The one thing that cannot be told from a record that was never written; while the service is idle a checkpoint has it."""
    write(tmp_path)
    path, start, end = place_of(tmp_path, RECORDS)
    zero(path, start, end)
    expect(tmp_path, 2, {}, newest=RECORDS - 1)


def test_a_checkpoint_needs_nothing_that_was_in_the_log(tmp_path: Path) -> None:
    write(tmp_path, checkpoint=True)
    for _, path in list_segments(log_of(tmp_path)):
        zero(path, 200, path.stat().st_size)
    expect(tmp_path, 2, {})


@pytest.mark.parametrize("which", ["first", "middle", "last", "all"])
@pytest.mark.parametrize("how", ["removed", "zeroed", "emptied"])
def test_a_lost_segment_is_refused(tmp_path: Path, which: str, how: str) -> None:
    write(tmp_path)
    segments = [path for _, path in list_segments(log_of(tmp_path))]
    assert len(segments) > 2
    for path in {"first": segments[:1], "middle": segments[1:2], "last": segments[-1:], "all": segments}[which]:
        if how == "removed":
            path.unlink()
        elif how == "zeroed":
            zero(path, 0, path.stat().st_size)
        else:
            path.write_bytes(b"")
    reason = {"first": "missing: the log goes on behind them", "middle": "not there, although", "last": "which continues the log",
              "all": "nothing of this log can be read"}[which]  # fmt: skip
    expect(tmp_path, 2, {0: reason, 1: reason})


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_shortened_segment_is_refused(tmp_path: Path, which: int) -> None:
    write(tmp_path)
    path = list_segments(log_of(tmp_path))[which][1]
    path.write_bytes(path.read_bytes()[:2048])
    expect(tmp_path, 2, {0: "the file", 1: "the file"})


def test_a_lost_folder_of_a_log_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path)
    shutil.rmtree(log_of(tmp_path))
    reason = "log 00000001-0000-0000: it is missing"
    expect(tmp_path, 2, {0: reason, 1: reason})


def test_a_lost_folder_of_all_logs_and_a_counter_of_starts_that_was_set_back_are_refused(tmp_path: Path) -> None:
    """200 confirmed numbers went back."""
    write(tmp_path, start=12)
    shutil.rmtree(tmp_path / "log")
    reason = "shard 0 was served in start 12, and this is start 3"
    expect(tmp_path, 3, {0: reason, 1: reason.replace("shard 0", "shard 1")})


def test_a_counter_of_starts_that_was_set_back_alone_is_refused_too(tmp_path: Path) -> None:
    write(tmp_path, start=12)
    expect(tmp_path, 12 - 5, {0: "is an older copy", 1: "is an older copy"})


@pytest.mark.parametrize("later_start", [False, True])
def test_an_older_copy_of_one_shard_is_refused_and_the_other_is_served(tmp_path: Path, later_start: bool) -> None:
    """The log had forgotten what came between."""
    write(tmp_path, last=10, checkpoint=True)
    shutil.copytree(tmp_path / "shards" / "0000", tmp_path / "older copy")
    write(tmp_path, start=2, first=11, checkpoint=True)
    shutil.rmtree(log_of(tmp_path))  # As the supervisor does it when all have started.
    if later_start:
        in_store(tmp_path, 3, lambda store: None)
        shutil.rmtree(log_of(tmp_path, 2))
    shutil.rmtree(tmp_path / "shards" / "0000")
    (tmp_path / "older copy").rename(tmp_path / "shards" / "0000")
    expect(tmp_path, 4, {0: "it is missing, and may have confirmed commits"})


def test_a_lost_folder_of_one_shard_is_refused_and_the_other_is_served(tmp_path: Path) -> None:
    write(tmp_path, checkpoint=True)
    in_store(tmp_path, 2, lambda store: None)
    shutil.rmtree(log_of(tmp_path))
    shutil.rmtree(tmp_path / "shards" / "0000")
    expect(tmp_path, 3, {0: "commits 1 to 40 of shard 0 are missing"})


@pytest.mark.parametrize("record", [31, 32, 33])
def test_a_damaged_record_in_the_middle_stops_those_shards_only_that_it_is_of(tmp_path: Path, record: int) -> None:
    write(tmp_path)
    path, start, _ = place_of(tmp_path, record)
    zero(path, start + 10, start + 40)
    expect(tmp_path, 2, dict.fromkeys(shards_of(record), f"record {record}: damaged, but a good one follows"))


def test_a_stopped_shard_keeps_its_logs_over_starts_of_worker_and_service_until_it_is_mended(tmp_path: Path) -> None:
    write(tmp_path)
    path, start, _ = place_of(tmp_path, 31)
    zero(path, start + 10, start + 40)
    [shard] = shards_of(31)
    for service_start in (1, 1, 1, 2, 2, 2, 3):
        expect(tmp_path, service_start, {shard: "record 31"}, write=False)
    assert path.exists()
    kept = [log[:3] for log in list_logs(tmp_path)]
    assert kept == [(1, 0, 0), (1, 0, 3), (2, 0, 2), (3, 0, 0)], "and not those that have nothing of it"


def test_damage_found_while_serving_keeps_what_the_shard_has_in_the_log_whatever_the_others_write(tmp_path: Path) -> None:
    write(tmp_path, last=30)

    async def run() -> None:
        store = WorkerStore.open(tmp_path, 2, 0, SHARDS, print)
        append(store, 31, 45)
        assert store.stop(ShardDamaged(0, "read", "its state", "a wrong checksum"))
        assert not store.stop(ShardDamaged(0, "read", "its state", "again"))
        for first in range(46, 400, 20):
            append(store, first, first + 19)
            await store.checkpointer.finish()
        assert store.log.segments_used < 4, "the log forgets what the others need no longer"
        await store.close()

    asyncio.run(run())
    for start in (2, 3):

        def look(store: WorkerStore) -> None:
            assert store.stopped == {}
            mine = [record for record in range(1, 46) if 0 in shards_of(record)]
            assert [record for record in range(1, 500) if store.shards[0].get(KEY, f"key {record}")] == mine
            assert store.shards[1].get(KEY, "key 397") == b"there"

        in_store(tmp_path, start, look)


# Single bits


@pytest.mark.parametrize("seed", range(4))
def test_single_flipped_bits_in_the_log_are_detected_or_harmless(tmp_path: Path, seed: int) -> None:
    """`python -m tests.crash.flipped_bits N` does it as often as one likes."""
    found = flip_bits(tmp_path, Random(seed), 12)
    assert set(found) <= {DETECTED, HARMLESS}, found
    assert found[DETECTED] > 0
