"""When a commit waits for those who were answered just now, and for how long."""

from __future__ import annotations

import pytest

from tidegate.shard.worker.gathering import GATHER_S_MAX, IN_VAIN_COMMITS, SHARE, CommitGathering

TOOK_S = 0.004


def after_a_commit(*, answered: int, waiting: int) -> CommitGathering:
    gathering = CommitGathering()
    gathering.committed(1.0, TOOK_S, answered, waiting)
    return gathering


def test_the_first_commit_waits_for_nobody() -> None:
    assert CommitGathering().wait_s(0.0, 1) == 0.0


def test_one_caller_never_waits() -> None:
    assert after_a_commit(answered=1, waiting=0).wait_s(1.0, 1) == 0.0


def test_a_commit_is_cut_once_those_who_were_answered_have_called_again_beside_those_who_waited() -> None:
    gathering = after_a_commit(answered=2, waiting=3)
    assert gathering.wait_s(1.0, 3) == pytest.approx(TOOK_S * SHARE)
    assert gathering.wait_s(1.001, 4) == pytest.approx(TOOK_S * SHARE - 0.001)
    assert gathering.wait_s(1.001, 5) == 0.0


def test_it_waits_no_longer_than_its_share_however_long_a_commit_took() -> None:
    gathering = after_a_commit(answered=4, waiting=2)
    assert gathering.wait_s(1.0 + TOOK_S * SHARE, 5) == 0.0
    gathering.committed(2.0, 3_600.0, 4, 2)
    assert gathering.wait_s(2.0, 2) == pytest.approx(GATHER_S_MAX)


def test_where_too_few_call_again_the_commits_after_that_wait_for_nobody() -> None:
    gathering = after_a_commit(answered=4, waiting=2)
    assert gathering.wait_s(1.0 + TOOK_S, 3) == 0.0, "one of four"
    for number in range(IN_VAIN_COMMITS - 1):
        gathering.committed(2.0 + number, TOOK_S, 4, 2)
        assert gathering.wait_s(2.0 + number, 2) == 0.0
    gathering.committed(99.0, TOOK_S, 4, 2)
    assert gathering.wait_s(99.0, 2) > 0.0, "they are tried again"


def test_most_of_them_are_enough_to_go_on_waiting_for_them() -> None:
    gathering = after_a_commit(answered=4, waiting=2)
    assert gathering.wait_s(1.0 + TOOK_S, 5) == 0.0, "three of four"
    gathering.committed(2.0, TOOK_S, 4, 2)
    assert gathering.wait_s(2.0, 2) > 0.0
