from __future__ import annotations

import itertools

import pytest

from tidegate.shard.replicated.mark import encode_mark
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.snapshot import (
    MAGIC,
    SnapshotCondition,
    SnapshotManifest,
    SnapshotName,
    SnapshotPiece,
    SnapshotPolicy,
    StreamSize,
    after_taking,
    decode_manifest,
    encode_manifest,
    grown_bytes,
    is_due,
    parse_name,
    to_begin_with,
)

CREATED = "2026-11-30T00:00:00Z"
WHOLE, UNFINISHED, DOUBTFUL = SnapshotCondition.WHOLE, SnapshotCondition.UNFINISHED, SnapshotCondition.DOUBTFUL


def name(sequence: int, epoch: int = 1, nonce: str = "a") -> SnapshotName:
    return SnapshotName(sequence, epoch, nonce)


def manifest(sequence: int, created: str = CREATED) -> SnapshotManifest:
    mark = encode_mark(StreamPlace(sequence, sequence, sequence, 1, b"w" * 16, 7, created))
    return SnapshotManifest(
        3, mark, 9, 4_096, b"s" * 32, [SnapshotPiece(5, 100, b"p" * 32), SnapshotPiece(7, 50, b"q" * 32)], 1, "me"
    )


def test_a_name_is_read_as_it_was_written_and_sorts_by_what_it_has() -> None:
    names = [name(9, 2), name(10, 1), name(10, 2), name(100_000, 1, "00ff")]
    assert [parse_name(str(each)) for each in names] == names
    assert sorted(map(str, names)) == [*map(str, sorted(names))]
    for text in ("", "1-2", "1-2-", "a-1-b", "1-b-c", "-1-2-c"):
        assert parse_name(text) is None


def test_a_manifest_is_what_was_written_or_refused() -> None:
    written = manifest(12)
    data = encode_manifest(written)
    assert decode_manifest(data) == written
    assert (written.place.sequence, written.packed_bytes) == (12, 150)
    for at in range(len(data)):
        with pytest.raises(ValueError):
            decode_manifest(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        with pytest.raises(ValueError):
            decode_manifest(data[:at])


def test_a_manifest_of_a_newer_format_is_refused_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.replicated.snapshot.FORMAT", 2)
    data = encode_manifest(manifest(1))
    monkeypatch.undo()
    assert data.startswith(MAGIC)
    with pytest.raises(ValueError, match="it has format 2, and this version of Tidegate reads 1: use the one that took it"):
        decode_manifest(data)


POLICY = SnapshotPolicy(1_000, 60.0)


def place(sequence: int) -> StreamPlace:
    return StreamPlace(sequence, created=CREATED)


def test_a_snapshot_is_due_when_the_stream_has_grown_enough_or_is_old() -> None:
    assert not is_due(StreamSize(1, 10, 999), None, 0.0, POLICY)
    assert is_due(StreamSize(1, 10, 1_000), None, 0.0, POLICY)
    assert not is_due(StreamSize(1, 10, 1_900), place(5), 59.0, POLICY)
    assert is_due(StreamSize(1, 10, 2_000), place(5), 0.0, POLICY)
    assert is_due(StreamSize(1, 10, 10), place(9), 60.0, POLICY)
    assert not is_due(StreamSize(1, 10, 9_999), place(10), 1e9, POLICY), "it has all that there is"
    assert not is_due(StreamSize(0, 0, 0), None, 1e9, POLICY)
    assert not is_due(StreamSize(11, 10, 0), place(4), 0.0, POLICY), "somebody has purged everything"


def test_what_follows_a_message_is_a_share_of_what_there_is() -> None:
    assert grown_bytes(StreamSize(101, 200, 1_000), 150) == 500
    assert grown_bytes(StreamSize(101, 200, 1_000), 50) == 1_000
    assert grown_bytes(StreamSize(101, 200, 1_000), 300) == 0


def test_the_stream_is_purged_behind_the_last_but_one() -> None:
    found = {name(10): WHOLE}
    assert after_taking(name(10), found) == (0, []), "of a first one nothing follows"
    found[name(20)] = WHOLE
    assert after_taking(name(20), found) == (10, [])
    found[name(30)] = WHOLE
    assert after_taking(name(30), found) == (20, [name(10)])


def test_one_that_is_not_whole_counts_for_nothing() -> None:
    found = {name(10): WHOLE, name(20): UNFINISHED, name(25): DOUBTFUL, name(30): WHOLE}
    assert after_taking(name(30), found) == (10, [name(20)])
    found = {name(10): WHOLE, name(20): DOUBTFUL, name(30): WHOLE, name(40): WHOLE}
    assert after_taking(name(40), found) == (30, [name(10), name(20)]), "nobody needs it any longer, whatever it is"
    assert after_taking(name(20), found) == (0, [])
    assert after_taking(name(50), found) == (0, []), "it has gone since"


def test_of_newer_owners_nothing_is_removed_that_may_be_on_its_way() -> None:
    found = {name(10): WHOLE, name(15, 1, "b"): UNFINISHED, name(20): WHOLE, name(30, 2): UNFINISHED}
    assert after_taking(name(20), found) == (10, [name(15, 1, "b")])


def test_an_owner_that_was_shut_out_takes_nothing_away() -> None:
    """It takes a snapshot of what it has, which is older than two that others have taken."""
    found = {name(10): WHOLE, name(20, 2): WHOLE, name(30, 2): WHOLE}
    assert after_taking(name(10), found) == (0, [])


def test_whatever_is_there_two_stay_whole_from_which_one_can_go_on() -> None:
    """All small worlds: of five snapshots, each in any condition, each of them the one that was taken."""
    names = [name(sequence, 1 + sequence // 30) for sequence in (10, 20, 30, 40, 50)]
    for conditions in itertools.product((WHOLE, UNFINISHED, DOUBTFUL, None), repeat=len(names)):
        found = {each: condition for each, condition in zip(names, conditions, strict=True) if condition is not None}
        for taken in names:
            follows = after_taking(taken, found)
            left = [each for each, condition in found.items() if condition is WHOLE and each not in follows.remove]
            assert follows.purge_before == 0 or len([each for each in left if each.sequence >= follows.purge_before]) >= 2
            assert len(left) >= min(2, list(found.values()).count(WHOLE))
            assert follows.purge_before == 0 or follows.purge_before < max(each.sequence for each in found)


def test_a_host_begins_with_the_newest_that_joins_on_to_the_stream() -> None:
    found = [(name(each), manifest(each)) for each in (10, 30, 20)]
    assert [each.sequence for each, _ in to_begin_with(found, CREATED, 10, 0)] == [30, 20, 10]
    assert [each.sequence for each, _ in to_begin_with(found, CREATED, 21, 0)] == [30, 20], "message 21 follows on it"
    assert [each.sequence for each, _ in to_begin_with(found, CREATED, 22, 0)] == [30]
    assert [each.sequence for each, _ in to_begin_with(found, CREATED, 10, 20)] == [30], "the others have no more than the host"
    assert to_begin_with(found, "another time", 10, 0) == []
    assert to_begin_with(found, CREATED, 40, 0) == []
