"""The states of an object: the table is followed to the letter, and whoever leaves it is told the story."""

from __future__ import annotations

import itertools

import pytest

from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import STORIES_MAX, STORY_MAX
from tidegate.shard.core.states import FIRST, LAST, TRANSITIONS, Event, InvalidTransition, State, Stories

ONE = ObjectId("Counter", "one")
EVERY = sorted(itertools.product(State, Event), key=lambda pair: (pair[0].value, pair[1].value))


@pytest.mark.parametrize(("state", "event"), EVERY, ids=lambda each: each.value)
def test_every_event_in_every_state_is_in_the_table_or_refused(state: State, event: Event) -> None:
    stories = Stories()
    if (state, event) in TRANSITIONS:
        assert stories.move(ONE, state, event, 1.0) is TRANSITIONS[state, event]
        assert [move[1:] for move in stories.of(ONE)] == [(ONE, state, event)]
        assert stories.mistakes == 0
    else:
        with pytest.raises(InvalidTransition, match=f"Counter/one.*\n.*{state.value}, {event.value} -> impossible"):
            stories.move(ONE, state, event, 1.0)
        assert stories.of(ONE) == [], "it has not moved"
        assert stories.mistakes == 1


def test_every_state_can_be_reached_and_every_way_ends() -> None:
    after = {state: {to for (at, _), to in TRANSITIONS.items() if at is state} for state in State}
    reached = {FIRST}
    while new := {to for state in reached for to in after[state]} - reached:
        reached |= new
    assert reached == set(State)
    ending = set(LAST)
    while new := {state for state in State if after[state] & ending} - ending:
        ending |= new
    assert ending == set(State)


def test_whatever_is_not_over_yet_can_be_reset() -> None:
    assert {state for state, event in TRANSITIONS if event is Event.LOST} == set(State) - LAST
    assert {State.EVICTED, State.FAILED, State.LOST} == LAST


def test_an_impossible_transition_tells_the_newest_moves_of_that_object_alone() -> None:
    stories, state, now_s = Stories(), State.AWAKE, 0.0
    for now_s in range(20):
        state = stories.move(ONE, state, Event.RESTED if state is State.AWAKE else Event.ROUSED, now_s)
        stories.move(ObjectId("Counter", "two"), State.BARE, Event.BEGUN, now_s)
    with pytest.raises(InvalidTransition) as caught:
        stories.move(ONE, state, Event.WOKEN, 20.5)
    assert len(caught.value.story) == STORY_MAX
    assert {move.id for move in caught.value.story} == {ONE}
    assert [move.at_s for move in caught.value.story] == [13, 14, 15, 16, 17, 18, 19, 20.5]
    assert str(caught.value).endswith("19.000 s: resting, roused -> awake\n  20.500 s: awake, woken -> impossible")


def test_a_worker_remembers_a_bounded_number_of_moves() -> None:
    stories = Stories()
    for number in range(3 * STORIES_MAX):
        stories.move(ObjectId("Counter", str(number)), State.BARE, Event.BEGUN, 0.0)
    known = sum(bool(stories.of(ObjectId("Counter", str(number)))) for number in (0, 2 * STORIES_MAX - 1, 2 * STORIES_MAX))
    assert known == 1
    assert len(stories._moves) == 4 * STORIES_MAX, "each of four parts"
