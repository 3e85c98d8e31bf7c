"""shard/backup/backup.py: how a backup is made, gone on with, continued, and given up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tidegate.runtime.shipping as shipping_module
from tests.support.backup_world import SHARDS, BackupWorld, Killed, MortalDepot, known_in, small
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.regular import read_regular
from tidegate.runtime.shipping import GIVEN_UP, Shipping
from tidegate.shard.backup import backup as backup_module
from tidegate.shard.backup.backup import (
    CONTINUED_MS_MAX,
    Backup,
    BackupReport,
    BackupUnderWay,
    KeptLineage,
    Source,
    Throttle,
    keep_no_log_for,
    kept_lineages,
)
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.backup.log_records import shipped
from tidegate.shard.backup.reading import read_lineages


def test_what_the_log_is_kept_for_may_go_away_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_lineages(tmp_path) == []
    (shipping := tmp_path / "shipping").mkdir()
    for name in ("a", "b"):
        (shipping / f"{name}.json").write_bytes(msgspec.json.encode(KeptLineage(name, "somewhere", 1)))

    def read(path: Path, bytes_max: int) -> bytes:
        (shipping / "a.json").unlink(missing_ok=True)
        return read_regular(path, bytes_max)

    monkeypatch.setattr(backup_module, "read_regular", read)
    assert [each.lineage for each in kept_lineages(tmp_path)] == ["b"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupWorld]:
    small(monkeypatch)
    world = BackupWorld(tmp_path / "data", MortalDepot(tmp_path / "depot"), seed=3)
    world.commit(300)
    yield world
    world.close()


def check_newest(world: BackupWorld, place: Path) -> None:
    restored = world.restore(place, None)
    for shard, seq in restored.seqs.items():
        assert known_in(place, shard) == world.expected_at(shard, seq)


def test_one_that_was_interrupted_goes_on_with_the_pieces_that_are_there(world: BackupWorld, tmp_path: Path) -> None:
    assert isinstance(world.depot, MortalDepot)
    kept = []
    for puts in (0, 3, 20, 30):
        world.depot.puts_left = puts
        with pytest.raises(Killed):
            world.back_up(meanwhile=2)
        world.commit(40)
        world.checkpoint()
        kept.append(len(world.depot.list()))
    assert len({name.partition("/")[0] for name in world.depot.list()}) == 1
    assert kept == sorted(kept)
    world.depot.puts_left = 1 << 30
    report = world.back_up(meanwhile=2)
    assert report.number == 1
    assert 0 < report.pieces_kept <= kept[-1] < report.pieces
    check_newest(world, tmp_path / "new")
    assert world.back_up().number == 2


def run(world: BackupWorld, **how: Any) -> BackupReport:
    source, throttle = Source(world.data, SHARDS, 1, "test"), Throttle(0, lambda seconds: None)
    return Backup(source, world.depot, lambda *_: None, throttle, piece_bytes=4_000, now_ms=lambda: world.now_ms).run(**how)


@pytest.mark.parametrize("how", ["full", "once"])
def test_a_full_one_that_was_asked_for_and_interrupted_goes_on_when_it_is_asked_for_again(
    world: BackupWorld, tmp_path: Path, how: str
) -> None:
    assert isinstance(world.depot, MortalDepot)
    first = world.back_up().lineage
    for puts in (10, 5):
        world.depot.puts_left = puts
        with pytest.raises(Killed):
            run(world, **{how: True})
        world.checkpoint()
    world.depot.puts_left = 1 << 30
    begun = [name for name in world.depot.list() if not name.startswith(first)]
    assert 5 < len(begun) <= 15
    report = run(world, **{how: True})
    assert (report.number, report.pieces_kept) == (1, len(begun))
    assert len({name.partition("/")[0] for name in world.depot.list()}) == 2
    check_newest(world, tmp_path / "new")
    assert run(world, **{how: True}).pieces_kept == 0, "that one was complete"


def test_an_interrupted_one_that_none_will_continue_does_not_stand_in_for_those_that_are_continued(world: BackupWorld) -> None:
    assert isinstance(world.depot, MortalDepot)
    world.back_up()
    world.depot.puts_left = 10
    with pytest.raises(Killed):
        run(world, once=True)
    world.depot.puts_left = 1 << 30
    assert world.back_up().number == 2


def test_what_was_begun_long_ago_and_never_completed_is_deleted_with_old_ones(world: BackupWorld, tmp_path: Path) -> None:
    assert isinstance(world.depot, MortalDepot)
    world.depot.puts_left = 10
    with pytest.raises(Killed):
        run(world, once=True)
    (begun,) = {name.partition("/")[0] for name in world.depot.list()}
    (tmp_path / "depot" / begun / "rows-0009-000000.new").write_bytes(b"half")
    (tmp_path / "depot" / "1").mkdir()
    (tmp_path / "depot" / "1" / "of-others").write_bytes(b"")
    world.depot.puts_left = 1 << 30
    run(world, full=True, keep=1)
    assert (tmp_path / "depot" / begun).exists(), "it may go on"
    world.now_ms += CONTINUED_MS_MAX + 1
    run(world, full=True, keep=1)
    run(world, full=True, keep=1)
    left = sorted(path.name for path in (tmp_path / "depot").iterdir())
    assert begun not in left
    assert (len(left), left[0]) == (2, "1")


def test_an_incremental_one_that_was_interrupted_is_made_again(world: BackupWorld, tmp_path: Path) -> None:
    assert isinstance(world.depot, MortalDepot)
    world.back_up()
    world.commit(400)
    world.checkpoint()
    world.depot.puts_left = 2
    with pytest.raises(Killed):
        world.back_up()
    world.depot.puts_left = 1 << 30
    world.commit(100)
    assert world.back_up().number == 2
    check_newest(world, tmp_path / "new")


def test_segments_are_kept_until_they_are_fetched(world: BackupWorld) -> None:
    world.back_up()
    for _ in range(3):
        world.commit(300)
        world.checkpoint()
        assert len(shipped(world.data)) > 3
        world.back_up()
        assert shipped(world.data) == []


def test_where_the_log_was_given_up_the_next_one_is_full_and_says_why(
    world: BackupWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.back_up()
    monkeypatch.setattr(shipping_module, "SHIPPING_BYTES_MAX", 100 << 10)
    world.commit(400)
    world.checkpoint()
    assert (world.data / GIVEN_UP).exists()
    assert not Shipping(world.data).is_wanted
    monkeypatch.undo()
    report = world.back_up()
    assert report.number == 1
    assert "the log was not kept for it" in report.why_full
    assert not (world.data / GIVEN_UP).exists()
    check_newest(world, tmp_path / "new")


def test_where_commits_are_missing_in_the_log_the_next_one_is_full_and_says_which(world: BackupWorld, tmp_path: Path) -> None:
    world.back_up()
    world.commit(300)
    world.checkpoint()
    kept = shipped(world.data)
    kept[len(kept) // 2].path.unlink()
    report = world.back_up()
    assert report.number == 1
    assert "are not in the log before" in report.why_full
    check_newest(world, tmp_path / "new")
    assert world.back_up().number == 2


def test_one_that_loses_the_log_while_it_is_made_says_so_and_the_next_one_is_good(
    world: BackupWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping_module, "SHIPPING_BYTES_MAX", 40 << 10)
    with pytest.raises(OperatorError, match="given up meanwhile"):
        world.back_up(meanwhile=30)
    assert read_lineages(world.depot).good == []
    monkeypatch.undo()
    world.back_up(meanwhile=3)
    check_newest(world, tmp_path / "new")


def test_the_log_is_kept_for_each_place_to_which_backups_go(world: BackupWorld, tmp_path: Path) -> None:
    first, second = world.depot, FolderDepot(tmp_path / "second")
    world.back_up()
    world.depot = second
    world.back_up()
    world.commit(200)
    world.checkpoint()
    assert world.back_up().number == 2
    assert len(shipped(world.data)) > 0, "the other place has not got them"
    world.depot = first
    assert world.back_up().number == 2
    assert shipped(world.data) == []


def test_one_for_which_no_log_is_wanted_leaves_nothing_behind(world: BackupWorld, tmp_path: Path) -> None:
    source = Source(world.data, SHARDS, 1, "test")
    backup = Backup(source, world.depot, lambda *_: None, Throttle(0, lambda seconds: None), now_ms=lambda: world.now_ms)
    assert backup.run(once=True).number == 1
    assert not Shipping(world.data).is_wanted
    check_newest(world, tmp_path / "new")


def test_where_somebody_has_deleted_the_backups_the_next_one_is_full(world: BackupWorld) -> None:
    world.back_up()
    for name in world.depot.list():
        world.depot.delete(name)
    assert world.back_up().number == 1
    assert len(list((world.data / "shipping").glob("*.json"))) == 1


def test_two_at_the_same_time_are_refused(world: BackupWorld) -> None:
    def second(what: str, share: float) -> None:
        with pytest.raises(OperatorError, match="another backup of it is being made"):
            world.back_up()

    source = Source(world.data, SHARDS, 1, "test")
    Backup(source, world.depot, second, Throttle(0, lambda seconds: None)).run()


def test_what_is_not_there_when_it_is_read_back_is_no_backup(world: BackupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderDepot, "get", lambda self, name: b"other")
    with pytest.raises(OperatorError, match="it is not what was written"):
        world.back_up()
    monkeypatch.undo()
    assert read_lineages(world.depot).good == []


def test_a_pace_waits_for_what_was_early() -> None:
    waited: list[float] = []
    now = 100.0
    throttle = Throttle(10, waited.append, lambda: now)
    throttle.took(50)
    now = 103.0
    throttle.took(10)
    now = 120.0
    throttle.took(10)
    assert waited == [5.0, 3.0]
    Throttle(0, waited.append, lambda: now).took(1 << 40)
    assert len(waited) == 2


def test_after_so_long_a_new_lineage_is_begun_and_old_ones_are_deleted(world: BackupWorld, tmp_path: Path) -> None:
    day_ms = 86_400_000

    def run() -> BackupReport:
        source = Source(world.data, SHARDS, 1, "test")
        backup = Backup(source, world.depot, lambda *_: None, Throttle(0, lambda seconds: None), now_ms=lambda: world.now_ms)
        return backup.run(full_every_ms=7 * day_ms, keep=2)

    made: list[tuple[str, int]] = []
    for _ in range(10):
        report = run()
        made.append((report.lineage, report.number))
        world.commit(20)
        world.now_ms += 3 * day_ms
    assert [number for _, number in made] == [1, 2, 3, *[1, 3, 4] * 2, 1], "the second of a new one comes with it"
    assert [lineage.name for lineage in read_lineages(world.depot).good] == [made[-2][0], made[-1][0]]
    assert {name.partition("/")[0] for name in world.depot.list()} == {made[-2][0], made[-1][0]}
    check_newest(world, tmp_path / "new")


def test_one_that_was_interrupted_goes_on_after_days_with_the_log_that_it_needs(world: BackupWorld, tmp_path: Path) -> None:
    """The one before is continued first, which lets go of the log of what nobody goes on with."""
    assert isinstance(world.depot, MortalDepot)
    first = world.back_up().lineage
    world.depot.puts_left = 10
    with pytest.raises(Killed):
        run(world, full=True)
    world.depot.puts_left = 1 << 30
    for _ in range(3):
        world.commit(100)
        world.checkpoint()
    world.now_ms += 3 * 86_400_000
    report = run(world)
    assert (report.number, report.why_full) == (1, "")
    assert report.lineage != first
    assert report.pieces_kept > 0
    check_newest(world, tmp_path / "new")


def test_a_full_one_that_is_asked_for_asks_nothing_of_the_one_before_where_that_is_damaged(
    world: BackupWorld, tmp_path: Path
) -> None:
    first = world.back_up().lineage
    manifest = tmp_path / "depot" / first / "000001.json"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    world.commit(10)
    with pytest.raises(OperatorError, match="--full"):
        world.back_up()
    assert world.back_up(full=True).lineage != first
    check_newest(world, tmp_path / "new")
    assert world.back_up().number == 2


def test_no_log_is_kept_for_a_place_that_cannot_be_looked_into(world: BackupWorld, tmp_path: Path) -> None:
    class Locked(FolderDepot):
        def stamps(self, prefix: str = "") -> dict[str, str]:
            raise OperatorError("look into", self.place, "access denied", "check the keys", passes=True)

    good, world.depot = world.depot, Locked(tmp_path / "locked")
    with pytest.raises(OperatorError, match="access denied"):
        world.back_up()
    assert not Shipping(world.data).is_wanted
    world.depot = good
    world.back_up()
    world.depot = Locked(tmp_path / "locked")
    with pytest.raises(OperatorError, match="access denied"):
        world.back_up()
    assert Shipping(world.data).is_wanted, "for the good one"


def test_another_place_that_is_forgotten_takes_no_log_from_a_backup_that_begins(world: BackupWorld, tmp_path: Path) -> None:
    class Slow(FolderDepot):
        def stamps(self, prefix: str = "") -> dict[str, str]:
            with pytest.raises(BackupUnderWay):
                keep_no_log_for(world.data, "elsewhere")
            return super().stamps(prefix)

    world.depot = Slow(tmp_path / "depot")
    world.back_up()
    assert Shipping(world.data).is_wanted
    keep_no_log_for(world.data, "elsewhere")
    assert Shipping(world.data).is_wanted
    keep_no_log_for(world.data, world.depot.place)
    assert not Shipping(world.data).is_wanted
    keep_no_log_for(world.data, world.depot.place)


def test_a_link_in_the_place_of_the_lock_is_not_followed(world: BackupWorld, tmp_path: Path) -> None:
    world.back_up()
    (world.data / "shipping" / "lock").unlink()
    (world.data / "shipping" / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OperatorError, match="begin a backup"):
        world.back_up()
    assert not (tmp_path / "other").exists()


def test_no_log_is_kept_for_a_place_where_nothing_can_be_put(world: BackupWorld, tmp_path: Path) -> None:
    good = world.depot
    (tmp_path / "file").write_text("")
    world.depot = FolderDepot(tmp_path / "file")
    with pytest.raises(OperatorError, match="Not a directory"):
        world.back_up()
    assert not Shipping(world.data).is_wanted
    world.depot = good
    world.back_up()
    world.depot = FolderDepot(tmp_path / "file")
    with pytest.raises(OperatorError, match="Not a directory"):
        world.back_up()
    world.depot = good
    world.commit(200)
    world.checkpoint()
    assert world.back_up().number == 2
    assert shipped(world.data) == []


def test_a_place_that_is_not_used_any_longer_is_not_waited_for(world: BackupWorld, tmp_path: Path) -> None:
    first = world.depot
    world.depot = FolderDepot(tmp_path / "second")
    world.back_up()
    world.depot = first
    world.back_up()
    world.commit(200)
    world.checkpoint()
    world.now_ms += 8 * 86_400_000
    assert world.back_up().number == 2
    assert shipped(world.data) == []
    assert [path.stem for path in (world.data / "shipping").glob("*.json")] == [read_lineages(first).good[0].name]
