"""The loop's assumptions about CPython and asyncio hold here, and one that does not is seen."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.shard.loop import self_test as module
from tidegate.shard.loop import spare
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.loop.self_test import OF_SPARE_TASK, OF_TASKS, Verdict, self_test

drive = spare._drive


class Mute:
    """A driver that does not tell what it runs."""

    gi_yieldfrom = None

    def __init__(self) -> None:
        self._below = drive()

    def send(self, sent: Any) -> Any:
        return self._below.send(sent)


def nothing(*_: Any) -> None:
    pass


def test_everything_that_is_assumed_holds_in_this_python() -> None:
    assert self_test(new_worker_loop()) == Verdict((), ())


@pytest.mark.parametrize(
    ("where", "name", "instead", "which"),
    [
        (module, "references_to", lambda _: 3, 0),
        (module, "references_to", lambda _: 1_000, 0),
        (module, "weak_references_to", lambda _: 0, 1),
        (spare, "_drive", Mute, 2),
    ],
)
def test_without_what_the_spare_task_leans_on_the_verdict_names_that_alone(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, instead: Any, which: int
) -> None:
    monkeypatch.setattr(where, name, instead)
    verdict = self_test(new_worker_loop())
    assert not verdict.of_tasks
    assert list(verdict.of_spare_task) == [list(OF_SPARE_TASK)[which]]


@pytest.mark.parametrize(
    ("name", "instead", "which"),
    [
        ("enter_task", nothing, "entered by hand"),
        ("leave_task", nothing, "entered by hand"),
        ("register_task", nothing, "registered"),
        ("loop_of", nothing, "what awaits"),
        ("awaited_by", nothing, "suspended coroutine"),
    ],
)
def test_without_what_every_task_leans_on_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, name: str, instead: Any, which: str
) -> None:
    monkeypatch.setattr(module, name, instead)
    verdict = self_test(new_worker_loop())
    assert next(what for what in OF_TASKS if which in what) in verdict.of_tasks
