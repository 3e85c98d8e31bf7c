"""shard/log/reading.py: a torn tail ends the log, damage in the middle is refused, and nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import CommitLog, list_segments
from tidegate.shard.log.reading import LogCorrupt, read_log
from tidegate.shard.log.segment import FRAME_BYTES, HEADER_BYTES

SEGMENT = 1024
RECORDS = [b"record %03d " % number + b"." * (number * 37 % 90) for number in range(30)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A log of several segments whose last record is not at the end of its segment."""
    directory = tmp_path / "log"
    log = CommitLog(directory, segment_bytes=SEGMENT, segment_bytes_first=SEGMENT, segments_max=20)
    for record in RECORDS:
        log.append(record)
    log.close()
    return directory


def records(directory: Path) -> list[bytes]:
    return [bytes(record) for record in read_log(directory)]


def last_frame(directory: Path) -> tuple[Path, int, int]:
    path = list_segments(directory)[-1][1]
    start = path.read_bytes().index(RECORDS[-1]) - FRAME_BYTES
    return path, start, start + FRAME_BYTES + len(RECORDS[-1])


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 0x10]))


def test_an_undamaged_log_is_read_whole(directory: Path) -> None:
    assert records(directory) == RECORDS


def test_an_empty_or_missing_directory_is_an_empty_log(tmp_path: Path) -> None:
    assert records(tmp_path) == []
    assert records(tmp_path / "missing") == []


@pytest.mark.parametrize("filler", [b"\0", b"\xa5"])
def test_a_last_record_torn_at_any_byte_ends_the_log_before_it(directory: Path, filler: bytes) -> None:
    path, start, end = last_frame(directory)
    whole = path.read_bytes()
    for cut in range(start, end):
        if filler * (end - cut) == whole[cut:end]:
            continue
        path.write_bytes(whole[:cut] + filler * (end - cut) + whole[end:])
        assert records(directory) == RECORDS[:-1], cut


def test_a_file_cut_short_at_any_byte_of_the_last_record_ends_the_log_before_it(directory: Path) -> None:
    path, start, end = last_frame(directory)
    whole = path.read_bytes()
    for cut in range(start, end):
        path.write_bytes(whole[:cut])
        assert records(directory) == RECORDS[:-1], cut
    path.write_bytes(whole[:end])
    assert records(directory) == RECORDS


def test_the_head_of_a_record_may_be_lost_while_its_end_was_written(directory: Path) -> None:
    """The disk writes the pages of one append in any order."""
    path, start, _ = last_frame(directory)
    overwrite(path, start, bytes(FRAME_BYTES))
    assert records(directory) == RECORDS[:-1]


def test_a_flipped_bit_in_any_earlier_record_is_refused(directory: Path) -> None:
    for number, path in list_segments(directory):
        pristine = path.read_bytes()
        used = len(pristine.rstrip(b"\0."))
        _, last_start, _ = last_frame(directory)
        last = number == list_segments(directory)[-1][0]
        for offset in range(HEADER_BYTES, last_start if last else used, 41):
            flip(path, offset)
            with pytest.raises(LogCorrupt, match="read log"):
                records(directory)
            path.write_bytes(pristine)
    assert records(directory) == RECORDS


def test_the_refusal_names_operation_place_and_next_step(directory: Path) -> None:
    path = list_segments(directory)[0][1]
    flip(path, HEADER_BYTES + 30)
    with pytest.raises(LogCorrupt) as caught:
        records(directory)
    assert str(caught.value).startswith(f"read log {path}: record 1 at byte 64 is damaged, but a good one follows at byte ")
    assert caught.value.hint.startswith("the disk lost confirmed records: check it, and restore")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_damaged_header_of_a_used_segment_is_refused(directory: Path, index: int) -> None:
    flip(list_segments(directory)[index][1], 9)
    with pytest.raises(LogCorrupt):
        records(directory)


def test_a_damaged_header_of_the_last_segment_is_refused_too(directory: Path) -> None:
    path = list_segments(directory)[-1][1]
    flip(path, 9)
    with pytest.raises(LogCorrupt, match="header is damaged, and records follow it"):
        records(directory)


def test_a_wiped_header_of_the_last_segment_is_refused_too(directory: Path) -> None:
    overwrite(list_segments(directory)[-1][1], 0, bytes(HEADER_BYTES))
    with pytest.raises(LogCorrupt, match="header is damaged"):
        records(directory)


@pytest.mark.parametrize("wiped", [False, True])
def test_a_damaged_header_of_the_only_segment_is_refused(tmp_path: Path, wiped: bool) -> None:
    log = CommitLog(tmp_path, segment_bytes=SEGMENT, segment_bytes_first=SEGMENT)
    log.append(b"confirmed")
    log.close()
    [(_, path)] = list_segments(tmp_path)
    if wiped:
        overwrite(path, 0, bytes(HEADER_BYTES))
    else:
        flip(path, 9)
    with pytest.raises(LogCorrupt, match="header is damaged"):
        records(tmp_path)


def test_what_a_discarding_left_half_done_is_no_damage(directory: Path) -> None:
    """The worker died while it removed the segments of the log before: some recycled ones may be all that is left."""
    segments = list_segments(directory)
    segments[0][1].rename(directory / f"{segments[-1][0] + 1:08d}.seg")
    for _, path in segments[1:]:
        path.unlink()
    assert records(directory) == []


def test_a_missing_segment_in_the_middle_is_refused(directory: Path) -> None:
    list_segments(directory)[1][1].unlink()
    with pytest.raises(LogCorrupt, match="segment 2 before it is missing"):
        records(directory)


def test_an_empty_file_in_the_middle_is_refused(directory: Path) -> None:
    list_segments(directory)[1][1].write_bytes(b"")
    with pytest.raises(LogCorrupt, match="later segment is in use"):
        records(directory)


def test_a_torn_record_at_the_end_of_a_segment_before_a_used_one_is_refused(directory: Path) -> None:
    path = list_segments(directory)[0][1]
    end = len(path.read_bytes().rstrip(b"\0"))
    flip(path, end - 1)
    with pytest.raises(LogCorrupt, match="comes next"):
        records(directory)


def test_prepared_segments_after_the_end_do_not_matter(directory: Path) -> None:
    number, path = list_segments(directory)[-1]
    (directory / f"{number + 1:08d}.seg").write_bytes(bytes(SEGMENT))
    shutil.copy(list_segments(directory)[0][1], directory / f"{number + 2:08d}.seg")  # Recycled: it has its old header.
    (directory / "note.txt").write_text("not ours")
    assert records(directory) == RECORDS
    assert path.exists()


def test_a_segment_started_but_without_a_record_is_the_end(directory: Path) -> None:
    log = CommitLog(directory, segment_bytes=SEGMENT, segment_bytes_first=SEGMENT, segments_max=20)
    assert records(directory) == []
    log.close()


def test_a_segment_of_an_unknown_format_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.log.segment.FORMAT", 2)
    with pytest.raises(OperatorError, match="format 1 is not known to this version"):
        records(directory)
