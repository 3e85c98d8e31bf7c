"""shard/log/commit_log.py: appends are durable, in order; a full log is refused cleanly, a broken one for ever."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import CommitLog, LogBroken, LogFull, LogWithoutRoom, list_segments
from tidegate.shard.log.reading import End, Gap, Opening, read_log
from tidegate.shard.log.segment import decode_header

SEGMENT = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "log" / "00000001-0000"


@pytest.fixture
def log(directory: Path) -> Iterator[CommitLog]:
    log = small_log(directory)
    yield log
    log.close()


def small_log(directory: Path, segments_max: int = 4) -> CommitLog:
    return CommitLog(directory, segment_bytes=SEGMENT, segment_bytes_first=SEGMENT, segments_max=segments_max)


def records(directory: Path) -> list[bytes]:
    return [bytes(item) for item in read_log(directory) if isinstance(item, memoryview)]


def fill(log: CommitLog, count: int, size: int = 900) -> list[bytes]:
    added = [b"%d:" % log.statistics().position + os.urandom(size) for _ in range(count)]
    for record in added:
        log.append(record)
    return added


def test_records_are_read_back_in_the_order_of_their_positions(log: CommitLog, directory: Path) -> None:
    assert [log.append(record) for record in (b"a", b"", b"c" * 2000)] == [1, 2, 3]
    assert records(directory) == [b"a", b"", b"c" * 2000]


def test_a_record_is_on_the_file_before_append_returns(log: CommitLog, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[list[bytes]] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        real(fd)
        synced.append(records(directory))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    log.append(b"a")
    log.append(b"b")
    assert synced == [[b"a"], [b"a", b"b"]]


def test_an_append_changes_neither_size_nor_blocks_of_the_file(log: CommitLog, directory: Path) -> None:
    [(_, path)] = list_segments(directory)
    before = path.stat()
    fill(log, 3)
    after = path.stat()
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert before.st_blocks * 512 >= SEGMENT, "the segment was written, not merely allocated"


def test_records_go_on_in_the_next_segment_and_are_all_read(log: CommitLog, directory: Path) -> None:
    added = fill(log, 12)
    assert len(list_segments(directory)) == 3
    assert records(directory) == added


def test_a_record_that_fills_a_segment_to_the_last_byte_fits(log: CommitLog, directory: Path) -> None:
    record = b"x" * (SEGMENT - 96 - 28)
    assert [log.append(record) for _ in range(3)] == [1, 2, 3]
    assert records(directory) == [record] * 3


def test_a_record_larger_than_any_segment_is_a_programming_error(log: CommitLog, directory: Path) -> None:
    with pytest.raises(ValueError, match="fits in no segment"):
        log.append(b"x" * SEGMENT)
    assert log.append(b"small") == 1
    assert records(directory) == [b"small"]


def test_a_full_log_refuses_writes_nothing_and_goes_on_after_truncation(log: CommitLog, directory: Path) -> None:
    added = fill(log, 16)
    with pytest.raises(LogFull, match="4 segments hold records not yet checkpointed"):
        log.append(b"x" * 900)
    assert records(directory) == added
    log.truncate(4)
    assert log.append(b"after" * 180) == 17
    assert records(directory) == [*added[4:], b"after" * 180]


def test_truncation_keeps_every_segment_that_holds_a_later_record(log: CommitLog, directory: Path) -> None:
    added = fill(log, 12)
    for position in range(1, 13):
        log.truncate(position)
        kept = records(directory)
        assert kept == added[len(added) - len(kept) :]
        assert len(kept) >= 12 - position
    assert log.statistics().segments_used == 1


def test_truncating_the_whole_log_recycles_and_stale_bytes_are_never_read(log: CommitLog, directory: Path) -> None:
    """Equal record sizes put new frames exactly over old ones: only the salt tells them apart."""
    for _ in range(5):
        fill(log, 9)
        log.truncate(log.statistics().position)
    assert len(list_segments(directory)) == log.statistics().segments_prepared + 1
    kept = records(directory)
    position = log.statistics().position
    added = fill(log, 1)
    assert records(directory) == kept + added
    assert added[0].startswith(b"%d:" % position)


def test_recycled_segments_are_used_again_instead_of_new_ones(log: CommitLog, directory: Path) -> None:
    fill(log, 12)
    log.truncate(12)
    inodes = {path.stat().st_ino for _, path in list_segments(directory)}
    fill(log, 8)
    assert {path.stat().st_ino for _, path in list_segments(directory)} == inodes


def test_a_segment_is_wanted_when_half_of_the_one_in_use_is_full(log: CommitLog, directory: Path) -> None:
    assert not log.needs_segment
    fill(log, 3)
    assert log.needs_segment
    log.prepare_segment()
    assert not log.needs_segment
    assert log.statistics().segments_prepared == 1
    log.prepare_segment()
    assert log.statistics().segments_prepared == 1, "one ahead is enough"
    added = records(directory) + fill(log, 6)
    assert records(directory) == added


def test_no_segment_is_wanted_beyond_the_limit(directory: Path) -> None:
    log = small_log(directory, segments_max=2)
    fill(log, 8)
    assert not log.needs_segment
    with pytest.raises(LogFull):
        log.prepare_segment()
    log.close()


def test_segments_double_in_size_up_to_the_limit_and_small_ones_are_not_kept(directory: Path) -> None:
    log = CommitLog(directory, segment_bytes=16384, segment_bytes_first=2048, segments_max=8)
    added = fill(log, 40)
    assert [path.stat().st_size for _, path in list_segments(directory)] == [2048, 4096, 8192, 16384, 16384]
    assert records(directory) == added
    log.truncate(40)
    assert {path.stat().st_size for _, path in list_segments(directory)} == {16384}
    log.close()


def test_a_record_too_large_for_the_first_small_segments_still_fits(directory: Path) -> None:
    log = CommitLog(directory, segment_bytes=16384, segment_bytes_first=2048, segments_max=8)
    log.append(b"x" * 15000)
    log.append(b"y")
    assert records(directory) == [b"x" * 15000, b"y"]
    log.close()


def test_a_record_too_large_for_the_prepared_segment_skips_it(directory: Path) -> None:
    log = CommitLog(directory, segment_bytes=16384, segment_bytes_first=2048, segments_max=8)
    fill(log, 1, 1500)
    log.prepare_segment()
    log.append(b"x" * 15000)
    log.append(b"y")
    assert records(directory)[1:] == [b"x" * 15000, b"y"]
    log.close()


def test_a_new_log_discards_what_its_directory_held(directory: Path) -> None:
    old = small_log(directory)
    fill(old, 9)
    old.close()
    new = small_log(directory)
    assert records(directory) == []
    new.append(b"new")
    assert records(directory) == [b"new"]
    new.close()


def fail_with(code: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def failing(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_after_a_failed_write_or_sync_the_log_is_broken_for_ever(
    log: CommitLog, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    log.append(b"good")
    fail_with(errno.EIO, monkeypatch, call)
    with pytest.raises(LogBroken, match="Input/output error"):
        log.append(b"bad")
    monkeypatch.undo()
    with pytest.raises(LogBroken, match="failed earlier"):
        log.append(b"never")
    assert log.is_broken
    assert not log.needs_segment


def test_a_failed_sync_of_a_new_segments_header_breaks_the_log(log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(log, 4)
    log.prepare_segment()
    fail_with(errno.EIO, monkeypatch, "fdatasync")
    with pytest.raises(LogBroken, match="start segment"):
        log.append(b"x" * 900)
    assert log.is_broken


def test_a_full_disk_refuses_the_append_and_it_succeeds_once_there_is_room(
    log: CommitLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = fill(log, 4)
    fail_with(errno.ENOSPC, monkeypatch, "pwritev")
    with pytest.raises(LogFull, match=r"No space left on device.*free at least"):
        log.append(b"x" * 900)
    monkeypatch.undo()
    assert len(list_segments(directory)) == 1, "the file that could not be filled is gone"
    added += fill(log, 1)
    assert records(directory) == added


def test_an_append_that_finds_no_room_where_zeros_were_written_is_refused_and_the_next_is_written_over_it(
    log: CommitLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that copies on write."""
    log.append(b"good")
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, offset: real(fd, [b"".join(parts)[:40]], offset))
    fail_with(errno.ENOSPC, monkeypatch, "pwrite")
    with pytest.raises(LogWithoutRoom, match="No space left on device"):
        log.append(b"refused" * 100)
    assert records(directory) == [b"good"]
    monkeypatch.undo()
    log.append(b"better")
    assert records(directory) == [b"good", b"better"]


def test_a_short_write_is_completed(log: CommitLog, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, offset: real(fd, [b"".join(parts)[:40]], offset))
    log.append(b"x" * 500)
    monkeypatch.undo()
    log.append(b"y")
    assert records(directory) == [b"x" * 500, b"y"]


def test_a_directory_that_cannot_be_made_is_reported_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    with pytest.raises(OperatorError, match=r"start log .*log/1"):
        CommitLog(tmp_path / "log" / "1")


def test_a_closed_log_takes_nothing(directory: Path) -> None:
    log = small_log(directory)
    log.close()
    with pytest.raises(LogBroken, match="closed"):
        log.append(b"x")


def test_each_use_of_a_segment_has_a_salt_of_its_own(log: CommitLog, directory: Path) -> None:
    """Positions alone tell old frames from new ones too; the salt does so even for the search behind a damaged frame."""
    salts: set[bytes] = set()
    for _ in range(6):
        fill(log, 8)
        salts.update(header.salt for _, path in list_segments(directory) if (header := decode_header(path.read_bytes())))
        log.truncate(log.statistics().position)
    assert len(salts) >= 12


class Trace:
    """What is created, removed and synced, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        self._fsync, self._open, self._unlink = os.fsync, os.open, os.unlink
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "unlink", self.unlink)

    def fsync(self, fd: int) -> None:
        self.events.append(("sync", Path(os.readlink(f"/proc/self/fd/{fd}")).name))
        self._fsync(fd)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self.events.append(("create", Path(path).name))
        return self._open(path, flags, mode)

    def unlink(self, path: Path) -> None:
        self.events.append(("remove", Path(path).name))
        self._unlink(path)


def test_old_segments_are_durably_gone_before_a_new_one_appears(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = small_log(directory)
    fill(old, 8)
    old.close()
    trace = Trace(monkeypatch)
    small_log(directory).close()
    events = trace.events
    removed = [event for event in events if event[0] == "remove"]
    assert [name for _, name in removed] == ["00000001.seg", "00000002.seg"]
    created = events.index(("create", "00000003.seg"))
    assert events.index(removed[-1]) < created
    assert ("sync", directory.name) in events[events.index(removed[-1]) : created]


def test_a_new_segment_is_durable_in_content_and_name_before_it_is_used(
    log: CommitLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(monkeypatch)
    log.prepare_segment()
    assert trace.events == [("create", "00000002.seg"), ("sync", "00000002.seg"), ("sync", directory.name)]


def test_a_recycled_segments_name_is_durable_before_it_is_used(log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(log, 9)
    prepared_when_synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        prepared_when_synced.append(log.statistics().segments_prepared)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    log.truncate(8)
    assert prepared_when_synced == [0], "an append in another thread could take it before"
    assert log.statistics().segments_prepared == 2


def test_a_log_that_cannot_be_started_now_may_be_started_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_with(errno.EIO, patch, "fdatasync")
        with pytest.raises(LogBroken, match="start log"):
            CommitLog(tmp_path / "log")
    CommitLog(tmp_path / "log").close()


LARGE = 4 * SEGMENT


def rested_log(directory: Path) -> CommitLog:
    """It has grown, and none of its records is needed any longer."""
    log = CommitLog(directory, segment_bytes=LARGE, segment_bytes_first=SEGMENT, segments_max=8)
    fill(log, 80)
    log.truncate(log.statistics().position)
    assert log.statistics().segments_prepared > 1
    return log


def size_of(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def test_a_log_that_rests_goes_back_to_one_small_segment_and_goes_on(directory: Path) -> None:
    log = rested_log(directory)
    position = log.statistics().position
    assert size_of(directory) > 2 * LARGE
    log.shrink(position)
    assert (size_of(directory), log.statistics().file_bytes, log.statistics().segments_used) == (SEGMENT, SEGMENT, 1)
    assert list(read_log(directory)) == [Opening(b""), End(position, None)]
    later = fill(log, 30)
    assert records(directory) == later
    log.close()


def test_a_log_of_one_small_segment_has_nothing_to_give_back_and_stays_as_it_is(log: CommitLog, directory: Path) -> None:
    [record] = fill(log, 1)
    before = list_segments(directory)
    log.shrink(1)
    assert list_segments(directory) == before
    assert records(directory) == [record]


def test_at_every_step_of_getting_small_a_log_says_how_far_it_had_got(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = rested_log(directory)
    fill(log, 1)
    position = log.statistics().position
    log.truncate(position)
    seen: list[tuple[int, int]] = []

    def watch(of: object, name: str) -> None:
        real = getattr(of, name)

        def watched(*arguments: object, **options: object) -> object:
            done = real(*arguments, **options)
            items = list(read_log(directory))
            assert not [item for item in items if isinstance(item, Gap)], (name, arguments)
            assert items[-1] == End(position, None), (name, arguments)
            seen.append((len(list_segments(directory)), len(records(directory))))
            return done

        monkeypatch.setattr(of, name, watched)

    for name in ("fsync", "fdatasync", "pwritev", "posix_fallocate"):
        watch(os, name)
    watch(Path, "unlink")
    log.shrink(position)
    assert seen[0][1] > 0
    assert seen[-1] == (1, 0)
    assert len({segments for segments, _ in seen}) > 2
    log.close()


def test_a_log_that_somebody_writes_to_again_stays_large(directory: Path) -> None:
    log = rested_log(directory)
    position, before = log.statistics().position, size_of(directory)
    [record] = fill(log, 1)
    log.shrink(position)
    assert size_of(directory) == before
    assert records(directory)[-1] == record
    log.close()


def test_what_is_kept_for_others_is_not_given_back(directory: Path) -> None:
    log = rested_log(directory)
    log.keep()
    before = list_segments(directory)
    log.shrink(log.statistics().position)
    assert list_segments(directory) == before
    log.close()


def test_a_log_gets_small_beside_appends_and_no_later_record_is_lost(directory: Path) -> None:
    log = rested_log(directory)
    first = log.statistics().position + 1
    added: list[bytes] = []

    def write() -> None:
        while len(added) < 300:
            with contextlib.suppress(LogFull):  # Until the other thread has its turn.
                added.extend(fill(log, 1))

    writer = threading.Thread(target=write)
    writer.start()
    done = 0
    while writer.is_alive():
        position = log.statistics().position
        log.truncate(position)
        log.shrink(position)
        done = position
    writer.join()
    assert log.statistics().position == first + 299
    left = records(directory)
    assert left == added[len(added) - len(left) :]
    assert len(left) >= first + 299 - done
    log.close()


# Halves of an append


def test_what_is_written_and_then_synced_by_others_is_appended_like_anything_else(log: CommitLog, directory: Path) -> None:
    assert log.append(b"a") == 1
    for position, record in ((2, b"b"), (3, b"c" * 900)):
        fd = log.write(record)
        assert fd is not None
        os.fdatasync(fd)
        assert log.statistics().position == position - 1
        assert log.synced(None) == position
    assert log.write(b"d") is not None
    assert log.sync() == 4
    assert records(directory) == [b"a", b"b", b"c" * 900, b"d"]


def test_a_write_that_would_have_to_wait_for_the_disk_or_somebody_else_writes_nothing(log: CommitLog, directory: Path) -> None:
    added = fill(log, 4)
    assert log.write(b"x" * 900) is None, "it takes the next segment"
    assert log.write(b"y") is not None
    assert log.write(b"z") is None, "the one before is not synced"
    log.sync()
    added += [b"y", *fill(log, 1)]
    assert records(directory) == added


def test_a_write_whose_sync_failed_elsewhere_breaks_the_log_for_ever(log: CommitLog) -> None:
    assert log.write(b"bad") is not None
    with pytest.raises(LogBroken, match="Input/output error"):
        log.synced(SystemError("Input/output error"))
    with pytest.raises(LogBroken, match="failed earlier: Input/output error"):
        log.write(b"never")
    with pytest.raises(LogBroken, match="failed earlier"):
        log.append(b"never")


def test_a_write_without_room_on_the_disk_is_refused_and_the_next_one_succeeds(
    log: CommitLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.ENOSPC, monkeypatch, "pwritev")
    with pytest.raises(LogFull, match="No space left on device"):
        log.write(b"x" * 900)
    monkeypatch.undo()
    assert log.write(b"y") is not None
    log.sync()
    assert records(directory) == [b"y"]
