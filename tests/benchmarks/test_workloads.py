from __future__ import annotations

import pytest

from benchmarks.workloads import UNANSWERED, Answers, BenchmarkFailed, check_answers


def test_numbers_that_count_up_for_every_object_pass() -> None:
    check_answers(Answers.NUMBERS, [0, 0, 0, 1, 1, 1, 2], objects=3)


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ([0, 0, 1, 0], "unique, gap-free"),
        ([0, 0, 2, 1], "unique, gap-free"),
        ([1, 0, 2, 1], "unique, gap-free"),
        ([0, 1, 1, 0], "order"),
    ],
)
def test_a_number_given_twice_a_gap_and_a_call_out_of_order_fail_the_run(results: list[int], problem: str) -> None:
    with pytest.raises(BenchmarkFailed, match=problem):
        check_answers(Answers.NUMBERS, results, objects=2)


def test_a_call_that_was_never_answered_fails_the_run() -> None:
    with pytest.raises(BenchmarkFailed, match="never answered"):
        check_answers(Answers.NUMBERS, [0, 0, 1, UNANSWERED], objects=2)


def test_an_answer_that_changes_without_a_write_fails_the_run() -> None:
    check_answers(Answers.CONSTANT, [0, 5, 0, 5], objects=2)
    with pytest.raises(BenchmarkFailed, match="without a write"):
        check_answers(Answers.CONSTANT, [0, 5, 0, 6], objects=2)
