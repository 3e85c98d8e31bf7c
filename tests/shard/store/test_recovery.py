"""shard/store/recovery.py: everything durable is in the states before a worker serves, or it refuses."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

import tidegate.shard.store.recovery as recovery
from tidegate.shard.log.commit_log import CommitLog, list_segments
from tidegate.shard.log.reading import LogCorrupt
from tidegate.shard.store.answers import ANSWERS_KEY, AnswerTable
from tidegate.shard.store.interface import Answer, ObjectWrites, ShardCommit, ShardUnwritable
from tidegate.shard.store.logs import LogMark, list_logs, log_path, logs_to_recover
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.recovery import Recovery, encode_seqs, recover, salvaged
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ShardStore, StoreFailed

KEY = b"\0\1" + b"object".ljust(14)


def commit(shard: int, seq: int, writes: dict[str, bytes | None], cleared: bool = False) -> ShardCommit:
    return ShardCommit(shard, seq, [ObjectWrites(KEY, cleared, writes)])


def write_log(data_dir: Path, start: int, worker: int, records: Sequence[Sequence[ShardCommit]]) -> None:
    log = CommitLog(log_path(data_dir, start, worker), segment_bytes=4096, segment_bytes_first=4096, segments_max=100)
    for commits in records:
        log.append(encode_record(CommitRecord(0, list(commits))))
    log.close()


def damage(data_dir: Path, state: MemoryState, start: int) -> str:
    """The reason why the shard is not served."""
    return recover(data_dir, [state], start, 0).damaged[state.shard].problem


def values(state: MemoryState) -> dict[str, bytes]:
    return dict(ShardStore(state).scan(KEY))


def test_nothing_to_recover_is_fine(tmp_path: Path) -> None:
    report = recover(tmp_path, [MemoryState(0)], 1, 0)
    assert report[:4] == (0, 0, 0, 0)


def test_every_commit_above_the_applied_sequence_is_applied_in_order(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, seq, {"n": b"%d" % seq, f"k{seq}": b""})] for seq in range(1, 6)])
    state = MemoryState(0)
    state.replace_rows({KEY + b"n": b"old"}, 3)
    report = recover(tmp_path, [state], 2, 0)
    assert values(state) == {"n": b"5", "k4": b"", "k5": b""}
    assert state.applied_seq == 5
    assert (report.logs, report.records, report.commits, report.entries) == (1, 5, 2, 3)


def test_a_shard_is_gathered_from_the_logs_of_several_workers_and_starts(tmp_path: Path) -> None:
    """Shard 1 moved from worker 1 of 2 to worker 0 of 1 and on to worker 1 of 4."""
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1"})]])
    write_log(tmp_path, 1, 1, [[commit(1, 1, {"n": b"1"})]])
    write_log(tmp_path, 2, 0, [[commit(0, 2, {"a": b"2"}), commit(1, 2, {"n": b"2", "m": b"2"})]])
    write_log(tmp_path, 10, 1, [[commit(1, 3, {"n": b"3"})]])
    states = [MemoryState(0), MemoryState(1)]
    recover(tmp_path, states, 11, 0)
    assert values(states[0]) == {"a": b"2"}
    assert values(states[1]) == {"n": b"3", "m": b"2"}
    assert [state.applied_seq for state in states] == [2, 3]


def test_other_shards_are_left_alone(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1"}), commit(1, 500, {"b": b"1"})]])
    state = MemoryState(0)
    assert recover(tmp_path, [state], 2, 0).commits == 1
    assert values(state) == {"a": b"1"}


def test_only_earlier_starts_and_the_workers_own_log_are_read(tmp_path: Path) -> None:
    for start, worker in ((1, 0), (1, 1), (2, 0), (2, 1), (3, 0)):
        write_log(tmp_path, start, worker, [])
    (tmp_path / "log" / "lost+found").mkdir()
    assert [(log.start, log.worker) for log in list_logs(tmp_path)] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    assert [(log.start, log.worker) for log in logs_to_recover(tmp_path, 2, 1)] == [(1, 0), (1, 1), (2, 1)]


def test_a_worker_that_starts_again_recovers_its_own_log(tmp_path: Path) -> None:
    write_log(tmp_path, 7, 1, [[commit(1, 1, {"a": b"1"})]])
    state = MemoryState(1)
    recover(tmp_path, [state], 7, 1)
    assert values(state) == {"a": b"1"}


def test_clearing_and_deleting_are_recovered(tmp_path: Path) -> None:
    write_log(
        tmp_path, 1, 0,
        [
            [commit(0, 1, {"a": b"1", "b": b"1"})],
            [commit(0, 2, {"c": b"2"}, cleared=True)],
            [commit(0, 3, {"d": b"3", "c": None})],
        ],
    )  # fmt: skip
    state = MemoryState(0)
    state.replace_rows({KEY + b"old": b"x", KEY + b"": b"header", b"\0\2" + KEY[2:] + b"other": b"stays"}, 0)
    recover(tmp_path, [state], 2, 0)
    assert state.rows == {KEY + b"d": b"3", b"\0\2" + KEY[2:] + b"other": b"stays"}


def test_recovering_twice_changes_nothing(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, seq, {"n": b"%d" % seq}, cleared=seq == 3)] for seq in range(1, 6)])
    state = MemoryState(0)
    recover(tmp_path, [state], 2, 0)
    rows = dict(state.rows)
    report = recover(tmp_path, [state], 3, 0)
    assert (report.commits, report.entries) == (0, 0)
    assert state.rows == rows


def test_a_state_that_seems_up_to_date_is_committed_again(tmp_path: Path) -> None:
    """The worker before may have died of a failed sync: what its state shows may be in the page cache only."""
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1"})]])
    state = MemoryState(0)
    state.replace_rows({KEY + b"a": b"1"}, 1)
    commits = state.commits
    recover(tmp_path, [state], 2, 0)
    assert state.commits == commits + 1


def test_a_gap_in_a_shards_commits_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1"})]])
    write_log(tmp_path, 3, 0, [[commit(0, 3, {"a": b"3"})]])
    state = MemoryState(0)
    problem = damage(tmp_path, state, 4)
    assert problem.startswith("commit 2 of shard 0 is missing: commit 3 comes after commit 1")
    assert values(state) == {}
    assert gc.isenabled()


def test_a_log_that_begins_too_late_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 5, {"a": b"1"})]])
    state = MemoryState(0)
    state.replace_rows({}, 3)
    assert damage(tmp_path, state, 2).startswith("commit 4 of shard 0 is missing: commit 5 comes after commit 3")


def test_two_logs_with_the_same_commit_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1"})]])
    write_log(tmp_path, 1, 1, [[commit(0, 1, {"a": b"2"})]])
    assert damage(tmp_path, MemoryState(0), 2).startswith("commit 1 of shard 0 occurs a second time")


def test_a_record_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    log = CommitLog(log_path(tmp_path, 1, 0), segment_bytes=4096, segment_bytes_first=4096)
    log.append(b"\xc1 not a record")
    log.close()
    with pytest.raises(LogCorrupt, match="cannot be decoded"):
        recover(tmp_path, [MemoryState(0)], 2, 0)


def damage_record(data_dir: Path, content: bytes) -> None:
    path = list_segments(log_path(data_dir, 1, 0))[0][1]
    data = bytearray(path.read_bytes())
    data[data.index(content)] ^= 1
    path.write_bytes(data)


def test_a_damaged_record_concerns_those_shards_only_of_which_it_had_a_commit(tmp_path: Path) -> None:
    """Their next commit shows it, and so does what later records and segments say of all shards."""
    write_log(
        tmp_path, 1, 0,
        [
            [commit(0, 1, {"a": b"1"}), commit(1, 1, {"b": b"1"})],
            [commit(0, 2, {"a": b"damaged"})],
            [commit(0, 3, {"a": b"3"}), commit(1, 2, {"b": b"2"})],
        ],
    )  # fmt: skip
    damage_record(tmp_path, b"damaged")
    states = [MemoryState(0), MemoryState(1)]
    report = recover(tmp_path, states, 2, 0)
    assert set(report.damaged) == {0}
    assert report.damaged[0].problem == "commit 2 of shard 0 is missing: record 2: damaged, but a good one follows"
    assert values(states[0]) == {}, "nothing is written of a damaged shard"
    assert values(states[1]) == {"b": b"2"}


def test_a_shard_of_which_nothing_says_that_it_lost_nothing_is_not_served(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"damaged"})], [commit(0, 2, {"a": b"2"})]])
    damage_record(tmp_path, b"damaged")
    report = recover(tmp_path, [MemoryState(0), MemoryState(1)], 2, 0)
    assert set(report.damaged) == {0, 1}
    assert "nothing says that no commit of shard 1 was among them" in report.damaged[1].problem


def test_what_a_later_record_says_of_all_shards_clears_those_that_were_not_touched(tmp_path: Path) -> None:
    log = CommitLog(log_path(tmp_path, 1, 0), segment_bytes=4096, segment_bytes_first=4096)
    for seq, value in ((1, b"damaged"), (2, b"2")):
        log.append(encode_record(CommitRecord(0, [commit(0, seq, {"a": value})], {0: seq - 1, 1: 0})))
    log.close()
    damage_record(tmp_path, b"damaged")
    assert set(recover(tmp_path, [MemoryState(0), MemoryState(1)], 2, 0).damaged) == {0}


def test_damage_in_what_a_state_has_already_is_no_damage(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, seq, {"n": b"number %d" % seq})] for seq in range(1, 6)])
    damage_record(tmp_path, b"number 2")
    state = MemoryState(0)
    state.replace_rows({KEY + b"n": b"number 3"}, 3)
    assert recover(tmp_path, [state], 2, 0).damaged == {}
    assert values(state) == {"n": b"number 5"}


def test_the_last_record_with_a_changed_bit_is_not_taken_for_one_that_was_never_confirmed(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, seq, {"n": b"number %d" % seq})] for seq in range(1, 6)])
    damage_record(tmp_path, b"number 5")
    assert "record 5, the last one: a bit of it has changed" in damage(tmp_path, MemoryState(0), 2)


# What should be there


def mark_of(start: int, worker: int = 0, run: int = 0, position: int = 0) -> LogMark:
    return LogMark(start, worker, run, position)


def marked(applied_seq: int, mark: LogMark, shard: int = 0) -> MemoryState:
    state = MemoryState(shard)
    state.replace_rows({}, applied_seq)
    state.log_mark = mark.encode()
    return state


def test_a_log_that_the_state_belongs_to_and_is_not_there_is_named(tmp_path: Path) -> None:
    state = marked(7, mark_of(3))
    assert damage(tmp_path, state, 4) == "it is missing, and may have confirmed commits that its state does not have"
    write_log(tmp_path, 3, 0, [])
    assert recover(tmp_path, [state], 4, 0).damaged == {}


def test_a_log_of_which_nothing_can_be_read_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, 3, 0, [[commit(0, 8, {"n": b"8"})]])
    list_segments(log_path(tmp_path, 3, 0))[0][1].write_bytes(bytes(4096))
    assert damage(tmp_path, marked(7, mark_of(3)), 4).startswith("nothing of this log can be read")


def test_a_counter_of_starts_that_was_set_back_is_named(tmp_path: Path) -> None:
    assert "was served in start 12, and this is start 5" in damage(tmp_path, marked(7, mark_of(12)), 5)
    assert "was served in start 5, and this is start 5" in damage(tmp_path, marked(7, mark_of(5, worker=1)), 5)


def test_a_log_that_ends_before_what_some_state_has_seen_of_it_stops_those_that_have_not(tmp_path: Path) -> None:
    write_log(tmp_path, 3, 0, [[commit(0, 1, {"n": b"1"})]])
    behind, ahead = marked(0, mark_of(3, position=5), shard=1), marked(9, mark_of(3, position=20))
    report = recover(tmp_path, [ahead, behind], 4, 0)
    assert set(report.damaged) == {1}
    assert "the log ends with record 1, but was seen with 20" in report.damaged[1].problem


def test_an_older_copy_of_a_state_is_refused_though_no_log_has_a_later_commit_of_it(tmp_path: Path) -> None:
    write_log(tmp_path, 2, 0, [])
    CommitLog(log_path(tmp_path, 3, 0), prologue=lambda: encode_seqs({0: 7, 1: 0})).close()
    problem = damage(tmp_path, marked(5, mark_of(2)), 4)
    assert problem.startswith("commits 6 to 7 of shard 0 are missing: the log goes on behind them; its state is an older copy")


def test_what_says_to_which_log_a_state_belongs_may_be_damaged_too(tmp_path: Path) -> None:
    state = marked(7, mark_of(3))
    state.log_mark = state.log_mark[:-1] + bytes([state.log_mark[-1] ^ 1])
    assert damage(tmp_path, state, 4) == "what it says of the log that it belongs to is damaged"


def test_a_gap_in_what_a_state_has_of_the_log_is_no_damage(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, seq, {"n": b"number %d" % seq})] for seq in range(1, 6)])
    damage_record(tmp_path, b"number 2")
    assert recover(tmp_path, [marked(0, mark_of(1, position=2), shard=1)], 4, 0).damaged == {}
    assert set(recover(tmp_path, [marked(0, mark_of(1, position=1), shard=1)], 4, 0).damaged) == {1}


def test_a_disk_that_fails_under_one_state_stops_its_shard_only(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1"}), commit(1, 1, {"b": b"1"})]])
    failing, other = MemoryState(0), MemoryState(1)
    failing.commit_error = StoreFailed("checkpoint into", "shards/0000", "Input/output error", "check the disk")
    both = Recovery(tmp_path, [failing, other], 2, 0, isolate=True)
    both.read()
    both.write(mark_written := LogMark(2, 0, 0))
    assert set(both.damaged) == {0}
    error = both.damaged[0]
    assert isinstance(error, ShardUnwritable)
    assert str(error).startswith("checkpoint into shards/0000: Input/output error (check the disk")
    assert "repair" not in error.hint, "nothing is known to be damaged"
    assert values(other) == {"b": b"1"}
    assert (failing.log_mark, other.log_mark) == (b"", mark_written.encode())


def test_a_disk_that_fails_is_no_damage_and_whoever_recovers_is_told(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1"})]])
    failing = MemoryState(0)
    failing.commit_error = StoreFailed("checkpoint into", "shards/0000", "Input/output error", "check the disk")
    with pytest.raises(StoreFailed):
        recover(tmp_path, [failing], 2, 0)
    failing.commit_error = StoreFailed("checkpoint into", "shards/0000", "Input/output error", "check the disk")
    with pytest.raises(StoreFailed):
        salvaged(tmp_path, failing)


def test_what_is_left_can_be_salvaged_and_what_is_not_is_listed(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, seq, {f"k{seq}": b"number %d" % seq})] for seq in range(1, 6)])
    damage_record(tmp_path, b"number 3")
    state = marked(0, mark_of(1))
    assert "commit 3 of shard 0 is missing" in damage(tmp_path, state, 2)
    [lost] = salvaged(tmp_path, state)
    assert lost.endswith("commit 3 of shard 0 is missing: record 3: damaged, but a good one follows")
    assert values(state) == {f"k{seq}": b"number %d" % seq for seq in (1, 2, 4, 5)}
    assert recover(tmp_path, [state], 2, 0).damaged == {}, "it is served again"
    assert state.applied_seq == 5


def test_recovery_in_several_rounds_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: what was gathered is committed, with its sequence, whenever it is enough."""
    monkeypatch.setattr(recovery, "RECOVERY_ENTRIES_MAX", 3)
    monkeypatch.setattr(recovery, "_CHECK_BYTES", 1)
    write_log(tmp_path, 1, 0, [[commit(seq % 2, (seq + 1) // 2, {f"k{seq}": b"v", "n": b"%d" % seq})] for seq in range(1, 41)])
    states = [MemoryState(0), MemoryState(1)]
    report = recover(tmp_path, states, 2, 0)
    assert report.commits == 40
    assert states[0].commits > 3
    assert [state.applied_seq for state in states] == [20, 20]
    assert values(states[0]) == {**{f"k{seq}": b"v" for seq in range(2, 41, 2)}, "n": b"40"}


def test_recovery_writes_into_lmdb_what_a_reopened_state_shows(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[commit(0, 1, {"a": b"1", "b": b"1"})], [commit(0, 2, {"a": None, "c": b"2"})]])
    state = LmdbState(tmp_path / "shards" / "0000", 0)
    recover(tmp_path, [state], 2, 0)
    state.close()
    again = LmdbState(tmp_path / "shards" / "0000", 0)
    assert ShardStore(again).scan(KEY) == [("b", b"1"), ("c", b"2")]
    assert again.applied_seq == 2
    again.close()


def keyed(seq: int, number: int, answered: int = 0, plain: str = "") -> ShardCommit:
    result = msgspec.Raw(msgspec.msgpack.encode({"seq": seq}))
    answer = Answer(KEY.hex(), plain, 0, 7, 0, result) if plain else Answer("Session", number, answered, 7, 0, result)
    return ShardCommit(0, seq, [ObjectWrites(KEY, False, {"n": b"%d" % seq})], [answer])


def answers_of(state: MemoryState) -> AnswerTable:
    store = ShardStore(state)
    store.load_answers()
    return store.answers


def test_answers_to_calls_with_a_key_are_recovered_with_what_the_calls_wrote(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[keyed(1, 5)], [keyed(2, 6)], [commit(0, 3, {"n": b"3"})], [keyed(4, 0, plain="order 17")]])
    state = MemoryState(0)
    recover(tmp_path, [state], 2, 0)
    groups = answers_of(state).groups
    found = {key: msgspec.msgpack.decode(kept.result) for name in groups for key, kept in groups[name].rows.items()}
    assert found == {5: {"seq": 1}, 6: {"seq": 2}, "order 17": {"seq": 4}}


def test_answers_that_were_freed_by_then_are_not_written(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[keyed(seq, seq, answered=seq)] for seq in range(1, 200)])
    state = MemoryState(0)
    recover(tmp_path, [state], 2, 0)
    assert sum(key.startswith(ANSWERS_KEY) for key in state.rows) == 2
    (group,) = answers_of(state).groups.values()
    assert list(group.rows) == [199]
    assert group.floor == 199


def test_answers_are_carried_over_checkpoints_recoveries_and_bounds_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "RECOVERY_ENTRIES_MAX", 3)
    monkeypatch.setattr(recovery, "_CHECK_BYTES", 1)
    state = MemoryState(0)
    for start in range(1, 4):
        seqs = range(10 * start - 9, 10 * start + 1)
        write_log(tmp_path, start, 0, [[keyed(seq, seq, answered=max(0, seq - 3))] for seq in seqs])
        recover(tmp_path, [state], start + 1, 0)
        answers = answers_of(state)
        assert sorted(map(str, answers.groups["Session"].rows)) == sorted(
            str(seq) for seq in range(10 * start - 3, 10 * start + 1)
        )
        answers.check_invariants()


def test_answers_follow_those_that_a_record_has_as_rows(tmp_path: Path) -> None:
    """As the log of a cluster has them into which a data directory was put."""
    before = MemoryState(0)
    write_log(tmp_path / "before", 1, 0, [[keyed(1, 5)], [keyed(2, 6)], [keyed(3, 0, plain="order 17")]])
    recover(tmp_path / "before", [before], 2, 0)
    rows: dict[str, bytes | None] = {
        key[len(ANSWERS_KEY) :].decode(): row for key, row in before.rows.items() if key.startswith(ANSWERS_KEY)
    }
    first = ShardCommit(0, 1, [ObjectWrites(ANSWERS_KEY, False, rows)])
    for name, rounds in (
        ("at once", [[[first], [keyed(2, 7, answered=6)]]]),
        ("in two", [[[first]], [[keyed(2, 7, answered=6)]]]),
    ):
        state = MemoryState(0)
        for start, records in enumerate(rounds, 1):
            write_log(tmp_path / name, start, 0, records)
            recover(tmp_path / name, [state], start + 1, 0)
        answers = answers_of(state)
        assert sorted(map(str, (key for group in answers.groups.values() for key in group.rows))) == ["6", "7", "order 17"]
        answers.check_invariants()


def test_where_nothing_can_be_written_answers_are_recalled(tmp_path: Path) -> None:
    write_log(tmp_path, 1, 0, [[keyed(1, 5)], [keyed(2, 6)]])
    state = MemoryState(0)
    store = ShardStore(state)
    looking = recovery.Recovery(tmp_path, [state], 2, 0)
    looking.read(writing=False)
    (store.seq, store.active) = looking.memtables()[0]
    store.load_answers()
    assert sorted(map(str, store.answers.groups["Session"].rows)) == ["5", "6"]
    assert state.rows == {}
