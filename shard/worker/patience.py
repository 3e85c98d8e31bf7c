"""How long one step of the event loop may take, and what is done when: the rules. Times are arguments.

A *step* is what the loop runs at once: until it ends, everybody else in this worker waits. Somebody looks at the loop now and
then and says which step is under way. What the loop's thread has waited for a core does not count, up to a third of the time; and
no more than a pause or two counts at a time, since whoever looks may have been stopped too.

Rule 1: a step that takes long is named, with its stack, while it runs; again after twice the time. One that was slow is named
        when it is over, now and then.
Rule 2: past the limit an object's code is interrupted, again and again until that takes effect.
Rule 3: code that swallows that, or that is in a call that does not come back, ends the worker. Waiting of the runtime itself, as
        for the disk, does not.
"""

from __future__ import annotations

import enum
import math

from tidegate.runtime.limits import HELD_UP_NAMED_S, HELD_UP_SLOW_S, INTERRUPT_S_MAX

LOOK_S = 0.1
INTERRUPT_EVERY_S = 0.02
"""An interruption has no effect while the runtime's own code is at work, which is never long."""


class Reaction(enum.Enum):
    NOTHING = enum.auto()
    NAME = enum.auto()  # It goes on for long.
    INTERRUPT = enum.auto()
    END = enum.auto()  # Nothing else helps.


class Patience:
    def __init__(self, limit_s: float = math.inf) -> None:
        self._limit_s = limit_s
        self._step: object = None
        self._looked_s = 0.0
        self._starved_s = 0.0
        self._name_at_s = HELD_UP_NAMED_S
        self.held_s = 0.0
        """How long the step that was seen last has taken so far."""
        self.tried = 0
        """How often its interruption was tried."""

    @property
    def pause_s(self) -> float:
        """Until the next look."""
        return INTERRUPT_EVERY_S if self.tried else LOOK_S

    def has_changed(self, step: object) -> bool:
        """Whether the step that was seen last is over; `held_s` is of that until `look`."""
        return step is not self._step

    @property
    def was_slow(self) -> bool:
        return self.held_s >= HELD_UP_SLOW_S

    @property
    def _is_named(self) -> bool:
        return self._name_at_s > HELD_UP_NAMED_S

    def look(self, now_s: float, step: object, starved_s: float, *, heard: int, raised: int, interruptible: bool) -> Reaction:
        """`step`: the one under way, None: the loop waits. `starved_s`: how long its thread has waited for a core in its life.
        `heard`, `raised`: how often an interruption of this step has come through to Python, and how often to the object's code.
        `interruptible`: it is at work now, and nothing of the runtime above it."""
        pause_s, self._looked_s = now_s - self._looked_s, now_s
        starved, self._starved_s = starved_s - self._starved_s, starved_s
        if step is None or step is not self._step:
            self._step, self.held_s, self.tried, self._name_at_s = step, 0.0, 0, HELD_UP_NAMED_S
            return Reaction.NOTHING
        self.held_s += min(pause_s - min(starved, pause_s / 3), 2 * LOOK_S)
        if self.held_s >= self._limit_s + INTERRUPT_S_MAX and (raised or not heard) and interruptible:
            return Reaction.END
        if self.held_s >= self._limit_s and self._is_named:
            self.tried += 1
            return Reaction.INTERRUPT
        if self.held_s >= min(self._name_at_s, self._limit_s):  # A lookout that is starved may see both at once.
            self._name_at_s *= 2
            return Reaction.NAME
        return Reaction.NOTHING
