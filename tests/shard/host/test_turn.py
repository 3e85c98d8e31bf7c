"""A turn: one clock, one end, however many ask for it."""

from __future__ import annotations

from random import Random

from tidegate.shard.host.turn import Turn
from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime


def test_a_turn_ends_once_however_many_ask_and_after_what_could_run_before() -> None:
    virtual, story = VirtualTime(Random(1)), list[str]()
    loop = ProcessLoop(virtual, story.append)
    turn = Turn(loop, lambda: story.append("the end"))
    for number in range(3):
        turn.end_soon()
        loop.call_soon(story.append, f"asked {number}")
    virtual.run(1.0)
    assert story == ["the end", "asked 0", "asked 1", "asked 2"]
    turn.end_soon()
    virtual.run(1.0)
    assert story[4:] == ["the end"]


def test_a_turn_that_ends_on_request_has_a_clock_of_its_own() -> None:
    virtual, times = VirtualTime(Random(1)), list[float]()
    loop = ProcessLoop(virtual, print)
    turn = Turn(loop, lambda: times.append(turn.now_s))
    loop.call_later(5.0, turn.end_soon)
    virtual.run(3.0)
    assert (turn.now_s, times) == (0.0, [])
    turn.begin()
    assert turn.now_s == 3.0
    virtual.run(10.0)
    assert times == [5.0]
