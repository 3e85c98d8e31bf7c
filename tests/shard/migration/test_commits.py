"""shard/migration/commits.py: which rows travel, in which commits, and what they add up to."""

from __future__ import annotations

import pytest

from tidegate.shard.migration import commits
from tidegate.shard.migration.commits import Sum, commits_of, digest_of_all, sum_of, travelling
from tidegate.shard.offline.rows import Row
from tidegate.shard.store.answers import ANSWERS_KEY
from tidegate.shard.store.interface import NAMES_KEY
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.names import NAMES_HEAD_KEY

OBJECTS = [number.to_bytes(2, "big") + b"-" * 14 for number in range(5)]
ROWS: list[Row] = [(owner + f"k{key}".encode(), bytes([key]) * key) for owner in OBJECTS for key in range(7)]


@pytest.mark.parametrize("size", [1, 20, 100, 1 << 20])
def test_commits_one_after_the_other_make_the_rows_whatever_their_size(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(commits, "COMMIT_BYTES", size)
    made = Memtable()
    sizes = []
    for objects in commits_of(ROWS):
        sizes.append([len(each.key) + len(key) + len(value or b"") for each in objects for key, value in each.writes.items()])
        made.apply(objects)
    assert [(owner + key.encode(), value) for owner, held in made.objects.items() for key, value in held.writes.items()] == ROWS
    assert all(sum(each[:-1]) < size <= sum(each) for each in sizes[:-1]), "each is full, and no larger than it must be"
    assert sizes[-1]


def test_no_rows_are_no_commit() -> None:
    assert list(commits_of([])) == []


def test_the_index_of_names_and_what_says_which_state_it_is_stay() -> None:
    own = [(ANSWERS_KEY + b"1", b"an answer"), (NAMES_KEY + b"Counter/a", b""), (NAMES_HEAD_KEY, b"head"), (b"\xffmeta", b"meta")]
    assert list(travelling([*ROWS, *own])) == [*ROWS, own[0]]


def test_a_sum_tells_rows_from_all_others() -> None:
    whole = sum_of(ROWS)
    assert (whole.rows, whole.bytes) == (len(ROWS), sum(len(key) + len(value) for key, value in ROWS))
    others = [ROWS[1:], ROWS[:-1], ROWS[::-1], [*ROWS[:-1], (ROWS[-1][0], b"x")], [*ROWS[:-1], (ROWS[-1][0] + b"x", ROWS[-1][1])]]
    shifted = [*ROWS[:-1], (ROWS[-1][0] + ROWS[-1][1][:1], ROWS[-1][1][1:])]
    assert whole.digest not in {sum_of(each).digest for each in (*others, shifted)}
    noted = Sum()
    assert list(noted.noting(ROWS)) == ROWS
    assert noted.digest == whole.digest


def test_the_digest_of_all_depends_on_which_shard_has_what() -> None:
    one, other = sum_of(ROWS[:7]).digest, sum_of(ROWS[7:]).digest
    assert len({digest_of_all(each) for each in ([one, other], [other, one], [one], [])}) == 4
