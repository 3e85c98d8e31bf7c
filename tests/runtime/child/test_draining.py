"""When a process that was told to drain is done, on a clock of the test's own."""

from __future__ import annotations

from random import Random

from tidegate.runtime.child.draining import Draining
from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime


class Process:
    def __init__(self, timeout_s: float = 100.0, *, silence_s: float = 0.0, silence_s_max: float = 0.0) -> None:
        self.time = VirtualTime(Random(1))
        self.loop = ProcessLoop(self.time, print)
        self.done_at: list[float] = []
        self.draining = Draining(
            self.loop,
            timeout_s,
            lambda: self.done_at.append(self.loop.time()),
            silence_s=silence_s,
            silence_s_max=silence_s_max,
        )

    def after(self, seconds: float) -> Draining:
        self.time.run(self.time.now + seconds)
        return self.draining


def test_a_drain_is_done_in_the_turn_that_leaves_nothing_and_nothing_runs_before() -> None:
    process = Process()
    process.draining.turn_ended(left=True)
    process.after(50.0)
    assert process.time.turns == 0
    process.draining.turn_ended(left=False)
    assert process.done_at == [50.0]


def test_a_drain_is_done_once_whatever_happens_later() -> None:
    process = Process()
    process.draining.turn_ended(left=False)
    process.draining.turn_ended(left=True)
    process.after(200.0).turn_ended(left=False)
    assert process.done_at == [0.0]


def test_a_drain_whose_time_is_over_is_done_with_what_is_left() -> None:
    process = Process()
    process.draining.turn_ended(left=True)
    process.after(200.0)
    assert process.done_at == [100.0]


def test_what_is_heard_during_the_silence_begins_it_again_and_what_is_begun_ends_it() -> None:
    process = Process(silence_s=1.0, silence_s_max=10.0)
    process.draining.turn_ended(left=False, heard=0)
    process.after(0.6).turn_ended(left=False, heard=1)
    process.after(0.6).turn_ended(left=False, heard=1)
    process.after(0.1).turn_ended(left=True, heard=2)
    process.after(5.0).turn_ended(left=False, heard=2)
    process.after(0.9)
    assert process.done_at == []
    process.after(0.2)
    assert [round(at, 6) for at in process.done_at] == [7.3]


def test_a_silence_that_never_comes_is_waited_for_up_to_its_bound() -> None:
    process = Process(silence_s=1.0, silence_s_max=10.0)
    for heard in range(30):
        process.draining.turn_ended(left=False, heard=heard)
        process.after(0.5)
    assert [round(at, 6) for at in process.done_at] == [10.0]


def test_what_is_left_is_waited_for_also_when_the_silence_is_no_longer() -> None:
    process = Process(silence_s=1.0, silence_s_max=10.0)
    process.draining.turn_ended(left=True, heard=1)
    process.after(60.0).turn_ended(left=False, heard=2)
    assert process.done_at == [60.0]
