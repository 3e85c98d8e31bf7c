"""shard/offline/check.py: everything in a data directory looked through, nothing changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from random import Random

import lmdb
import pytest

from tests.support.damage import flip_bit, places_of_rows
from tests.support.data_directory import ALARM_EVERY, KEYS, OBJECTS, SHARDS, make_data_directory, name_of, state_file
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.shard.core.alarms import INDEX_KEY, Alarm, Header, encode_header, index_row_key
from tidegate.shard.offline.check import Check, Finding, ReadState, state_path
from tidegate.shard.store.state.lmdb_state import LmdbState


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_data_directory(tmp_path / "data")
    return tmp_path / "data"


def fingerprint(data: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in data.rglob("*") if file.is_file()}


def findings(data: Path) -> list[Finding]:
    before = fingerprint(data)
    found = list(Check(data, SHARDS, lambda *_: None).run())
    assert fingerprint(data) == before
    return found


def change(data: Path, shard: int, rows: dict[bytes, bytes | None]) -> None:
    state = LmdbState(state_file(data, shard).parent, shard)
    batch = state.begin()
    batch.put_many([(key, value) for key, value in rows.items() if value is not None])
    batch.delete_many([key for key, value in rows.items() if value is None])
    batch.commit()
    state.close()


def test_a_whole_directory_has_nothing_wrong_and_all_is_counted(data: Path) -> None:
    said: list[tuple[str, float]] = []
    check = Check(data, SHARDS, lambda what, share: said.append((what, share)))
    assert list(check.run()) == []
    alarms = OBJECTS // ALARM_EVERY
    assert (check.counts.objects, check.counts.alarms) == (OBJECTS, alarms)
    assert check.counts.rows == OBJECTS * (KEYS + 1) + alarms
    assert check.counts.log_bytes > 0
    assert said[0] == ("shard 0 of 4", 0.0)


def test_shards_that_there_could_not_be_are_found(data: Path) -> None:
    """`tidegate.json` says less than there are: calls would go to where their objects are not."""
    found = list(Check(data, SHARDS // 2, lambda *_: None).run())
    beyond = [str(state_path(data, shard)) for shard in range(SHARDS // 2, SHARDS)]
    assert [finding.where for finding in found if finding.what == "tidegate.json says 2 shards"] == beyond


def test_a_shard_takes_no_more_address_space_than_its_file_has(data: Path) -> None:
    """With a map of the largest size for each a directory of more than 127 shards could not be looked through."""
    for shard in range(SHARDS):
        with contextlib.closing(ReadState(state_path(data, shard), shard, checksums=True)) as state:
            assert state._env.info()["map_size"] == state_file(data, shard).stat().st_size
    with pytest.raises(lmdb.Error):
        ReadState(data / "nothing", 0, checksums=True)


def test_flipped_bits_in_states_and_logs_are_found_or_harmless(data: Path) -> None:
    random = Random(5)
    files = [state_file(data, shard) for shard in range(SHARDS)]
    found = 0
    for _ in range(40):
        file = random.choice(files)
        place = random.choice(sorted(places_of_rows(file).values())) + random.randrange(16)
        flip_bit(file, place, bit := random.randrange(8))
        found += len(findings(data)) > 0
        flip_bit(file, place, bit)
    assert found == 40
    assert findings(data) == []


def test_a_damaged_shard_is_named_with_the_next_step_and_the_others_are_looked_at(data: Path) -> None:
    os.truncate(state_file(data, 2), 30_000)
    found = findings(data)
    assert {finding.shard for finding in found} == {2}
    assert "cut short" in found[0].what
    assert f"tidegate repair {data} --shard 2" in found[0].next


def test_a_missing_file_and_one_of_another_shard_are_found(data: Path) -> None:
    state_file(data, 1).unlink()
    assert [(each.shard, each.what) for each in findings(data)] == [(1, "data.mdb is missing")]
    state_file(data, 1).write_bytes(state_file(data, 0).read_bytes())
    assert [(each.shard, each.what) for each in findings(data)] == [(1, "it holds shard 0")]


def test_a_log_that_does_not_fit_its_states_is_found(data: Path) -> None:
    segment = next((data / "log").glob("*/*.seg"))
    content = segment.read_bytes()
    place = content.index(b"value of a row")
    flip_bit(segment, place, 1)
    found = findings(data)
    assert len(found) == 1, found
    assert str(data / "log") in found[0].where


def test_objects_headers_and_alarms_are_compared(data: Path) -> None:
    keys = {number: object_key("Counter", name_of(number)) for number in range(OBJECTS)}
    shards = {number: shard_of_slot(slot_of("Counter", name_of(number)), SHARDS) for number in range(OBJECTS)}
    of_shard = [number for number in range(1, OBJECTS - 20) if shards[number] == 1]
    with_alarm = next(number for number in of_shard if number % ALARM_EVERY == 0)
    headless, misnamed, *_ = (number for number in of_shard if number % ALARM_EVERY)
    stray = INDEX_KEY + index_row_key(99, keys[headless]).encode()
    change(data, 1, {
        keys[headless]: None,
        keys[misnamed]: encode_header(Header("Counter", "somebody else")),
        INDEX_KEY + index_row_key(with_alarm * 1_000_000, keys[with_alarm]).encode(): None,
        stray: b"\x92\xa1a\xa1b",
    })  # fmt: skip
    found = [finding.what for finding in findings(data)]
    assert len(found) == 5, found
    for number, text in ((headless, "5 rows and no header"), (misnamed, "header of Counter/somebody else")):
        assert any(keys[number].hex() in what and text in what for what in found), found
    assert any("is not in the index" in what and keys[with_alarm].hex() in what for what in found)
    assert any("its object does not have" in what for what in found)


def test_an_object_of_another_shard_is_found(data: Path) -> None:
    number = next(number for number in range(OBJECTS) if shard_of_slot(slot_of("Counter", name_of(number)), SHARDS) == 3)
    change(data, 0, {object_key("Counter", name_of(number)): encode_header(Header("Counter", name_of(number), Alarm(1, 1)))})
    assert any(f"Counter/{name_of(number)} belongs to another shard" in finding.what for finding in findings(data))
