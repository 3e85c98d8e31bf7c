"""What tests wait with."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.waiting import wait_until, wait_until_in_loop


def test_what_comes_true_in_time_is_given_back() -> None:
    answers = iter([None, 0, "", "there"])
    assert wait_until(lambda: next(answers), "the answer") == "there"
    answers = iter([None, 0, "", "there"])
    assert asyncio.run(wait_until_in_loop(lambda: next(answers), "the answer")) == "there"


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_wait_in_vain_says_what_was_waited_for_and_what_was_seen_last(in_loop: bool) -> None:
    def wait(*args: object, **options: object) -> None:
        if in_loop:
            asyncio.run(wait_until_in_loop(*args, **options))  # type: ignore[arg-type]  # of any arguments
        else:
            wait_until(*args, **options)  # type: ignore[arg-type]  # of any arguments

    with pytest.raises(AssertionError, match=r"^the third: not within 0.01 s; seen last: \[\]"):
        wait(list, "the third", 0.01)
    with pytest.raises(AssertionError, match=r"^the third: not within 0.01 s; seen last: only two"):
        wait(lambda: False, "the third", 0.01, seen=lambda: "only two")
