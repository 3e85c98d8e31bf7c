from __future__ import annotations

import collections
import itertools
from random import Random

import pytest

from tidegate.benchmarks.load.workloads import (
    UNANSWERED,
    WORKLOADS,
    BenchmarkFailed,
    Block,
    Numbers,
    check_answers,
    check_ascending,
    check_union,
    targets_by_zipf,
)


def numbers(targets: list[int]) -> Block:
    return Numbers(max(targets) + 1).block(targets)


def test_numbers_that_count_up_for_every_object_pass() -> None:
    check_answers(numbers([0, 1, 2, 0, 1, 2, 0]), [0, 0, 0, 1, 1, 1, 2])


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
        check_answers(numbers([0, 1, 0, 1]), results)


def test_a_call_that_was_never_answered_fails_the_run() -> None:
    with pytest.raises(BenchmarkFailed, match="never answered"):
        check_answers(numbers([0, 1, 0, 1]), [0, 0, 1, UNANSWERED])


def test_an_answer_that_changes_without_a_write_fails_the_run() -> None:
    calls = WORKLOADS["read"].calls(2)
    check_answers(calls.first(), [0, 0])
    block = calls.block([0, 1, 0])
    check_answers(block, [1, 1, 1])
    with pytest.raises(BenchmarkFailed, match="wrong answers"):
        check_answers(block, [1, 1, 2])


def test_a_read_among_writes_must_see_every_write_before_it() -> None:
    block = WORKLOADS["mixed"].calls(3).block([number % 3 for number in range(600)])
    writes = block.methods.count("get_unique_number")
    assert 30 < writes < 90
    counters = collections.Counter[int]()
    answers = []
    for target, method in zip(block.targets, block.methods, strict=True):
        answers.append(counters[target])
        counters[target] += method == "get_unique_number"
    check_answers(block, answers)
    last_read = max(index for index, method in enumerate(block.methods) if method == "current")
    answers[last_read] -= 1
    with pytest.raises(BenchmarkFailed):
        check_answers(block, answers)


def test_a_large_value_that_was_not_the_one_before_fails_the_run() -> None:
    block = WORKLOADS["big"].calls(1).block([0, 0, 0])
    assert block.expected[0] == 0
    assert len(set(block.expected)) == 3
    with pytest.raises(BenchmarkFailed):
        check_answers(block, [block.expected[0], block.expected[2], block.expected[1]])


def test_turns_go_on_from_block_to_block() -> None:
    calls = Numbers(2)
    assert [calls.first().expected, calls.block([0, 1, 0]).expected, calls.block([0]).expected] == [[0, 0], [1, 1, 2], [3]]


def test_of_an_object_that_several_call_everybody_sees_rising_numbers_and_all_together_see_each_once() -> None:
    check_ascending([0, 3, 7])
    check_union([[0, 3], [1, 2]])
    with pytest.raises(BenchmarkFailed, match="order"):
        check_ascending([0, 7, 3])
    with pytest.raises(BenchmarkFailed, match="unique"):
        check_union([[0, 3], [1, 3]])
    with pytest.raises(BenchmarkFailed, match="unique"):
        check_union([[0, 3], [1]])


def test_skew_decides_how_many_calls_the_first_objects_get() -> None:
    def share_of_first(skew: float) -> float:
        targets = list(itertools.islice(targets_by_zipf(1_000, skew, Random(1)), 20_000))
        assert set(targets) <= set(range(1_000))
        return sum(target < 10 for target in targets) / len(targets)

    assert share_of_first(0.0) == pytest.approx(0.01, abs=0.005)
    assert share_of_first(1.0) == pytest.approx(0.39, abs=0.02)
