"""shard/offline/repair.py: what is good of a damaged shard is saved, what is not is named."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from tests.support.damage import PAGE, flip_bit, places_of_rows
from tests.support.data_directory import (
    ALARM_EVERY,
    KEYS,
    OBJECTS,
    SHARDS,
    VALUE,
    make_data_directory,
    name_of,
    shard_of,
    state_file,
)
from tidegate.runtime.data.directory import open_directory
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES, object_key
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.log.commit_log import CommitLog, list_segments
from tidegate.shard.offline.check import Check
from tidegate.shard.offline.repair import Repair, Salvage, missing_in_logs, salvage_of, take_from_logs
from tidegate.shard.store.interface import NAMES_KEY, ObjectWrites, ShardCommit
from tidegate.shard.store.logs import log_path
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.pages import PageFile

SHARD = 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_data_directory(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def file(data: Path) -> Path:
    return state_file(data, SHARD)


@pytest.fixture
def before(file: Path) -> dict[bytes, bytes]:
    return content(file)


def content(file: Path) -> dict[bytes, bytes]:
    with closing(LmdbState(file.parent, SHARD)) as state:
        return {b"seq": str(state.applied_seq).encode()} | dict(state.scan(b"", b"\xff", False))


def repaired(data: Path) -> Repair:
    """Planned, which changes nothing, and done; then the directory is whole."""
    file = state_file(data, SHARD)
    damaged = file.read_bytes()
    with closing(Salvage(data, SHARD)) as salvage:
        plan = salvage.plan()
        assert file.read_bytes() == damaged
        aside = salvage.write(plan.applied_seq)
    assert aside.read_bytes() == damaged
    assert list(Check(data, SHARDS, lambda *_: None).run()) == []
    return plan


def key_of(number: int, key: str = "") -> bytes:
    return object_key("Counter", name_of(number)) + key.encode()


OURS = [number for number in range(OBJECTS - 20) if shard_of(name_of(number)) == SHARD]


@pytest.mark.parametrize("bytes_left", [None, 0, 100])
def test_where_nothing_of_the_file_is_left_its_shard_goes_on_with_what_the_logs_have(
    data: Path, file: Path, bytes_left: int | None
) -> None:
    """`check` said that repair may help, and that said to restore a backup: who had none had a shard that never served again."""
    if bytes_left is None:
        file.unlink()
    else:
        os.truncate(file, bytes_left)
    with closing(salvage_of(data, SHARD)) as salvage:
        plan = salvage.plan()
        assert (len(plan.damages), len(plan.losses), plan.rows) == (1, 1, 0)
        assert file.exists() == (bytes_left is not None), "nothing has changed"
        aside = salvage.write(plan.applied_seq)
    assert (aside is None) == (bytes_left is None)
    assert take_from_logs(data, SHARD)
    assert list(Check(data, SHARDS, lambda *_: None).run()) == []
    assert [key for key in content(file) if len(key) == OBJECT_KEY_BYTES], "objects that were made since the last checkpoint"


def test_the_file_of_another_shard_is_refused_and_not_relabelled(data: Path, file: Path) -> None:
    shutil.copy(state_file(data, SHARD + 1), file)
    with closing(salvage_of(data, SHARD)) as salvage, pytest.raises(OperatorError, match=r"it holds shard 2 \(put .* back"):
        salvage.plan()


def test_a_whole_file_needs_no_repair(data: Path) -> None:
    with closing(Salvage(data, SHARD)) as salvage:
        plan = salvage.plan()
    alarms = sum(number % ALARM_EVERY == 0 for number in OURS)
    assert (plan.damages, plan.losses, plan.rows) == ([], [], len(OURS) * (KEYS + 2) + alarms + 1)


def test_flipped_bits_are_flipped_back_and_nothing_is_lost(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    rows = places_of_rows(file)
    for number in OURS[:3]:
        flip_bit(file, rows[key_of(number, "k3")] + 20, 5)
    flip_bit(file, rows[key_of(OURS[5])] + 22, 2)  # In the name that its header has.
    flip_bit(file, rows[key_of(OURS[6], "k1")] + 3, 0)  # In a key.
    plan = repaired(data)
    assert (plan.losses, plan.lost_rows, plan.bits_flipped_back) == ([], 0, 5)
    assert content(file) == before


def test_a_value_that_is_gone_is_lost_by_name_and_all_else_is_saved(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    place = places_of_rows(file)[key_of(OURS[7], "k2")]
    with file.open("r+b") as opened:
        opened.seek(place + 25)
        opened.write(b"something else")
    plan = repaired(data)
    assert plan.losses == [f"Counter/{name_of(OURS[7])}, its key 'k2'"]
    assert plan.lost_rows == 1
    del before[key_of(OURS[7], "k2")]
    assert content(file) == before


def test_a_header_whose_end_is_damaged_is_made_again(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    place = places_of_rows(file)[key_of(OURS[7])]
    size = len(before[key_of(OURS[7])])
    with file.open("r+b") as opened:
        opened.seek(place + 16 + size)
        opened.write(b"\0\0\0\0")  # Where the checksum was.
    plan = repaired(data)
    assert plan.headers_made == 1
    assert plan.losses == [f"Counter/{name_of(OURS[7])}: its alarm, if it had one"]
    assert content(file) == before


def test_an_object_without_a_header_does_not_come_back_to_life(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    place = places_of_rows(file)[key_of(OURS[7])]
    with file.open("r+b") as opened:
        opened.seek(place + 18)
        opened.write(b"\xff\xff\xff\xff")
    plan = repaired(data)
    assert any(key_of(OURS[7]).hex() in loss and "5 rows" in loss for loss in plan.losses)
    del before[NAMES_KEY + f"Counter/{name_of(OURS[7])}".encode()]
    assert content(file) == {key: value for key, value in before.items() if not key.startswith(key_of(OURS[7]))}


def test_rows_of_pages_to_which_nothing_points_are_found_again(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    with PageFile(file) as pages:
        meta = pages.newest_meta()
        assert meta is not None
        assert meta.main.depth > 1
    with file.open("r+b") as opened:  # The root of the tree.
        opened.seek(meta.main.root * PAGE)
        opened.write(bytes(PAGE))
    plan = repaired(data)
    assert (plan.losses, plan.lost_rows) == ([], 0)
    assert plan.found_again > 500
    assert content(file) == before


def test_a_page_whose_own_number_is_wrong_still_gives_its_rows(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    flip_bit(file, places_of_rows(file)[key_of(OURS[9], "k1")] // PAGE * PAGE, 4)
    plan = repaired(data)
    assert (plan.losses, plan.lost_rows) == ([], 0)
    assert content(file) == before


def test_what_lies_between_is_told_of_a_page_that_is_gone(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    page = places_of_rows(file)[key_of(OURS[9], "k1")] // PAGE
    with file.open("r+b") as opened:
        opened.seek(page * PAGE)
        opened.write(bytes(PAGE))
    plan = repaired(data)
    assert plan.lost_rows is not None
    assert plan.lost_rows > 5
    assert any(loss.startswith("rows from ") for loss in plan.losses), plan.losses
    after = content(file)
    assert after.items() <= before.items()
    assert len(after) > len(before) - 80


def test_meta_pages_with_a_flipped_bit_lose_nothing(data: Path, file: Path, before: dict[bytes, bytes]) -> None:
    for offset in (17, PAGE + 17):  # What makes it one of LMDB's.
        flip_bit(file, offset, 3)
        repaired(data)
        assert content(file) == before


def test_single_flipped_bits_anywhere_are_repaired_and_no_wrong_row_is_saved(
    data: Path, file: Path, before: dict[bytes, bytes]
) -> None:
    random = Random(11)
    whole = file.read_bytes()
    lost = 0
    for _ in range(60):
        flip_bit(file, random.randrange(len(whole)), random.randrange(8))
        with closing(Salvage(data, SHARD)) as salvage:
            plan = salvage.plan()
            if plan.damages:
                salvage.write(plan.applied_seq)
                lost += plan.lost_rows or 0
                after = content(file)
                assert after.items() <= before.items() or plan.headers_made
        for name in file.parent.iterdir():
            name.unlink()
        file.write_bytes(whole)
    print(f"{lost} rows lost in 60 repairs")
    assert lost <= 60


def test_what_a_log_lost_is_named_what_it_has_is_taken_and_what_is_left_without_a_header_is_not(tmp_path: Path) -> None:
    """The first commit of one object is lost, and a later one of another."""
    open_directory(tmp_path, SHARDS).close()
    LmdbState(tmp_path / "shards" / "0000", 0).close()
    first, second = (object_key("Counter", name) for name in ("first", "second"))
    log = CommitLog(log_path(tmp_path, 1, 0))
    made = encode_header(Header("Counter", "second"))
    commits = [
        (second, {"": made, "a": VALUE}),
        (first, {"": made, "a": b"damaged"}),
        (first, {"b": VALUE}),
        (second, {"c": b"damaged too"}),
        (second, {"d": VALUE}),
    ]
    for seq, (key, writes) in enumerate(commits, 1):
        log.append(encode_record(CommitRecord(0, [ShardCommit(0, seq, [ObjectWrites(key, False, dict(writes))])])))
    log.close()
    [(_, path)] = list_segments(log_path(tmp_path, 1, 0))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"damaged too", b"DAMAGED TOO").replace(b"damaged", b"DAMAGED"))
    told = missing_in_logs(tmp_path, 0)
    assert [each.partition(": ")[2] for each in told[:2]] == [
        f"commit {seq} of shard 0 is missing: record {seq}: damaged, but a good one follows" for seq in (2, 4)
    ]
    assert told[2] == f"what was left of an object of which nothing is left but its key {first.hex()}: 1 rows"
    assert take_from_logs(tmp_path, 0) == told
    state = LmdbState(tmp_path / "shards" / "0000", 0)
    rows = dict(state.scan(b"", b"\x40", False))
    state.close()
    assert rows == {second: made, second + b"a": VALUE, second + b"d": VALUE}
    assert missing_in_logs(tmp_path, 0) == []
