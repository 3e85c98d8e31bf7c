"""The input gate against a plain model in every small world, and in random large ones."""

from __future__ import annotations

import random

import pytest

from tests.support.gate_model import GateModel, Op
from tidegate.runtime.limits import SECTION_DEPTH_MAX
from tidegate.shard.core.input_gate import InputGate, Section, SectionsTooDeep


class Played:
    """The real gate under the operations of the model."""

    def __init__(self) -> None:
        self.gate = InputGate()
        self.sections = [self.gate.root]
        self.locks: list[Section] = []
        self.numbers = 0

    def play(self, op: Op) -> object:
        kind, at = op
        gate = self.gate
        if kind == "arrive":
            if gate.passes(self.sections[at]):
                return True
            gate.wait(self.sections[at], self._number())
            return False
        if kind == "enter":
            section, runs = gate.enter(self.sections[at], self.numbers)
            self.sections.append(section)
            self.numbers += not runs
            return runs
        if kind == "lock":
            gate.lock(self.sections[at])
            self.locks.append(self.sections[at])
        elif kind == "unlock":
            gate.unlock(self.locks.pop(at))
        elif kind == "leave":
            gate.leave(self.sections[at])
        elif kind == "withdraw":
            gate.withdraw(self.sections[at])
        else:
            return gate.grant()
        return None

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers - 1


def compare(played: Played, model: GateModel, told: object, expected: object, story: list[Op]) -> None:
    gate = played.gate
    assert told == expected, story
    assert gate.open == model.open, story
    assert gate.has_waiters == (model.next() is not None), story
    assert gate.active is played.sections[model.active], story
    gate.check_invariants()


def explore(story: list[Op], model: GateModel, left: int) -> int:
    """Every continuation of a story; returns how many there were."""
    count = 0
    for op in model.enabled(sections_max=3, locks_max=2):
        after, expected = model.step(op)
        told: object = None
        played = Played()
        story.append(op)
        for earlier in story:
            told = played.play(earlier)
        compare(played, after, told, expected, story)
        count += 1
        if left > 1:
            count += explore(story, after, left - 1)
        story.pop()
    return count


def test_every_sequence_of_six_gate_operations_does_what_the_plain_model_does() -> None:
    assert explore([], GateModel(), 6) > 90_000


@pytest.mark.parametrize("seed", range(4))
def test_long_random_sequences_of_gate_operations_do_what_the_plain_model_does(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        played, model = Played(), GateModel()
        story: list[Op] = []
        for _ in range(60):
            op = rng.choice(model.enabled(sections_max=12, locks_max=4))
            story.append(op)
            model, expected = model.step(op)
            compare(played, model, played.play(op), expected, story)


def nested(gate: InputGate, depth: int) -> list[Section]:
    sections = []
    inner = gate.root
    for _ in range(depth):
        inner, running = gate.enter(inner, None)
        assert running
        sections.append(inner)
    return sections


def test_events_pass_in_the_order_in_which_they_came_one_per_grant() -> None:
    gate = InputGate()
    gate.lock(gate.root)
    for name in ("first", "second", "third"):
        assert not gate.passes(gate.root)
        gate.wait(gate.root, name)
    assert gate.grant() is None
    gate.unlock(gate.root)
    assert not gate.passes(gate.root), "a newcomer does not overtake those who wait"
    assert [gate.grant() for _ in range(4)] == ["first", "second", "third", None]
    assert gate.open


def test_a_gate_locked_twice_stays_closed_until_both_locks_are_gone() -> None:
    gate = InputGate()
    gate.lock(gate.root)
    gate.lock(gate.root)
    gate.wait(gate.root, "event")
    gate.unlock(gate.root)
    assert gate.grant() is None
    gate.unlock(gate.root)
    assert gate.grant() == "event"


def test_sections_that_wait_to_start_go_before_ordinary_waiters() -> None:
    gate = InputGate()
    gate.lock(gate.root)
    gate.wait(gate.root, "event")
    section, running = gate.enter(gate.root, "starter")
    assert not running
    gate.unlock(gate.root)
    assert gate.grant() == "starter"
    assert gate.active is section
    assert gate.grant() is None
    gate.leave(section)
    assert gate.grant() == "event"


def test_of_two_sections_of_one_parent_the_second_starts_when_the_first_is_over() -> None:
    gate = InputGate()
    first, running = gate.enter(gate.root, None)
    assert running
    second, running = gate.enter(gate.root, "second")
    assert not running
    assert gate.grant() is None
    gate.leave(first)
    assert gate.grant() == "second"
    assert gate.active is second


def test_a_section_that_outlives_its_parent_keeps_the_root_closed_until_it_ends() -> None:
    gate = InputGate()
    outer, inner = nested(gate, 2)
    gate.wait(gate.root, "event")
    gate.leave(outer)
    gate.check_invariants()
    assert gate.grant() is None
    gate.leave(inner)
    assert gate.grant() == "event"


def test_a_lock_held_when_its_section_ends_closes_the_parent_until_it_is_released() -> None:
    gate = InputGate()
    (section,) = nested(gate, 1)
    gate.lock(section)
    gate.leave(section)
    assert not gate.open
    gate.unlock(section)
    assert gate.open


def test_waiters_and_starters_of_a_section_that_ends_are_delivered_by_its_parent() -> None:
    gate = InputGate()
    outer, inner = nested(gate, 2)
    gate.lock(inner)
    gate.wait(inner, "w1")
    gate.wait(inner, "w2")
    third, _ = gate.enter(inner, "third")
    fourth, _ = gate.enter(inner, "fourth")
    gate.wait(gate.root, "root")
    gate.leave(inner)
    assert gate.grant() is None, "their lock moved to the outer section"
    gate.unlock(inner)
    assert gate.grant() == "third"
    gate.leave(third)
    assert gate.grant() == "fourth"
    gate.leave(outer)
    assert gate.grant() is None, "the fourth section runs still"
    gate.leave(fourth)
    assert [gate.grant() for _ in range(3)] == ["root", "w1", "w2"]
    gate.check_invariants()


def test_a_withdrawn_section_lets_the_next_one_start() -> None:
    gate = InputGate()
    first, _ = gate.enter(gate.root, None)
    second, _ = gate.enter(gate.root, "second")
    third, _ = gate.enter(gate.root, "third")
    gate.withdraw(second)
    gate.leave(first)
    assert gate.grant() == "third"
    gate.leave(third)
    assert gate.open


def test_sections_nest_sixty_four_deep_and_the_next_one_is_refused_without_harm() -> None:
    gate = InputGate()
    sections = nested(gate, SECTION_DEPTH_MAX)
    with pytest.raises(SectionsTooDeep, match="64"):
        gate.enter(sections[-1], None)
    gate.check_invariants()
    for section in reversed(sections):
        gate.leave(section)
    assert gate.open


def test_a_section_that_waits_to_start_counts_into_the_depth_of_what_it_will_hold() -> None:
    gate = InputGate()
    sections = nested(gate, SECTION_DEPTH_MAX - 1)
    gate.lock(sections[-1])
    _last, running = gate.enter(sections[-1], "last")
    assert not running
    gate.unlock(sections[-1])
    assert gate.grant() == "last"
    with pytest.raises(SectionsTooDeep):
        gate.enter(gate.active, None)


def test_sections_whose_parents_ended_before_them_do_not_count_as_nested() -> None:
    gate = InputGate()
    section, _ = gate.enter(gate.root, None)
    for _ in range(100_000):
        following, running = gate.enter(section, None)
        assert running
        gate.leave(section)
        section = following
    gate.check_invariants()
    gate.leave(section)
    assert gate.open


def test_work_that_outlives_a_hundred_thousand_sections_finds_its_place_at_once() -> None:
    gate = InputGate()
    kept: list[Section] = []
    for _ in range(100_000):
        section, running = gate.enter(gate.living(kept[-1]) if kept else gate.root, None)
        assert running
        kept.append(section)
        gate.leave(section)
    assert all(gate.passes(section) for section in kept)


def test_draining_takes_everybody_out_of_every_section() -> None:
    gate = InputGate()
    gate.wait(gate.root, "not reached")
    assert gate.grant() == "not reached"
    outer, inner = nested(gate, 2)
    gate.wait(gate.root, "root")
    gate.wait(outer, "outer")
    gate.enter(inner, None)
    gate.lock(inner)
    gate.enter(inner, "starter")
    assert "root" in (everybody := gate.drain())
    assert "outer" in everybody
    gate.check_invariants()


def test_gates_that_rest_share_what_nobody_enters_and_each_has_its_own_when_it_is_roused() -> None:
    gates = [InputGate() for _ in range(3)]
    for gate in gates:
        section, _ = gate.enter(gate.root, None)
        gate.leave(section)
        gate.rest()
        gate.check_invariants()
        assert not gate.open
        assert gate.drain() == []
    assert len({id(gate.root) for gate in gates}) == 1
    first, second, third = gates
    for gate in (first, second):
        gate.rouse()
        assert gate.open
    first.lock(first.root)
    second.wait(second.root, "waiter")
    assert (first.open, second.has_waiters) == (False, True)
    third.rouse()
    assert third.open
    assert third.passes(third.root)
    for gate in gates:
        gate.check_invariants()
