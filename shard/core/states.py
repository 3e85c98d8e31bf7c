"""The states of an object in memory: what each means, what may follow, and the story of the newest moves.

Guarantee: an activation moves along `TRANSITIONS` and no other way. Anything else raises `InvalidTransition`, which tells the
story of the object.

Rule: moves are rare (a start, a rest, a reset, an eviction). A call moves nothing: it asks `gate.open` and `broken`.

Where a reset object's last commit is still under way, its successor waits for that outside of any activation (`waiting.py`).
"""

from __future__ import annotations

import collections
import enum
import itertools
from typing import Any, Final, NamedTuple

from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import STORIES_MAX, STORY_MAX


class State(enum.Enum):
    __hash__ = object.__hash__  # Enum's own is written in Python, and a move looks up two.

    BARE = "bare"
    """Without an instance and in no table: made for a call that starts it now, or lent to the runtime for a change of its own.
    Next: STARTING, or at once AWAKE where no code of its own runs for that; LOST if the change is."""
    STARTING = "starting"
    """`__init__` or `on_start` may run; whoever calls waits at the gate. Next: AWAKE, or one of the two ends of a reset."""
    AWAKE = "awake"
    """Calls are delivered. Next: RESTING or ASLEEP when it has been idle for long, EVICTED when memory is short, or a reset."""
    RESTING = "resting"
    """Idle, with an instance that has kept nothing: it stays, since a new one would be no different. Its gate says that it is
    closed, so that the next call takes the way on which it is roused. Next: AWAKE, then perhaps EVICTED at once."""
    ASLEEP = "asleep"
    """Idle, and its instance has left memory; what its storage has cached is kept. Next: BARE when somebody asks for it, or
    EVICTED."""
    EVICTED = "evicted"
    """Out of memory: nothing of it was undurable. The next call makes another activation."""
    FAILED = "failed"
    """Reset, and its own code is to blame: `abort`, a critical section, a start. Its calls go to another activation."""
    LOST = "lost"
    """Reset through no fault of its own: something that it had written or seen is lost, or the runtime has made a mistake with
    it. Its calls go to another activation."""


class Event(enum.Enum):
    __hash__ = object.__hash__

    BEGUN = "begun"
    """Its instance is made now."""
    STARTED = "started"
    RESTED = "rested"
    ROUSED = "roused"
    LAID_DOWN = "laid down"
    """Its instance has left memory."""
    WOKEN = "woken"
    EVICTED = "evicted"
    FAILED = "failed"
    LOST = "lost"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.BARE, Event.BEGUN): State.STARTING,
    (State.BARE, Event.STARTED): State.AWAKE,
    (State.BARE, Event.LOST): State.LOST,
    (State.STARTING, Event.STARTED): State.AWAKE,
    (State.STARTING, Event.FAILED): State.FAILED,
    (State.STARTING, Event.LOST): State.LOST,
    (State.AWAKE, Event.RESTED): State.RESTING,
    (State.AWAKE, Event.LAID_DOWN): State.ASLEEP,
    (State.AWAKE, Event.EVICTED): State.EVICTED,
    (State.AWAKE, Event.FAILED): State.FAILED,
    (State.AWAKE, Event.LOST): State.LOST,
    (State.RESTING, Event.ROUSED): State.AWAKE,
    (State.RESTING, Event.FAILED): State.FAILED,  # Somebody holds its instance by a weak reference.
    (State.RESTING, Event.LOST): State.LOST,
    (State.ASLEEP, Event.WOKEN): State.BARE,
    (State.ASLEEP, Event.EVICTED): State.EVICTED,
    (State.ASLEEP, Event.LOST): State.LOST,
}
"""What may follow, by what happened. Whatever may still move can be LOST: that is how a mistake of the runtime ends."""

_AFTER: Final = {state: {event: after for (before, event), after in TRANSITIONS.items() if before is state} for state in State}
"""The same by state: to ask it takes no tuple."""

FIRST: Final = State.BARE
LAST: Final = frozenset(State) - {state for state, _ in TRANSITIONS}
"""From these nothing follows: the activation is *broken*."""


_PARTS = 4


class Move(NamedTuple):
    """One move of one object. `at_s` is the clock of the loop."""

    at_s: float
    id: ObjectId
    state: State
    event: Event

    def __str__(self) -> str:
        after = TRANSITIONS.get((self.state, self.event))
        return f"{self.at_s:.3f} s: {self.state.value}, {self.event.value} -> {after.value if after else 'impossible'}"


class InvalidTransition(RuntimeError):
    """A mistake of the runtime: the object cannot move like this. `story` are its newest moves, the impossible one last."""

    def __init__(self, story: list[Move]) -> None:
        self.story = story
        lines = "\n  ".join(map(str, story))
        super().__init__(f"{story[-1].id}: what happened to it cannot happen in its state; its newest moves:\n  {lines}")


class Stories:
    """The newest moves of all objects of a worker. An object that moves seldom has none left where others move often; in return
    an object costs nothing, of a million that rest."""

    def __init__(self) -> None:
        self._moves: collections.deque[Any] = collections.deque(maxlen=STORIES_MAX * _PARTS)
        """Time, id, state and event of one after the other: what is a tuple Python's collector looks at, of each object that has
        come into memory."""
        self.mistakes = 0
        """Impossible transitions, all in all."""

    def move(self, object_id: ObjectId, state: State, event: Event, now_s: float) -> State:
        """The state that follows. Raises InvalidTransition."""
        after = _AFTER[state].get(event)
        if after is None:
            self.mistakes += 1
            raise InvalidTransition([*self.of(object_id)[1 - STORY_MAX :], Move(now_s, object_id, state, event)])
        self._moves += (now_s, object_id, state, event)
        return after

    def of(self, object_id: ObjectId) -> list[Move]:
        """What is still known of one object, the oldest first."""
        backwards = reversed(self._moves)
        moves = zip(*[backwards] * _PARTS, strict=True)  # Each from its last part to its first.
        newest = itertools.islice((Move(*move[::-1]) for move in moves if move[2] == object_id), STORY_MAX)
        return list(newest)[::-1]


def drawing() -> str:
    """The table as a state diagram, in the language of Mermaid."""
    arrows = [f"[*] --> {FIRST.value}"]
    arrows += [f"{state.value} --> {after.value} : {event.value}" for (state, event), after in TRANSITIONS.items()]
    arrows += [f"{state.value} --> [*]" for state in State if state in LAST]
    return "\n    ".join(["stateDiagram-v2", *arrows]) + "\n"
