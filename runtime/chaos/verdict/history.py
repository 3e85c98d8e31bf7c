"""Every call of a run, and what is wrong with their answers: object by object, as time goes on.

Rule 1: pure. Times are the recorder's, on one clock; what has not been told yet began after the watermark.
Rule 2: calls that were refused (`not_executed`) must have done nothing: they are in no object's history.
"""

from __future__ import annotations

import collections
import heapq
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from tidegate.runtime.chaos.verdict.linearizability import ObjectCheck, Undecided
from tidegate.runtime.chaos.verdict.models import MODELS, comparable
from tidegate.runtime.limits import CHAOS_STORY_CALLS, CHAOS_UNKNOWN_MAX

RETIRED_STORY_CALLS = 100
"""Of an object that is asked only once more there need not be as many."""

Fate = Literal["running", "answered", "refused", "unknown"]
Kind = Literal["wrong answer", "unanswered", "error", "money", "service"]


class Operation(msgspec.Struct):
    """A call as its caller saw it."""

    number: int
    caller: str
    class_name: str
    name: str
    method: str
    args: tuple[Any, ...]
    began_at: float
    """Seconds, of a clock that all callers share."""
    ended_at: float = math.inf
    fate: Fate = "running"
    result: Any = None
    """Of an answered one: what came back, or ("raised", type)."""
    error: str = ""
    """The code of the error that it ended with."""
    message: str = ""
    """Its text."""
    attempts: int = 1


class Violation(msgspec.Struct, frozen=True):
    """A promise was broken."""

    kind: Kind
    what: str
    """The object, the call or the process."""
    text: str


class ObjectHistory:
    """What is known of one object."""

    def __init__(self, class_name: str, name: str) -> None:
        self.class_name = class_name
        self.name = name
        model, state = MODELS[class_name]
        self.check = ObjectCheck(model, state)
        self.story: collections.deque[Operation] = collections.deque(maxlen=CHAOS_STORY_CALLS)
        """The newest calls, in the order in which they ended."""
        self.over = False
        """Nothing more can be said of it: it was wrong, or is undecided."""
        self.retired = False

    @property
    def is_heavy(self) -> bool:
        """It has so many calls of unknown outcome, or so much to be searched again, that another one should take its place."""
        return len(self.check.unknown) > CHAOS_UNKNOWN_MAX or self.check.kept > 2 * CHAOS_STORY_CALLS


class RunHistory:
    def __init__(self, retire: Callable[[str, str], None]) -> None:
        """`retire(class, name)`: from now on another object is to be called in its place."""
        self.violations: list[Violation] = []
        self.undecided: list[str] = []
        """Objects whose history has too many orders to be searched."""
        self.checked = 0
        """Answers that were looked at."""
        self._retire = retire
        self._objects: dict[tuple[str, str], ObjectHistory] = {}
        self._events: list[tuple[float, bool, int, Operation]] = []
        """A heap: when, whether it ended then, which."""

    def story_of(self, what: str) -> list[Operation]:
        """The newest calls of the object `Class/name`."""
        class_name, _, name = what.partition("/")
        found = self._objects.get((class_name, name))
        return [] if found is None else list(found.story)

    def digest(self, ended: Iterable[Operation], watermark: float) -> None:
        """`ended`: calls that ended since the last time. Everything that happened before `watermark` has been told with them."""
        for operation in ended:
            if operation.fate == "refused" or operation.class_name not in MODELS:
                continue
            heapq.heappush(self._events, (operation.began_at, False, operation.number, operation))
            if operation.fate == "answered":
                heapq.heappush(self._events, (operation.ended_at, True, operation.number, operation))
        while self._events and self._events[0][0] < watermark:
            _, has_ended, _, operation = heapq.heappop(self._events)
            self._tell(operation, has_ended)

    def _tell(self, operation: Operation, has_ended: bool) -> None:
        key = operation.class_name, operation.name
        history = self._objects.get(key)
        if history is None:
            history = self._objects[key] = ObjectHistory(*key)
        if history.over:
            return
        call = operation.method, operation.args
        if has_ended:
            history.story.append(operation)
            self._answered(history, operation)
        elif operation.fate == "unknown":
            history.story.append(operation)
            history.check.began_unknown(call)
        else:
            history.check.began(operation.number, call, comparable(operation.result))
        if history.is_heavy and not history.retired:
            history.retired = True
            history.story = collections.deque(history.story, maxlen=RETIRED_STORY_CALLS)
            self._retire(*key)

    def _answered(self, history: ObjectHistory, operation: Operation) -> None:
        what = f"{history.class_name}/{history.name}"
        states = history.check.states
        self.checked += 1
        try:
            if history.check.answered(operation.number):
                return
        except Undecided:
            self.undecided.append(what)
        else:
            call = f"{operation.method}{operation.args} of {operation.caller}"
            shown = ", ".join(sorted(map(repr, states))[:5])
            text = f"{call} was answered {operation.result!r}, which no order of its calls explains; before that it was {shown}"
            self.violations.append(Violation("wrong answer", what, text))
        history.over = True
