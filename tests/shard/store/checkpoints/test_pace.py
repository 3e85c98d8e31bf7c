"""checkpoints/pace.py: a checkpoint gets its share of the loop, however long the turns of the others are."""

from __future__ import annotations

import pytest

import tidegate.shard.store.checkpoints.pace as pace_module
from tidegate.shard.store.checkpoints.pace import (
    MEMTABLE_BYTES_MIN,
    CheckpointPace,
    Pressure,
    checkpoint_due,
    memtable_bytes_max,
    turn_budget_s,
)

CALM = Pressure(1_000, 50_000, 10, 1, 8)
URGENT = CALM._replace(size_bytes=80_000)
AT_THE_BOUND = CALM._replace(log_segments_used=8)


def test_a_checkpoint_is_due_at_each_bound_and_not_before() -> None:
    assert not checkpoint_due(CALM)
    assert checkpoint_due(CALM._replace(size_bytes=50_000))
    assert not checkpoint_due(CALM._replace(size_bytes=49_999))
    assert checkpoint_due(CALM._replace(log_records=pace_module.LOG_RECORDS_MAX // 2))
    assert not checkpoint_due(CALM._replace(log_records=pace_module.LOG_RECORDS_MAX // 2 - 1))
    assert checkpoint_due(CALM._replace(log_segments_used=5))
    assert not checkpoint_due(CALM._replace(log_segments_used=4))
    assert checkpoint_due(CALM._replace(pages=pace_module.PAGES_MAX / 2))
    assert not checkpoint_due(CALM._replace(pages=pace_module.PAGES_MAX / 2 - 1))
    assert not checkpoint_due(Pressure(0, 50_000, 0, 8, 8)), "there is nothing to move"


def test_the_checkpoint_takes_a_quarter_of_a_busy_loop_and_more_only_when_it_must() -> None:
    assert turn_budget_s(0.0003, CALM) == pytest.approx(0.0001)
    assert turn_budget_s(0.03, CALM) == pytest.approx(0.01), "of long turns, too: a quarter"
    assert turn_budget_s(1.0, CALM) == pytest.approx(0.02), "one turn of others may be very long; ours may not"
    urgent = CALM._replace(size_bytes=80_000)
    assert turn_budget_s(0.002, urgent) == pytest.approx(0.002)
    at_the_bound = CALM._replace(log_segments_used=8)
    assert turn_budget_s(0.002, at_the_bound) == pytest.approx(0.006)
    assert turn_budget_s(1.0, at_the_bound) == pytest.approx(0.04), "whatever there is to do, the others wait no longer"


def test_the_memtables_may_take_an_eighth_of_what_the_caches_may() -> None:
    assert memtable_bytes_max(8 << 30) == 1 << 30
    assert memtable_bytes_max(0) == MEMTABLE_BYTES_MIN


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def turns(steps: int, others_s: float, pressure: Pressure, step_s: float = 0.0001) -> tuple[int, float]:
    """Turns of the loop that so many steps take, and the longest time the loop was held up by them."""
    clock = Clock()
    pace, taken = CheckpointPace(lambda: pressure, clock), 0
    for _ in range(steps):
        clock.now_s += step_s
        if not pace.has_time():
            pace.leave()
            clock.now_s += others_s
            pace.come_back(after_others=True)
            taken += 1
    return taken, pace.turn_s_max


@pytest.mark.parametrize("others_s", [0.003, 0.01, 0.03])
def test_a_checkpoint_beside_turns_of_any_length_gets_its_share_of_the_time(others_s: float) -> None:
    """Where a thousand calls came at once a turn took 50 ms, and it got one: the log ran full, and writes were refused."""
    for pressure, share in ((CALM, 0.25), (URGENT, 0.5)):
        steps = 20_000
        count, longest_s = turns(steps, others_s, pressure)
        worked_s = steps * 0.0001
        assert worked_s / (worked_s + count * others_s) == pytest.approx(share, rel=0.1)
        assert longest_s <= others_s + 0.0002, "nobody is held up for longer than by the others"


def test_on_an_idle_loop_it_makes_one_step_a_turn() -> None:
    count, longest_s = turns(100, 0.0, CALM)
    assert count == 100
    assert longest_s == pytest.approx(0.0001)


def test_after_a_wait_for_something_else_it_finds_out_first_how_busy_the_loop_is() -> None:
    clock = Clock()
    pace = CheckpointPace(lambda: CALM, clock)
    pace.leave()
    clock.now_s += 0.3  # A commit.
    pace.come_back(after_others=False)
    assert not pace.has_time()
    pace.leave()
    clock.now_s += 0.03
    pace.come_back(after_others=True)
    assert pace.has_time()
    clock.now_s += 0.011
    assert not pace.has_time()


def test_a_step_that_takes_long_goes_on_in_the_next_turn() -> None:
    clock = Clock()
    pace = CheckpointPace(lambda: AT_THE_BOUND, clock)
    assert pace.goes_on()
    clock.now_s += pace_module.STEP_S_MAX
    assert not pace.goes_on()
    pace.leave()
    clock.now_s += 1.0
    pace.come_back(after_others=True)
    assert pace.goes_on(), "another one"
    clock.now_s += pace_module.STEP_S_MAX
    assert pace.has_time()
    assert pace.goes_on(), "the next one, in the same turn"
