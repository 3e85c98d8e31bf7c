"""shard/backup/restore.py, and all that makes backups: what is restored is what the model had at that moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.support.backup_world import SHARDS, STEP_MS, BackupWorld, Killed, MortalDepot, known_in, small
from tests.support.service import FULL
from tidegate.runtime.data.directory import describe_directory, open_directory
from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.backup.reading import read_lineages
from tidegate.shard.backup.restore import shown, span_of, times_of
from tidegate.shard.offline.check import Check

RESTORES = 100 if FULL else 8


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupWorld]:
    small(monkeypatch)
    world = BackupWorld(tmp_path / "data", FolderDepot(tmp_path / "depot"), seed=7)
    yield world
    world.close()


def compare(world: BackupWorld, data: Path, at_ms: int) -> None:
    assert [known_in(data, shard) for shard in range(SHARDS)] == world.expected(at_ms)


def test_a_backup_made_while_everything_changes_restores_the_newest_state(world: BackupWorld, tmp_path: Path) -> None:
    world.commit(300)
    world.checkpoint()
    before = world.expected(world.now_ms)
    report = world.back_up(meanwhile=5)
    assert report.number == 1
    assert report.records > 20, "there were commits meanwhile"
    restored = world.restore(tmp_path / "new", None)
    for shard, seq in restored.seqs.items():
        assert seq >= before[shard].seq
        assert known_in(tmp_path / "new", shard) == world.expected_at(shard, seq)
    assert list(Check(tmp_path / "new", SHARDS, lambda *_: None).run()) == []


def test_every_moment_since_the_full_backup_can_be_restored_over_checkpoints_and_starts(
    world: BackupWorld, tmp_path: Path
) -> None:
    """Among them moments in each of the incremental backups, and ones just before and after a commit."""
    world.commit(200)
    world.back_up(meanwhile=3)
    for number in range(6):
        world.commit(world.random.randint(50, 200))
        if number % 2:
            world.start()
        else:
            world.checkpoint()
        assert world.back_up(meanwhile=number % 3).number == number + 2
    (lineage,) = read_lineages(world.depot).good
    from_ms, until_ms = span_of(lineage)
    assert until_ms - from_ms > 300 * STEP_MS
    world.commit(50)
    random = Random(11)
    for number in range(RESTORES):
        of_a_commit = random.randrange(from_ms, until_ms, STEP_MS)
        at_ms = random.choice([random.randint(from_ms, until_ms), of_a_commit, from_ms, until_ms])
        restored = world.restore(tmp_path / f"new-{number}", at_ms)
        assert restored.until_ms <= at_ms
        compare(world, tmp_path / f"new-{number}", at_ms)


@pytest.mark.parametrize("how", ["full", "full_every_ms"])
def test_no_moment_is_missing_between_a_full_backup_and_the_one_before(world: BackupWorld, tmp_path: Path, how: str) -> None:
    """Commits are made all the time, also while rows are read, and before the run begins."""
    world.commit(100)
    world.back_up(meanwhile=2)
    fulls = []
    for number in range(4):
        world.commit(40)
        world.checkpoint()
        is_full = number != 2
        report = world.back_up(meanwhile=2, **({how: 1} if is_full else {}))
        assert (report.number == 1) is is_full
        fulls += [report.lineage] if is_full else []
    spans = [span_of(lineage) for lineage in read_lineages(world.depot).good]
    assert len(spans) == 4
    assert all(later[0] <= earlier[1] for earlier, later in pairwise(spans))
    assert spans[-1][1] == max(until_ms for _, until_ms in spans), "the newest is of the newest"
    random = Random(5)
    edges = [each + by for span in spans for each in span for by in (-1, 0, 1)]
    within = [each for each in edges if spans[0][0] <= each <= spans[-1][1]]
    moments = within if FULL else random.sample(within, 8)
    for number, at_ms in enumerate([*moments, *(random.randint(spans[0][0], spans[-1][1]) for _ in range(RESTORES // 2))]):
        world.restore(tmp_path / f"new-{number}", at_ms)
        compare(world, tmp_path / f"new-{number}", at_ms)


def test_no_moment_is_missing_where_a_full_backup_is_killed_anywhere(world: BackupWorld, tmp_path: Path) -> None:
    """Also between its manifest and the end of the one before."""
    world.commit(30)
    world.depot = depot = MortalDepot(tmp_path / "killing")
    world.back_up()
    for puts in range(1, 1000):
        depot.puts_left = puts
        world.commit(2)
        with contextlib.suppress(Killed):
            world.back_up(meanwhile=1, piece_bytes=1 << 20, full=True)
        was_killed, depot.puts_left = depot.puts_left == 0, 1 << 30
        world.commit(2)
        world.back_up(meanwhile=1, piece_bytes=1 << 20)
        if not was_killed:
            break
    spans = [span_of(lineage) for lineage in read_lineages(depot).good]
    assert len(spans) > 3
    assert all(later[0] <= earlier[1] for earlier, later in pairwise(spans))
    assert [path.stem for path in (world.data / "shipping").glob("*.json")] == [read_lineages(depot).good[-1].name]
    for number, at_ms in enumerate([later[0] - STEP_MS for _, later in pairwise(spans)][:RESTORES]):
        world.restore(tmp_path / f"new-{number}", at_ms)
        compare(world, tmp_path / f"new-{number}", at_ms)


def test_what_is_restored_starts_and_goes_on_and_is_backed_up_anew(world: BackupWorld, tmp_path: Path) -> None:
    world.commit(100)
    world.back_up()
    world.start()
    restored = world.restore(tmp_path / "new", None)
    assert describe_directory(tmp_path / "new") == (SHARDS, restored.starts)
    again = BackupWorld(tmp_path / "new", world.depot, seed=8)
    world.stop()
    again.rows = [known_in(tmp_path / "data", shard).rows for shard in range(SHARDS)]
    again.alarms, again.answers = dict(world.alarms), world.answers
    again.commit(50)
    assert again.back_up().number == 1
    again.stop()
    assert [known_in(tmp_path / "new", shard).rows for shard in range(SHARDS)] == again.rows


def test_a_time_that_no_backup_has_is_refused(world: BackupWorld, tmp_path: Path) -> None:
    world.commit(10)
    ended_ms = world.back_up().until_ms
    for at_ms in (world.now_ms - 5 * STEP_MS, world.now_ms + 5 * STEP_MS):
        with pytest.raises(OperatorError, match=f"no backup has that time.*{shown(ended_ms)}"):
            world.restore(tmp_path / "new", at_ms)
    assert not (tmp_path / "new").exists()


def test_the_one_time_of_a_full_backup_that_none_has_continued_is_one_to_ask_for(world: BackupWorld, tmp_path: Path) -> None:
    world.commit(10)
    ended_ms = world.back_up(meanwhile=1).until_ms
    (lineage,) = read_lineages(world.depot).good
    assert times_of(lineage) == f"as of {shown(ended_ms)}"
    with pytest.raises(OperatorError, match="no backup has that time"):
        world.restore(tmp_path / "new", ended_ms - 1)
    assert world.restore(tmp_path / "new", ended_ms).seqs == world.restore(tmp_path / "newest", None).seqs


def test_any_piece_that_is_damaged_or_gone_is_named_and_nothing_is_replaced(world: BackupWorld, tmp_path: Path) -> None:
    world.commit(300)
    world.back_up()
    world.commit(100)
    world.back_up()
    place = tmp_path / "new"
    open_directory(place, SHARDS).close()
    before = sorted(place.rglob("*"))
    every = sorted(path for path in (tmp_path / "depot").rglob("*") if path.is_file())
    files = every if FULL else [*every[:3], *Random(5).sample(every, 4)]
    for file in files:
        good = file.read_bytes()
        for bad in (good[:-2], good[:20] + bytes([good[20] ^ 1]) + good[21:], None):
            if bad is None:
                file.unlink()
            else:
                file.write_bytes(bad)
            if bad is not None or not file.name.endswith("000002.json"):  # Without that the lineage ends before it.
                with pytest.raises(OperatorError, match=file.name if file.name != "000001.json" or bad else "complete backup"):
                    world.restore(place, None)
            file.write_bytes(good)
    assert sorted(place.rglob("*")) == before
    world.restore(place, None)
    compare(world, place, world.now_ms)


def test_where_one_lineage_is_damaged_the_others_can_be_restored_and_none_is_taken_in_silence(
    world: BackupWorld, tmp_path: Path
) -> None:
    world.commit(50)
    world.back_up()
    world.commit(50)
    world.back_up()
    before_ms = world.now_ms
    world.commit(50)
    world.back_up(full=True)
    world.commit(10)
    world.back_up()
    first, second = read_lineages(world.depot).good
    manifest = tmp_path / "depot" / second.name / "000002.json"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    lineages = read_lineages(world.depot)
    assert [lineage.name for lineage in lineages.good] == [first.name]
    assert set(lineages.damaged) == {second.name}
    with pytest.raises(OperatorError, match=second.name):
        world.restore(tmp_path / "new", None)
    world.restore(tmp_path / "new", before_ms)
    compare(world, tmp_path / "new", before_ms)
