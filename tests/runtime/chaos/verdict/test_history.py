"""Histories of made-up runs: what is right, what is wrong, and that nothing is judged before it can be."""

from __future__ import annotations

import itertools
import math
from typing import Any

from tidegate.runtime.chaos.verdict.history import Fate, Operation, RunHistory
from tidegate.runtime.limits import CHAOS_UNKNOWN_MAX

_number = itertools.count(1).__next__


def operation(
    began: float, ended: float, method: str, result: Any = None, *, fate: Fate = "answered", cls: str = "Counter", args: Any = ()
) -> Operation:
    return Operation(_number(), "caller 0", cls, "one", method, args, began, ended, fate, result)


class Run:
    def __init__(self) -> None:
        self.retired: list[str] = []
        self.history = RunHistory(lambda cls, name: self.retired.append(f"{cls}/{name}"))

    def violations(self, *operations: Operation, watermark: float = math.inf) -> list[str]:
        self.history.digest(operations, watermark)
        return [violation.text for violation in self.history.violations]


def test_answers_of_one_order_are_right_in_whatever_order_they_are_told() -> None:
    run = Run()
    assert run.violations(operation(2, 3, "take", 1), operation(4, 5, "read", 2), operation(0, 1, "take", 0)) == []
    assert run.history.checked == 3


def test_a_confirmed_number_that_is_gone_is_told_with_the_call_and_what_was_before() -> None:
    run = Run()
    wrong = run.violations(operation(0, 1, "take", 0), operation(2, 3, "take", 1), operation(4, 5, "take", 1))
    assert wrong == ["take() of caller 0 was answered 1, which no order of its calls explains; before that it was 2"]
    assert [each.result for each in run.history.story_of("Counter/one")] == [0, 1, 1]


def test_a_call_that_was_refused_and_ran_nevertheless_is_wrong() -> None:
    refused = operation(0, 1, "take", fate="refused")
    assert len(Run().violations(refused, operation(2, 3, "take", 1))) == 1
    assert Run().violations(refused, operation(2, 3, "take", 0)) == []


def test_a_call_of_unknown_outcome_may_have_run_once_and_no_more() -> None:
    unknown = operation(0, 1, "take", fate="unknown")
    assert Run().violations(unknown, operation(2, 3, "take", 0)) == []
    assert Run().violations(unknown, operation(2, 3, "take", 1)) == []
    assert len(Run().violations(unknown, operation(2, 3, "take", 2))) == 1


def test_nothing_is_judged_before_all_that_began_earlier_is_known() -> None:
    run = Run()
    late = operation(0, 9, "take", 0)
    assert run.violations(operation(1, 2, "take", 1), watermark=0) == []
    assert run.history.checked == 0
    assert run.violations(late) == []
    assert run.history.checked == 2


def test_an_object_with_many_calls_of_unknown_outcome_is_retired_once() -> None:
    run = Run()
    for value in range(CHAOS_UNKNOWN_MAX + 3):
        run.violations(operation(value, value, "swap", fate="unknown", cls="Register", args=(value,)))
    assert run.retired == ["Register/one"]


def test_an_object_that_was_wrong_once_is_not_told_again_and_again() -> None:
    run = Run()
    assert len(run.violations(*(operation(at, at + 0.5, "take", 7) for at in range(10)))) == 1


def test_lists_and_maps_in_answers_are_compared_by_what_is_in_them() -> None:
    put = operation(0, 1, "put", None, cls="Shelf", args=("left", 5))
    moved = operation(2, 3, "exchange", [5, None], cls="Shelf", args=("left", "right"))
    assert Run().violations(put, moved, operation(4, 5, "read", {"right": 5}, cls="Shelf")) == []
    assert len(Run().violations(put, moved, operation(4, 5, "read", {"left": 5}, cls="Shelf"))) == 1
