"""shard/backup/log_records.py: the records of logs that are being written, moved and left."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import Shipping
from tidegate.shard.backup.log_records import logs_of, shipped, stretches
from tidegate.shard.log.commit_log import CommitLog
from tidegate.shard.store.logs import log_path


def make_log(data: Path, run: int = 0, *, ships: bool = True) -> CommitLog:
    path = log_path(data, 1, 0, run)
    if ships:
        (data / "shipping").mkdir(exist_ok=True)
    ship = lambda segment: Shipping(data).take(segment, path.name)  # noqa: E731
    return CommitLog(path, segment_bytes=8 << 10, segment_bytes_first=8 << 10, prologue=lambda: b"\x80", ship=ship)


def records(data: Path, positions: dict[str, int] | None = None) -> list[tuple[str, int, bytes]]:
    found = []
    for each in stretches(data, positions or {}):
        found += [(each.log, at, record) for at, record in enumerate(each.records, each.first)]
    return found


def fill(log: CommitLog, count: int = 100) -> list[bytes]:
    """Several segments."""
    written = [b"%d " % number + bytes(500) for number in range(count)]
    for record in written:
        log.append(record)
        if log.needs_segment:
            log.prepare_segment()
        log.truncate(log.statistics().position - 20)
    return written


def test_every_record_is_found_whether_its_segment_is_needed_kept_or_shipped(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    written = fill(log)
    name = log_path(tmp_path, 1, 0).name
    assert len(shipped(tmp_path)) > 3
    assert records(tmp_path) == [(name, at, record) for at, record in enumerate(written, 1)]
    log.close()


def test_records_of_several_logs_come_in_the_order_of_their_processes(tmp_path: Path) -> None:
    for run in (0, 1, 2):
        log = make_log(tmp_path, run)
        fill(log, 30)
        log.close()
    assert logs_of(tmp_path) == [f"00000001-0000-000{run}" for run in (0, 1, 2)]
    assert [name for name, *_ in records(tmp_path)] == sorted(logs_of(tmp_path) * 30)


def test_segments_that_were_read_to_their_end_are_not_read_again(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    written = fill(log)
    name = log_path(tmp_path, 1, 0).name
    later = list(stretches(tmp_path, {name: 95}))
    assert later[0].first > 80
    assert later[-1].last == 100
    assert [record for *_, record in records(tmp_path, {name: 95})][-5:] == written[-5:]
    assert records(tmp_path, {name: 100}) == []
    log.close()


def test_what_is_written_between_two_segments_that_are_read_is_not_left_out(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    written = fill(log, 20)
    found: list[bytes] = []
    for each in stretches(tmp_path, {}):
        found += each.records
        if len(written) < 100:
            written += fill(log, 20)  # The segments that were listed are moved meanwhile.
    assert len(found) > 20
    assert found == written[: len(found)]
    log.close()


def test_without_the_folder_segments_are_used_again_and_records_are_missing(tmp_path: Path) -> None:
    log = make_log(tmp_path, ships=False)
    fill(log)
    assert shipped(tmp_path) == []
    assert 1 < records(tmp_path)[0][1] <= 81
    log.close()


def test_a_log_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    fill(log, 3)
    log.close()
    segment = log_path(tmp_path, 1, 0) / "00000001.seg"
    whole = segment.read_bytes()
    body = whole[:8] + (9).to_bytes(4, "little") + whole[12:52]
    segment.write_bytes(body + crc32(whole[96:97], crc32(body)).to_bytes(4, "little") + whole[56:])
    with pytest.raises(OperatorError, match="format 9 is not known"):
        records(tmp_path)


def test_a_segment_that_was_begun_since_they_were_listed_does_not_hide_the_rest_of_the_one_before(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    written = fill(log, 3)
    log.prepare_segment()  # It is listed, and not in use.
    found: list[bytes] = []
    for each in stretches(tmp_path, {}):
        assert each.first <= len(found) + 1, "a record is missing"
        found += each.records[len(found) + 1 - each.first :]
        if len(written) < 30:
            written += fill(log, 30)
    assert len(found) > 3
    assert found == written[: len(found)]
    log.close()
