from __future__ import annotations

from tidegate.shard.worker.attempts import PAUSE_S_MAX, Attempts, pause_s


def test_pauses_grow_and_are_bounded() -> None:
    pauses = [pause_s(failures) for failures in range(1, 2_000)]
    assert pauses[:4] == [10.0, 20.0, 40.0, 80.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_S_MAX


def test_what_has_failed_waits_longer_each_time_and_nothing_else_does() -> None:
    attempts = Attempts()
    assert attempts.is_time(0, 1_000.0)
    attempts.failed(0, 1_000.0)
    assert not attempts.is_time(0, 1_009.9)
    assert attempts.is_time(1, 1_000.0)
    assert attempts.is_time(0, 1_010.0)
    attempts.failed(0, 1_010.0)
    assert not attempts.is_time(0, 1_029.9)
    attempts.went_well(0)
    assert attempts.is_time(0, 1_010.0)
    attempts.failed(0, 2_000.0)
    assert attempts.is_time(0, 2_010.0), "it begins anew"
