"""Whether what callers saw of one object could have come from calls that took effect one after another.

Rule 1: pure. What the object does to its state is a model, given; when calls began and were answered is told in that order.
Rule 2: a call whose outcome nobody knows may have taken effect at any time since it began, may yet, or never will.
Rule 3: exact. If it says no, there is no order; if it cannot tell within its bounds, it says so.

Wing and Gong's search, with a memo, done at each answer as Lowe does it: what is kept from one answer to the next is every state
in which the object may be, with the calls that have taken effect ahead of their answers. So a history has no length.

Three things keep that small. A call that fits and changes nothing is let take effect as soon as it fits. Equal calls of unknown
outcome are counted, not told apart. And these take effect only where an answer cannot be explained without them; should a later
answer then find no explanation, everything since the first of them is searched again, thoroughly. A test compares with the search
of all orders.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from tidegate.runtime.limits import CHAOS_POSSIBILITIES_MAX

Invocation = tuple[str, tuple[Hashable, ...]]
"""Method and arguments."""
Model = Callable[[Hashable, Invocation], tuple[Hashable, Hashable]]
"""From a state and a call to the next state and the result."""


class Possibility(NamedTuple):
    state: Hashable
    done: frozenset[int]
    """Calls that have taken effect and will be answered later."""
    open: frozenset[tuple[Invocation, int]]
    """Calls of unknown outcome that have not taken effect: which, and how many of them."""


class Undecided(Exception):
    """More possibilities than can be looked at."""


class ObjectCheck:
    """The history of one object, from its beginning."""

    def __init__(self, model: Model, state: Hashable) -> None:
        self._search = _Search(model, {}, {Possibility(state, frozenset(), frozenset())})
        self._anchor: _Search | None = None
        """As it was before the first call of unknown outcome, or at the last thorough search."""
        self._since: list[tuple[int | None, Invocation | None, Hashable]] = []
        """What has been told since then."""
        self.unknown: dict[Invocation, int] = {}
        """How many calls there were whose outcome is not known."""

    @property
    def kept(self) -> int:
        """How much is kept for a thorough search: what began and what was answered since the first call of unknown outcome."""
        return len(self._since)

    @property
    def states(self) -> set[Hashable]:
        """In which the object may be. None: there is no order that explains the answers."""
        return {possibility.state for possibility in self._search.possible}

    def began(self, number: int, call: Invocation, result: Hashable) -> None:
        """A call that will be answered by `result`. Numbers are the caller's, each once."""
        self._tell(number, call, result)

    def began_unknown(self, call: Invocation) -> None:
        if self._anchor is None:
            self._anchor = self._search.copy()
        self.unknown[call] = self.unknown.get(call, 0) + 1
        self._tell(None, call, None)

    def answered(self, number: int) -> bool:
        """Whether there still is an order. Raises Undecided."""
        self._tell(number, None, None)
        if not self._search.possible and self._anchor is not None:
            self._search = self._anchor
            for event in self._since:
                self._search.tell(*event, thorough=True)
            self._anchor, self._since = self._search.copy(), []
        return bool(self._search.possible)

    def _tell(self, number: int | None, call: Invocation | None, result: Hashable) -> None:
        if self._anchor is not None:
            self._since.append((number, call, result))
        self._search.tell(number, call, result, thorough=False)


class _Search:
    def __init__(self, model: Model, waiting: dict[int, tuple[Invocation, Hashable]], possible: set[Possibility]) -> None:
        self._model = model
        self._waiting = waiting
        self.possible = possible

    def copy(self) -> _Search:
        return _Search(self._model, dict(self._waiting), set(self.possible))

    def tell(self, number: int | None, call: Invocation | None, result: Hashable, *, thorough: bool) -> None:
        """With a call: that it began, without a number that its outcome is unknown. Without a call: that it was answered."""
        if call is None:
            assert number is not None
            self._answered(number, thorough)
        elif number is None:
            self.possible = {Possibility(state, done, _add(open_, call, 1)) for state, done, open_ in self.possible}
        else:
            self._waiting[number] = call, result

    def _answered(self, number: int, thorough: bool) -> None:
        explained: set[Possibility] = set()
        for possibility in self.possible:
            if number in possibility.done:
                explained.add(possibility._replace(done=possibility.done - {number}))
            else:
                explained |= self._explain(possibility, number, thorough)
            if len(explained) > CHAOS_POSSIBILITIES_MAX:
                raise Undecided
        del self._waiting[number]
        self.possible = explained

    def _explain(self, start: Possibility, number: int, thorough: bool) -> set[Possibility]:
        """Everything that may be when the call has taken effect: unless `thorough`, with as few of unknown outcome as can be."""
        seen = {start}
        layer = [start]
        explained: set[Possibility] = set()
        while layer and (thorough or not explained):
            found, reached = self._without_unknown(layer, number, seen)
            explained |= found
            layer = []
            for state, done, open_ in reached:
                for call, _ in open_:
                    after, _ = self._model(state, call)
                    possibility = Possibility(after, done, _add(open_, call, -1))
                    if after != state and possibility not in seen:
                        seen.add(possibility)
                        layer.append(possibility)
        return explained

    def _without_unknown(
        self, layer: list[Possibility], number: int, seen: set[Possibility]
    ) -> tuple[set[Possibility], list[Possibility]]:
        """What is found when `number` has taken effect, and what is reached on the way there."""
        found: set[Possibility] = set()
        reached = []
        frontier = [self._with_reads(possibility) for possibility in layer]
        while frontier:
            possibility = frontier.pop()
            if number in possibility.done:
                found.add(possibility._replace(done=possibility.done - {number}))
                continue
            reached.append(possibility)
            for other, (call, result) in self._waiting.items():
                if other in possibility.done:
                    continue
                after, answer = self._model(possibility.state, call)
                if answer != result:
                    continue
                further = self._with_reads(Possibility(after, possibility.done | {other}, possibility.open))
                if further not in seen:
                    seen.add(further)
                    frontier.append(further)
            if len(seen) > CHAOS_POSSIBILITIES_MAX:
                raise Undecided
        return found, reached

    def _with_reads(self, possibility: Possibility) -> Possibility:
        """With every waiting call that fits and changes nothing."""
        state, done, _ = possibility
        fit = [
            number
            for number, (call, result) in self._waiting.items()
            if number not in done and self._model(state, call) == (state, result)
        ]
        return possibility._replace(done=done.union(fit)) if fit else possibility


def _add(open_: frozenset[tuple[Invocation, int]], call: Invocation, count: int) -> frozenset[tuple[Invocation, int]]:
    counts = dict(open_)
    counts[call] = counts.get(call, 0) + count
    if not counts[call]:
        del counts[call]
    return frozenset(counts.items())
