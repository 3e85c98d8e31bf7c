"""shard/backup/one_object.py: one object out of a backup is what a whole restore has of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.support.backup_world import OBJECTS, SHARDS, STEP_MS, BackupWorld, small
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.wire.object_records import Record
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.backup.one_object import read_object
from tidegate.shard.backup.reading import Lineages, read_lineages
from tidegate.shard.backup.restore import find_moment, span_of
from tidegate.shard.offline.export import exported


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupWorld]:
    small(monkeypatch)
    world = BackupWorld(tmp_path / "data", FolderDepot(tmp_path / "depot"), seed=9)
    yield world
    world.close()


def test_it_is_as_it_was_at_any_moment(world: BackupWorld, tmp_path: Path) -> None:
    world.commit(150)
    world.back_up(meanwhile=2)
    for _ in range(2):
        world.commit(150)
        world.checkpoint()
        world.back_up(meanwhile=1)
    (lineage,) = read_lineages(world.depot).good
    random, seen = Random(1), 0
    for number in range(4):
        at_ms = random.randrange(*span_of(lineage), STEP_MS)
        world.restore(place := tmp_path / f"new-{number}", at_ms)
        moment = find_moment(Lineages([lineage], {}), at_ms, "the depot")
        for each in range(0, OBJECTS, 3):
            name = f"c{each}"
            whole: list[Record] = list(exported(place, SHARDS, lambda header, name=name: header.name == name))  # type: ignore[misc]
            assert read_object(world.depot, moment, ObjectId("Counter", name), lambda *_: None) == whole
            seen += bool(whole)
    assert 40 < seen < 80, "some were deleted at that time"
