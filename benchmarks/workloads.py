"""Named workloads: which method is called, and what makes the answers right."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import msgspec


class BenchmarkFailed(Exception):
    """The run gave wrong answers, or none. Its figures mean nothing."""


UNANSWERED = object()
"""Stands in the place of an answer until it arrives."""


class Answers(enum.Enum):
    NUMBERS = "numbers"
    """Every object answers 0, 1, 2, … in the order in which it was called."""
    CONSTANT = "constant"
    """Every call to one object has the same answer: nothing writes."""


class Workload(msgspec.Struct, frozen=True):
    """Calls of one method, dealt in turn to `objects` objects."""

    name: str
    summary: str
    method: str
    answers: Answers
    class_name: str = "Counter"


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("unique", "durable read-modify-write: unique, gap-free numbers", "get_unique_number", Answers.NUMBERS),
        Workload("read", "cached get", "current", Answers.CONSTANT),
    )
}


def check_answers(answers: Answers, results: Sequence[Any], objects: int) -> None:
    """`results[i]` is what call i, to object `i % objects`, was answered, from the first call ever made to the objects.
    Raises BenchmarkFailed."""
    for index in range(min(objects, len(results))):
        got = results[index::objects]
        if UNANSWERED in got:
            raise BenchmarkFailed(f"a call to object {index} was never answered, though others were answered twice")
        expected = range(len(got)) if answers is Answers.NUMBERS else [got[0]] * len(got)
        if list(got) == list(expected):
            continue
        if answers is Answers.CONSTANT:
            raise BenchmarkFailed(f"object {index} changed its answer without a write: {_first(got)}")
        if sorted(got) == list(expected):
            raise BenchmarkFailed(f"object {index} was not called in the order in which calls were sent: {_first(got)}")
        raise BenchmarkFailed(f"object {index} did not give unique, gap-free numbers: {_first(got)}")


def _first(got: Sequence[Any]) -> str:
    text = ", ".join(map(repr, got[:12]))
    return f"{text}, …" if len(got) > 12 else text
