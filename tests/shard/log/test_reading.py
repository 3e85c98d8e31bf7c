"""shard/log/reading.py: a torn record at the end was never confirmed; whatever else is missing is told, and the rest is read."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from zlib import crc32

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import CommitLog, LogBroken, list_segments
from tidegate.shard.log.reading import End, Gap, Opening, read_log
from tidegate.shard.log.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    SegmentHeader,
    encode_frame_head,
    encode_header,
)

SEGMENT = 1024
RECORDS = [b"record %03d " % number + b"." * (number * 37 % 90) for number in range(1, 31)]


def make_log(directory: Path, records: list[bytes]) -> CommitLog:
    log = CommitLog(directory, segment_bytes=SEGMENT, segment_bytes_first=SEGMENT, segments_max=20)
    for record in records:
        log.append(record)
    return log


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A log of several segments whose last record is not at the end of its segment."""
    directory = tmp_path / "log"
    make_log(directory, RECORDS).close()
    return directory


def items(directory: Path) -> list[bytes | Opening | Gap | End]:
    return [bytes(item) if isinstance(item, memoryview) else item for item in read_log(directory)]


def records(directory: Path) -> list[bytes]:
    """Of a log from which nothing is missing."""
    assert gaps(directory) == []
    return [item for item in items(directory) if isinstance(item, bytes)]


def gaps(directory: Path) -> list[tuple[int, int | None]]:
    return [(item.first, item.last) for item in items(directory) if isinstance(item, Gap)]


def expect_missing(directory: Path, *missing: int, more: bool = False) -> list[Gap]:
    """Exactly these records are told to be missing (`more`: and nobody knows how many more), in their places."""
    found: list[int] = []
    told: list[int] = []
    position = 0
    for item in items(directory):
        if isinstance(item, bytes):
            position += 1
            assert item == RECORDS[position - 1]
            found.append(position)
        elif isinstance(item, Gap):
            assert item.first == position + 1
            position = len(RECORDS) if item.last is None else item.last
            told += range(item.first, position + 1)
    assert told == list(missing)
    assert sorted(found + told) == list(range(1, len(RECORDS) + 1))
    return [item for item in items(directory) if isinstance(item, Gap)]


def place_of(directory: Path, position: int) -> tuple[Path, int, int]:
    """The file with this record, where its frame begins, and where it ends."""
    record = RECORDS[position - 1]
    for _, path in list_segments(directory):
        if (at := path.read_bytes().find(record)) >= 0:
            start = at - FRAME_BYTES if position & 1 else at
            return path, start, start + FRAME_BYTES + len(record)
    raise AssertionError(position)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bits: int = 1) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ ((1 << bits) - 1)]))


def test_an_undamaged_log_is_read_whole(directory: Path) -> None:
    assert records(directory) == RECORDS
    assert items(directory)[0] == Opening(b"")
    assert items(directory)[-1] == End(len(RECORDS), None)


def test_what_the_owner_says_at_the_beginning_of_each_segment_comes_before_its_records(tmp_path: Path) -> None:
    written: list[bytes] = []
    prologue = lambda: b"after %d" % len(written)  # noqa: E731
    log = CommitLog(tmp_path, segment_bytes=SEGMENT, segment_bytes_first=SEGMENT, segments_max=20, prologue=prologue)
    for record in RECORDS:
        log.append(record)
        written.append(record)
    log.close()
    seen = 0
    for item in items(tmp_path):
        if isinstance(item, Opening):
            assert item.prologue == b"after %d" % seen
        seen += isinstance(item, bytes)
    assert seen == len(RECORDS)


def test_an_empty_or_missing_directory_is_an_empty_log(tmp_path: Path) -> None:
    assert items(tmp_path) == []
    assert items(tmp_path / "missing") == []


@pytest.mark.parametrize("last", [29, 30])
@pytest.mark.parametrize("filler", [b"\0", b"\xa5"])
def test_a_last_record_torn_at_any_byte_ends_the_log_before_it(tmp_path: Path, filler: bytes, last: int) -> None:
    make_log(tmp_path, RECORDS[:last]).close()
    path, start, end = place_of(tmp_path, last)
    whole = path.read_bytes()
    for cut in range(start, end):
        torn = whole[:cut] + filler * (end - cut) + whole[end:]
        if sum((a ^ b).bit_count() for a, b in zip(torn, whole, strict=True)) < 2:
            continue
        path.write_bytes(torn)
        assert records(tmp_path) == RECORDS[: last - 1], cut
        told = items(tmp_path)[-1]
        assert isinstance(told, End)
        assert told.position == last - 1
        if last == 29 and cut >= start + 8:
            assert told.torn == path, "it is said that one was dropped"


def test_the_head_of_a_record_may_be_lost_while_its_end_was_written(directory: Path) -> None:
    """The disk writes the pages of one append in any order."""
    path, _, end = place_of(directory, 30)
    overwrite(path, end - FRAME_BYTES, bytes(FRAME_BYTES))
    assert records(directory) == RECORDS[:-1]


def test_a_flipped_bit_anywhere_in_any_record_is_told_and_the_others_are_read(directory: Path) -> None:
    for position in range(1, len(RECORDS) + 1):
        path, start, end = place_of(directory, position)
        pristine = path.read_bytes()
        for offset in range(start, end, 13):
            flip(path, offset)
            expect_missing(directory, position)
            path.write_bytes(pristine)
    assert records(directory) == RECORDS


def test_a_gap_names_its_place_and_says_what_proves_it(directory: Path) -> None:
    path, start, _ = place_of(directory, 1)
    flip(path, start + 3)
    [gap] = expect_missing(directory, 1)
    assert gap == Gap(path, 1, 1, "record 1: damaged, but a good one follows")


def test_several_damaged_records_are_several_gaps(directory: Path) -> None:
    for position in (2, 3, 7, 20):
        path, start, _ = place_of(directory, position)
        overwrite(path, start, bytes(40))
    expect_missing(directory, 2, 3, 7, 20)
    assert gaps(directory) == [(2, 3), (7, 7), (20, 20)]


def test_a_zeroed_tail_of_records_is_told_whichever_way_it_is_zeroed(directory: Path) -> None:
    """Of the newest records only the very last one can go unseen."""
    path = place_of(directory, 30)[0]
    whole = path.read_bytes()
    first = next(position for position in range(1, 31) if place_of(directory, position)[0] == path)
    first += first % 2 == 0
    for cut in range(first + 2, 30, 2):  # From a byte on to the end of the file.
        overwrite(path, place_of(directory, cut)[1], bytes(len(whole) - place_of(directory, cut)[1]))
        assert gaps(directory)[0][0] <= cut, cut
        path.write_bytes(whole)
    low = place_of(directory, 29)[2]
    for cut in range(first + 2, 30, 2):
        path.write_bytes(whole)
        overwrite(path, place_of(directory, cut)[1], bytes(low - place_of(directory, cut)[1]))
        expect_missing(directory, *range(cut, 30, 2))


def test_records_are_told_to_be_lost_if_the_head_of_a_later_one_is_left(directory: Path) -> None:
    path = place_of(directory, 30)[0]
    whole = path.read_bytes()
    first = 1 + next(position for position in range(1, 31) if place_of(directory, position)[0] == path)
    places = {position: place_of(directory, position)[1:] for position in range(first, 31)}
    for last in range(first, 31):
        start, end = places[last]
        head = start if last % 2 else end - FRAME_BYTES
        hurt = bytearray(whole)
        for start, end in places.values():
            hurt[start:end] = bytes(end - start)
        hurt[head : head + FRAME_BYTES] = whole[head : head + FRAME_BYTES]
        path.write_bytes(hurt)
        assert gaps(directory) == ([(first, last - 1)] if last > first else [])
        hurt[head + 12 : head + 20] = b"\xff" * 8  # What it says of its position is damaged, too.
        path.write_bytes(hurt)
        assert gaps(directory) == ([(first, None)] if last > first else [])


def test_a_file_cut_short_is_told_wherever_it_is_cut(directory: Path) -> None:
    for _, path in list_segments(directory):
        whole = path.read_bytes()
        for cut in range(0, SEGMENT - 1, 64):
            path.write_bytes(whole[:cut])
            if path != list_segments(directory)[0][1] or cut >= HEADER_BYTES:  # What a log begins with is for others to know.
                assert gaps(directory), cut
        path.write_bytes(whole)


def test_a_segment_whose_header_has_a_flipped_bit_is_read_all_the_same(directory: Path) -> None:
    for _, path in list_segments(directory):
        pristine = path.read_bytes()
        for offset in range(56):
            flip(path, offset)
            assert records(directory) == RECORDS
            path.write_bytes(pristine)


@pytest.mark.parametrize("index", [0, 1, -1])
@pytest.mark.parametrize("damage", ["wiped", "missing", "empty", "not ours"])
def test_a_segment_that_is_lost_is_told(directory: Path, index: int, damage: str) -> None:
    path = list_segments(directory)[index][1]
    lost = [position for position in range(1, 31) if place_of(directory, position)[0] == path]
    if damage == "wiped":
        overwrite(path, 0, bytes(HEADER_BYTES))
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"\xa5" * SEGMENT)
    if index == 0:  # What a log begins with is for others to know: it forgets.
        assert gaps(directory) == []
        assert [item for item in items(directory) if isinstance(item, bytes)] == RECORDS[len(lost) :]
    else:
        [gap] = expect_missing(directory, *lost)
        assert (gap.last is None) == (index == -1)
        if index == -1:
            assert gap.problem == f"segment {int(path.stem)}, which continues the log, is missing or has a damaged header"


def test_what_a_discarding_left_half_done_is_no_damage(directory: Path) -> None:
    """The worker died while it removed the segments of the log before: some recycled ones may be all that is left."""
    segments = list_segments(directory)
    segments[0][1].rename(directory / f"{segments[-1][0] + 1:08d}.seg")
    for _, path in segments[1:]:
        path.unlink()
    assert items(directory) == []


def test_prepared_segments_after_the_end_do_not_matter(directory: Path) -> None:
    number, path = list_segments(directory)[-1]
    (directory / f"{number + 1:08d}.seg").write_bytes(bytes(SEGMENT))
    shutil.copy(list_segments(directory)[0][1], directory / f"{number + 2:08d}.seg")  # Recycled: it has its old header.
    (directory / "note.txt").write_text("not ours")
    assert records(directory) == RECORDS
    assert path.exists()


def test_a_segment_started_but_without_a_record_is_the_end(tmp_path: Path) -> None:
    make_log(tmp_path, []).close()
    assert items(tmp_path) == [Opening(b""), End(0, None)]


def test_a_worker_that_died_before_it_sealed_a_segment_has_lost_nothing(directory: Path) -> None:
    _, path = list_segments(directory)[0]
    overwrite(path, 64, bytes(20))
    assert records(directory) == RECORDS


def test_what_a_log_has_kept_for_others_is_read_in_its_place(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log", RECORDS[:20])
    log.keep()
    used = log.segments_used
    for record in RECORDS[20:]:
        log.append(record)
    log.truncate(len(RECORDS))
    log.close()
    assert len(list_segments(tmp_path / "log")) > used
    assert len(list((tmp_path / "log-kept").iterdir())) >= used
    kept = [item for item in items(tmp_path / "log") if isinstance(item, bytes)]
    assert kept[:20] == RECORDS[:20]


def test_a_segment_of_an_unknown_format_is_refused(directory: Path) -> None:
    path = list_segments(directory)[0][1]
    body = path.read_bytes()[:8] + b"\x09\0\0\0" + path.read_bytes()[12:52]
    overwrite(path, 0, body + crc32(body).to_bytes(4, "little"))
    with pytest.raises(OperatorError, match="format 9 is not known to this version"):
        items(directory)


# The older format


@pytest.fixture
def old_directory(tmp_path: Path) -> Path:
    """As an earlier version wrote it: all frames in one row, no seal."""
    directory = tmp_path / "old"
    directory.mkdir()
    position, link = 1, 0
    for number in (1, 2, 3):
        header = SegmentHeader(b"salt %03d" % number, number, position, link)
        data = encode_header(header)
        for record in RECORDS[10 * number - 10 : 10 * number]:
            head, link = encode_frame_head(header.salt, position, link, record)
            data += head + record
            position += 1
        (directory / f"{number:08d}.seg").write_bytes(data.ljust(2 * SEGMENT, b"\0"))
    return directory


def test_a_log_of_the_older_format_is_read_whole(old_directory: Path) -> None:
    assert records(old_directory) == RECORDS


def test_a_flipped_bit_in_a_log_of_the_older_format_is_told_too(old_directory: Path) -> None:
    for position in (1, 5, 10, 11, 30):
        [(path, at)] = [(path, path.read_bytes().find(RECORDS[position - 1])) for _, path in list_segments(old_directory)
                        if RECORDS[position - 1] in path.read_bytes()]  # fmt: skip
        pristine = path.read_bytes()
        for offset in range(at - FRAME_BYTES, at + len(RECORDS[position - 1]), 7):
            flip(path, offset)
            expect_missing(old_directory, position)
            path.write_bytes(pristine)


def test_a_damaged_header_of_the_older_format_is_told_too(old_directory: Path) -> None:
    for index in (0, 1, 2):
        path = list_segments(old_directory)[index][1]
        pristine = path.read_bytes()
        overwrite(path, 0, bytes(64))
        assert gaps(old_directory)
        path.write_bytes(pristine)


def test_a_log_that_cannot_be_read_now_may_be_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = CommitLog(tmp_path / "log")
    log.append(b"record")
    log.close()

    def fails(path: Path, mode: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        with pytest.raises(LogBroken):
            list(read_log(tmp_path / "log"))
    assert [item for item in read_log(tmp_path / "log") if isinstance(item, memoryview)] == [b"record"]
