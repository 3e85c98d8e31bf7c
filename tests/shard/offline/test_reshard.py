"""shard/offline/reshard.py: the same objects, alarms and answers in another number of shards."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.backup_world import SHARDS, BackupWorld, Known, known_in, small
from tests.support.damage import flip_bit, places_of_rows, write_format_1
from tests.support.data_directory import make_data_directory, state_file
from tidegate.runtime.data.directory import open_directory
from tidegate.runtime.data.successor import Successor
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.core.alarms import (
    ABANDONED_KEY,
    AHEAD,
    BEGUN_KEY,
    STEADY_INDEX_KEY,
    STEADY_KEY,
    Alarm,
    Header,
    decode_header,
    encode_header,
    index_changes,
)
from tidegate.shard.offline import rows as offline_rows
from tidegate.shard.offline.check import Check, ReadState, state_path
from tidegate.shard.offline.reshard import Resharded, reshard
from tidegate.shard.offline.rows import OWN_FIRST
from tidegate.shard.store.state.lmdb_state import LmdbState

Rows = dict[bytes, bytes]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupWorld]:
    small(monkeypatch)
    world = BackupWorld(tmp_path / "data", FolderDepot(tmp_path / "depot"), seed=3)
    world.commit(300)
    world.checkpoint()
    world.commit(100)
    world.stop()
    yield world
    world.close()


def resharded(data: Path, before: int, shards: int) -> Resharded:
    with Successor(data) as successor:
        result = reshard(data, before, successor.path, shards, 5, lambda *_: None)
        successor.take_place(shards, 5)
    return result


def union(known: list[Known]) -> Rows:
    rows: Rows = {}
    for each in known:
        assert rows.keys().isdisjoint(each.rows)
        rows |= each.rows
    return rows


@pytest.mark.parametrize("shards", [1, 4, 16])
def test_every_row_is_where_it_belongs_and_nothing_else_is(world: BackupWorld, shards: int) -> None:
    before = [known_in(world.data, shard) for shard in range(SHARDS)]
    assert before == world.expected(world.now_ms)
    resharded(world.data, SHARDS, shards)
    after = [known_in(world.data, shard) for shard in range(shards)]
    assert union(after) == union(before)
    for shard, each in enumerate(after):
        own = [key for key in each.rows if key < OWN_FIRST]
        assert all(shard_of_slot(int.from_bytes(key[:2], "big"), shards) == shard for key in own)
        old = [known for number, known in enumerate(before) if shards == 1 or shard * SHARDS // shards == number]
        assert each.answers == frozenset().union(*(known.answers for known in old))
        assert each.seq == max(known.seq for known in old)
    assert list(Check(world.data, shards, lambda *_: None).run()) == []


def test_each_new_shard_reads_its_own_rows_only_and_says_how_far_it_is(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_rows, "TOLD_ROWS", 1)
    read, real = [], ReadState.scan

    def scan(state: ReadState, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
        for row in real(state, start, end, reverse):
            read.append(row[0])
            yield row

    monkeypatch.setattr(ReadState, "scan", scan)
    said: list[tuple[str, float]] = []
    with Successor(world.data) as successor:
        reshard(world.data, SHARDS, successor.path, 64, 5, lambda *told: said.append(told))
    mine = [key for key in read if key < OWN_FIRST]
    assert len(mine) == len(set(mine)) > 50
    dealt = [share for what, share in said if what.startswith(("writing", "reading back"))]
    assert dealt == sorted(dealt)
    assert dealt[-1] > 0.98
    assert {what.rpartition(" shard ")[0] for what, _ in said} >= {"writing", "reading back", "objects of"}


def test_there_and_back_is_the_same_and_goes_on(world: BackupWorld) -> None:
    before = [known_in(world.data, shard) for shard in range(SHARDS)]
    resharded(world.data, SHARDS, 8)
    resharded(world.data, 8, 1)
    resharded(world.data, 1, SHARDS)
    after = [known_in(world.data, shard) for shard in range(SHARDS)]
    assert [each.rows for each in after] == [each.rows for each in before]
    world.start()
    world.commit(100)
    world.stop()
    assert [known_in(world.data, shard).rows for shard in range(SHARDS)] == world.rows


def state_with(data: Path, shard: int, ahead_us: int, names: list[str]) -> None:
    """Objects that have an alarm in ten seconds of steady time, one that has begun and one that was given up."""
    state = LmdbState(state_path(data, shard), shard)
    rows: Rows = {STEADY_KEY + AHEAD.encode(): msgspec.msgpack.encode(ahead_us)}
    for name in names:
        key, alarm = object_key("Counter", name), Alarm(10_000_000 + ahead_us, 10_000_000 + ahead_us, 0, ahead_us, relative=True)
        rows[key] = encode_header(Header("Counter", name, alarm))
        for owner, writes in index_changes(key, None, alarm, "Counter", name).items():
            rows |= {owner + row.encode(): value for row, value in writes.items() if value is not None}
        for owner in (BEGUN_KEY, ABANDONED_KEY):
            rows[owner + key.hex().encode()] = name.encode()
    batch = state.begin()
    batch.put_many(sorted(rows.items()))
    batch.set_applied_seq(7)
    batch.commit()
    state.close()


def test_alarms_keep_their_distance_where_clocks_of_shards_differ(tmp_path: Path) -> None:
    data = tmp_path / "data"
    open_directory(data, 2).close()
    names = [f"c{number}" for number in range(20)]
    for shard, ahead_us in enumerate((3_000_000, 500)):
        mine = [name for name in names if shard_of_slot(slot_of("Counter", name), 2) == shard]
        state_with(data, shard, ahead_us, mine)
    resharded(data, 2, 1)
    state = ReadState(state_path(data, 0), 0, checksums=True)
    rows = dict(state.rows())
    state.close()
    assert msgspec.msgpack.decode(rows[STEADY_KEY + AHEAD.encode()]) == 3_000_000
    for name in names:
        key = object_key("Counter", name)
        assert decode_header(rows[key]).alarm == Alarm(13_000_000, 13_000_000, 0, 3_000_000, relative=True)
        assert rows[BEGUN_KEY + key.hex().encode()] == rows[ABANDONED_KEY + key.hex().encode()] == name.encode()
    assert len([key for key in rows if key.startswith(STEADY_INDEX_KEY)]) == len(names)


def test_damaged_data_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    make_data_directory(data := tmp_path / "data")
    places = places_of_rows(state_file(data, 2))
    flip_bit(state_file(data, 2), places[sorted(places)[10]] + 1, 3)
    with pytest.raises(OperatorError, match=r"shard 2 .*checksum"):
        resharded(data, 4, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_data_of_an_older_format_is_upgraded_before(tmp_path: Path) -> None:
    open_directory(data := tmp_path / "data", 1).close()
    write_format_1(state_path(data, 0), 0, {}, 1)
    with pytest.raises(OperatorError, match="tidegate upgrade"):
        resharded(data, 1, 2)
