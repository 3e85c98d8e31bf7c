from __future__ import annotations

import itertools
import zlib
from bisect import bisect
from random import Random

import pytest

from tidegate.shard.replicated.mark import encode_mark
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.snapshot import (
    MAGIC,
    NewestSnapshot,
    SnapshotCondition,
    SnapshotManifest,
    SnapshotName,
    SnapshotPiece,
    SnapshotPolicy,
    SnapshotRoom,
    StreamSize,
    after_taking,
    decode_manifest,
    encode_manifest,
    grown_bytes,
    is_due,
    of_no_use,
    packed_bytes_max,
    parse_name,
    to_begin_with,
    why_no_room,
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


NONE = NewestSnapshot(None, 0, 100.0)


def newest(sequence: int, file_bytes: int = 0) -> NewestSnapshot:
    return NewestSnapshot(StreamPlace(sequence, created=CREATED), file_bytes, 100.0)


def test_a_snapshot_is_due_when_the_stream_has_grown_enough_or_is_old() -> None:
    assert not is_due(StreamSize(1, 10, 999), NONE, 100.0, POLICY)
    assert is_due(StreamSize(1, 10, 1_000), NONE, 100.0, POLICY)
    assert not is_due(StreamSize(1, 10, 1_900), newest(5), 159.0, POLICY)
    assert is_due(StreamSize(1, 10, 2_000), newest(5), 100.0, POLICY)
    assert is_due(StreamSize(1, 10, 10), newest(9), 160.0, POLICY)
    assert not is_due(StreamSize(1, 10, 9_999), newest(10), 1e9, POLICY), "it has all that there is"
    assert not is_due(StreamSize(0, 0, 0), NONE, 1e9, POLICY)
    assert not is_due(StreamSize(11, 10, 0), newest(4), 100.0, POLICY), "somebody has purged everything"


def test_of_a_large_shard_one_is_due_when_the_stream_has_grown_by_a_share_of_it() -> None:
    assert not is_due(StreamSize(1, 10, 9_900), newest(5, 10_000), 100.0, POLICY)
    assert is_due(StreamSize(1, 10, 10_000), newest(5, 10_000), 100.0, POLICY)
    assert is_due(StreamSize(1, 10, 9_900), newest(5, 10_000), 160.0, POLICY), "but for one that is old"


def test_how_large_a_manifest_gets_is_known_before_the_first_piece() -> None:
    """Whatever is said to fit does, with places and sizes as large as they get; and what is refused hardly would."""
    most = SnapshotPiece((1 << 63) - 1, (1 << 32) - 1, b"p" * 32)

    def of(pieces: int) -> SnapshotManifest:
        return SnapshotManifest(3, manifest(12).mark, 9, 1 << 40, b"s" * 32, [most] * pieces, 1 << 41, "me")

    for message_bytes in (1_000, 1_100, 64 << 10, 4 << 20):
        room = SnapshotRoom(message_bytes)
        fitting = bisect(range(90_000), 0, key=lambda n: why_no_room(n * room.message_bytes, of(0), room) is not None) - 1
        assert message_bytes - 100 < len(encode_manifest(of(fitting))) <= message_bytes
    why = why_no_room(100 * 1_000, of(0), SnapshotRoom(1_000))
    assert why == ("it has too many pieces, 100", "raise max_payload on every server, or spread the data over more shards")


def test_a_snapshot_that_would_take_all_room_is_refused_with_the_next_step() -> None:
    none, mib = manifest(1), 1 << 20
    assert why_no_room(100 * mib, none, SnapshotRoom(mib)) is None, "nobody says how much there is"
    assert why_no_room(100 * mib, none, SnapshotRoom(mib, 101 * mib, 200 * mib)) is None
    assert why_no_room(100 * mib, none, SnapshotRoom(mib, 99 * mib)) == (
        "it takes 102405 KiB, and its stream has room for 101376 KiB more", "let it have more: `nats stream edit --max-bytes=…`",
    )  # fmt: skip
    why = why_no_room(100 * mib, none, SnapshotRoom(mib, None, 120 * mib))
    assert why is not None
    assert why[0].endswith("the account has room for 122880 KiB more, of which 25% are kept for what shards append")
    assert why_no_room(1, none, SnapshotRoom(mib, -5)) is not None


@pytest.mark.parametrize("size", [0, 1, 16_383, 1 << 20, 3_000_001])
def test_no_file_packs_into_more_than_is_expected(size: int) -> None:
    assert len(zlib.compress(Random(1).randbytes(size), 1)) <= packed_bytes_max(size)


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
    assert of_no_use(1, found) == [name(15, 1, "b")]
    assert of_no_use(2, found) == [name(15, 1, "b"), name(30, 2)]


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
