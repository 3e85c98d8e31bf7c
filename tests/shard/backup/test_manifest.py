"""shard/backup/manifest.py: what a backup consists of, and what is missing."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from tidegate.shard.backup.manifest import (
    FORMAT,
    BackupDamaged,
    Commits,
    LogNotKept,
    Manifest,
    Piece,
    check_lineage,
    decode_manifest,
    encode_manifest,
    lineages_in,
    manifest_name,
    order_of_log,
    seal_of,
)


def manifest(number: int = 1, parent: str = "") -> Manifest:
    pieces = [Piece("c/rows-0000-000000", 12, "ab")]
    return Manifest(
        FORMAT, "c", number, parent, "1.0", 1, 3, 10, 20, 25, {0: 5}, {0: 9}, {"00000001-0000-0000": 4}, pieces, [], "keys"
    )


def test_a_manifest_comes_back_as_it_was_and_any_change_is_noticed() -> None:
    data = encode_manifest(manifest())
    assert decode_manifest(data) == manifest()
    for at in range(len(data) - 1):
        with pytest.raises(BackupDamaged):
            decode_manifest(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_one_of_a_newer_format_says_so() -> None:
    newer = msgspec.structs.replace(manifest(), format=FORMAT + 1)
    with pytest.raises(BackupDamaged, match=f"it has format {FORMAT + 1}"):
        decode_manifest(encode_manifest(newer))


def test_a_lineage_is_whole_where_each_manifest_names_the_one_before() -> None:
    made: list[tuple[Manifest, str]] = []
    for number in (1, 2, 3):
        each = manifest(number, made[-1][1] if made else "")
        made.append((each, seal_of(encode_manifest(each))))
    check_lineage(made)
    check_lineage(made[:2])
    for wrong in ([made[0], made[2]], [made[1]], [made[0], (made[1][0], "other"), made[2]]):
        with pytest.raises(BackupDamaged, match="missing"):
            check_lineage(wrong)


def test_lineages_without_a_full_backup_do_not_count() -> None:
    names = [manifest_name("a", 1), manifest_name("a", 2), "a/rows-0000-000000", "b/rows-0000-000000", manifest_name("c", 2)]
    assert lineages_in(names) == {"a": [1, 2]}


def test_logs_are_replayed_in_the_order_of_starts_and_processes() -> None:
    order = ["00000009-0003-0000", "00000010-0000-0000", "00000010-0000-0001", "00000010-0001", "100000000-0000-0000"]
    assert all(order_of_log(one) < order_of_log(other) for one, other in pairwise(order))


def test_commits_are_taken_once_in_order_and_a_gap_is_named() -> None:
    commits = Commits({0: 5, 1: 0})
    assert not commits.take([(0, 4), (0, 5), (7, 100)], "here")
    assert commits.take([(0, 6), (1, 1)], "here")
    assert not commits.take([(0, 6)], "here")
    with pytest.raises(LogNotKept, match=r"commits 2 to 3 of shard 1 .* before here"):
        commits.take([(1, 4)], "here")
    commits.had_got_to({0: 6, 1: 1, 9: 4}, "here")
    with pytest.raises(LogNotKept, match="commits 7 to 8 of shard 0"):
        commits.had_got_to({0: 8}, "here")
    assert commits.seqs == {0: 6, 1: 1}
