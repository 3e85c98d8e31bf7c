"""shard/store/logs.py: which logs there are, and what a log mark covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import CommitLog
from tidegate.shard.store.logs import (
    NO_RUN,
    LogDirectory,
    LogMark,
    decode_mark,
    list_logs,
    log_path,
    logs_to_recover,
    next_run,
    own_logs,
)


def log_of(start: int, worker: int = 0, run: int = 0) -> LogDirectory:
    return LogDirectory(start, worker, run, Path("log"))


def test_logs_are_listed_in_the_order_in_which_they_were_written_and_nothing_else_is(tmp_path: Path) -> None:
    wanted = [(1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 0, 1), (2, 0, 10), (100_000_000, 0, 0)]
    for numbers in reversed(wanted[1:]):
        log_path(tmp_path, *numbers).mkdir(parents=True)
    (tmp_path / "log" / "00000001-0000").mkdir()  # As an older version names it.
    for other in ("00000001-0000-0000-kept", "deleted-00000001-0000-0000", "lost+found", "probe-1", "x-y"):
        (tmp_path / "log" / other).mkdir()
    assert [log[:3] for log in list_logs(tmp_path)] == wanted
    assert [log[:3] for log in logs_to_recover(tmp_path, 2, 0)] == wanted[:5]
    assert [log[:3] for log in own_logs(tmp_path, 2, 0, before_run=10)] == [(2, 0, 0), (2, 0, 1)]


def test_what_cannot_be_looked_into_is_not_taken_for_empty(tmp_path: Path) -> None:
    """Whoever misses a log stops a shard, and a repair writes it off."""
    log_path(tmp_path, 1, 0).parent.mkdir()
    log_path(tmp_path, 1, 0).symlink_to(log_path(tmp_path, 1, 0))  # A folder without permission, for whoever may do everything.
    with pytest.raises(OperatorError, match=r"look into .*-0000-0000: Too many levels of symbolic links"):
        next_run(tmp_path, 1, 0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log").symlink_to("log")
    with pytest.raises(OperatorError, match=r"look into .*log: Too many levels of symbolic links"):
        list_logs(tmp_path / "other")


def test_a_run_in_which_something_was_written_is_never_used_again(tmp_path: Path) -> None:
    assert next_run(tmp_path, 3, 1) == 0
    CommitLog(log_path(tmp_path, 3, 1, 0), segment_bytes=4096, segment_bytes_first=4096).close()
    CommitLog(log_path(tmp_path, 3, 2, 5), segment_bytes=4096, segment_bytes_first=4096).close()
    assert next_run(tmp_path, 3, 1) == 1
    log_path(tmp_path, 3, 1, 1).mkdir()  # There was no room.
    assert next_run(tmp_path, 3, 1) == 1


def test_a_mark_is_read_back_and_any_flipped_bit_of_it_is_noticed() -> None:
    mark = LogMark(7, 1, 2, 1 << 40)
    data = mark.encode()
    assert decode_mark(data) == mark
    assert decode_mark(b"") is None
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="damaged"):
            decode_mark(bytes(changed))
    with pytest.raises(ValueError, match="damaged"):
        decode_mark(data[:-1])


@pytest.mark.parametrize(
    ("log", "position", "covered"),
    [
        (log_of(4), None, True), (log_of(4, worker=9), 1 << 50, True), (log_of(6), 1, False),
        (log_of(5, 1, 2), 10, True), (log_of(5, 1, 2), 11, False), (log_of(5, 1, 2), None, False),
        (log_of(5, 1, 1), None, True), (log_of(5, 1, 3), 1, False), (log_of(5, 0, 0), 1, False),
    ],
)  # fmt: skip
def test_a_mark_covers_earlier_logs_and_its_own_up_to_its_position(
    log: LogDirectory, position: int | None, covered: bool
) -> None:
    assert LogMark(5, 1, 2, 10).covers(log, position) is covered


def test_a_mark_without_a_run_needs_no_log_and_covers_its_start() -> None:
    mark = LogMark(5, 0, NO_RUN)
    assert not mark.names_log
    assert [mark.covers(log_of(start, 3), None) for start in (4, 5, 6)] == [True, True, False]
