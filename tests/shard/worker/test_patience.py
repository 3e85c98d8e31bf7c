"""Who holds up the loop is named, interrupted, and at last ends the worker: each at its time, and nobody before."""

from __future__ import annotations

import math

from tidegate.runtime.limits import HELD_UP_NAMED_S, INTERRUPT_S_MAX
from tidegate.shard.worker.patience import INTERRUPT_EVERY_S, LOOK_S, Patience, Reaction

LIMIT_S = 2.0


class Loop:
    """A loop that is looked at in virtual time."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.patience = Patience(limit_s)
        self.now_s = 0.0
        self.starved_s = 0.0
        self.heard = self.raised = 0
        self.said: list[tuple[float, Reaction]] = []

    def runs(self, step: object, for_s: float, *, starved: float = 0.0, interruptible: bool = True) -> list[Reaction]:
        """Reactions while one step is under way; `starved`: the share of the time for which its thread waits for a core."""
        until_s, reactions = self.now_s + for_s, []
        while self.now_s < until_s:
            pause_s = self.patience.pause_s
            self.now_s += pause_s
            self.starved_s += pause_s * starved
            reaction = self.patience.look(
                self.now_s, step, self.starved_s, heard=self.heard, raised=self.raised, interruptible=interruptible
            )
            reactions.append(reaction)
            if reaction is not Reaction.NOTHING:
                self.said.append((self.now_s, reaction))
        return reactions

    def first(self, reaction: Reaction) -> float:
        return next((at_s for at_s, said in self.said if said is reaction), math.inf)


def test_a_loop_that_waits_or_makes_short_steps_is_left_alone() -> None:
    loop = Loop()
    for number in range(100):
        loop.runs(None if number % 2 else number, LOOK_S * 3)
    assert not loop.said


def test_a_long_step_is_named_within_a_second_and_again_after_twice_the_time() -> None:
    loop = Loop(math.inf)
    loop.runs("step", 9.0)
    assert {said for _, said in loop.said} == {Reaction.NAME}
    times = [at_s for at_s, _ in loop.said]
    assert HELD_UP_NAMED_S <= times[0] < 1.0
    assert [round(at_s - LOOK_S) for at_s in times[1:]] == [1, 2, 4, 8]


def test_past_the_limit_it_is_interrupted_every_twenty_milliseconds_until_that_is_heard() -> None:
    loop = Loop()
    loop.heard = 1
    reactions = loop.runs("step", LIMIT_S + 0.4, interruptible=False)
    assert LIMIT_S <= loop.first(Reaction.INTERRUPT) < LIMIT_S + 3 * LOOK_S
    assert reactions.count(Reaction.INTERRUPT) >= 0.2 / INTERRUPT_EVERY_S
    assert loop.patience.pause_s == INTERRUPT_EVERY_S
    loop.runs("next", LOOK_S)
    assert loop.patience.pause_s == LOOK_S


def test_code_that_swallows_its_interruption_ends_the_worker() -> None:
    loop = Loop()
    loop.heard = loop.raised = 3
    loop.runs("step", LIMIT_S + INTERRUPT_S_MAX + 1.0)
    assert LIMIT_S + INTERRUPT_S_MAX <= loop.first(Reaction.END) < LIMIT_S + INTERRUPT_S_MAX + 0.3


def test_a_call_that_does_not_come_back_to_the_interpreter_ends_the_worker() -> None:
    loop = Loop()
    loop.runs("step", LIMIT_S + INTERRUPT_S_MAX + 1.0)
    assert loop.first(Reaction.END) < LIMIT_S + INTERRUPT_S_MAX + 0.3


def test_what_the_runtime_itself_waits_for_never_ends_the_worker() -> None:
    loop = Loop()
    loop.runs("a read from disk", 60.0, interruptible=False)
    assert loop.first(Reaction.END) == math.inf


def test_what_a_step_waits_for_a_core_does_not_count_up_to_a_third_of_the_time() -> None:
    loop = Loop()
    loop.runs("step", 2.5, starved=0.3)
    assert loop.first(Reaction.INTERRUPT) == math.inf
    loop = Loop()
    loop.runs("step", 4.0, starved=0.9)
    assert loop.first(Reaction.NAME) < 1.0
    assert 2.9 < loop.first(Reaction.INTERRUPT) < 3.3


def test_a_process_that_was_stopped_for_a_minute_blames_nobody() -> None:
    loop = Loop()
    loop.runs("step", 0.2)
    loop.now_s += 60.0
    loop.runs("step", 0.05)
    assert loop.said == []
    assert loop.patience.held_s < 0.5


def test_without_a_limit_nobody_is_interrupted() -> None:
    loop = Loop(math.inf)
    loop.runs("step", 100.0)
    assert loop.first(Reaction.INTERRUPT) == loop.first(Reaction.END) == math.inf


def test_a_step_is_named_before_it_is_interrupted_however_late_somebody_looks() -> None:
    patience, step = Patience(0.5), object()
    patience.look(0.0, step, 0.0, heard=0, raised=0, interruptible=True)
    said = [patience.look(at_s, step, 0.0, heard=0, raised=0, interruptible=True) for at_s in (3.0, 6.0, 9.0, 12.0, 15.0)]
    assert [each for each in said if each is not Reaction.NOTHING][:2] == [Reaction.NAME, Reaction.INTERRUPT]
