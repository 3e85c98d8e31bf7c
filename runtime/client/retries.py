"""Calls that have failed and are tried again: which, when, and what waits for them meanwhile.

Rule 1: pure. `now` and chance are arguments.
Rule 2: a call is sent again only if it has not run, or if the service, by its key, runs it once all the same.
Rule 3: the calls to one object stay in order. While one of them is to be tried again the object is *held*: later calls wait,
and all go out together, in the order in which they were made, when none of the object's is in flight. One that was refused is not
sent again once a later one of the same task has run; it is answered by its error.
Rule 4: what is overloaded is not made worse. Pauses grow; a call refused for that is sent again only when the service has said
when it makes sense, and only so often in proportion to all calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from tidegate.runtime.client.links import Entry, Link, Passed, Row
from tidegate.runtime.client.terms import History, Terms
from tidegate.runtime.errors import CallError, Moved, ObjectReset, Overloaded, ShardLost, Unavailable

PAUSE_S = 0.02
"""Before the second try, at most; doubled for each further one."""
PAUSE_S_MAX = 1.0
RESETS_MAX = 3
"""So many resets of its object a call outlives. What is reset again and again is reset by its own code."""
OVERLOADED_FREE = 100
OVERLOADED_SHARE = 0.2
"""Refused calls that are sent again, beyond the free ones, for each call made."""
LOOK_AGAIN_S = 0.02
"""A slot that is on its way to another link keeps its held calls for so long more."""

_RETRIED = (Moved, Unavailable, Overloaded, ShardLost, ObjectReset)
ObjectName = tuple[str, str]


class Hold:
    """Of one object."""

    __slots__ = ("due", "in_flight", "passed", "refused", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.due = 0.0
        """Its calls go out no sooner."""
        self.in_flight: set[int] = set()
        """Earlier calls that they wait for, once those have been counted."""
        self.refused: set[int] = set()
        """Calls that were answered by a failure. (What is lost with its link has not been passed: it was delivered first.)"""
        self.passed = Passed()
        """Those that may have run since."""


class Holds:
    """The held objects and their calls. The machine asks `by_object` on its hot path."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance`: a number from 0 to 1, another one each time."""
        self._chance = chance
        self._overloaded = 0
        self.keys_kept = False
        """The service runs a call once, however often it is sent with the same key."""
        self.by_object: dict[ObjectName, Hold] = {}
        self.by_slot: dict[int, int] = {}
        """How many objects of a slot are held."""
        self.link = Link(0, "")
        """No connection: keeps the calls."""
        self.link.connecting_until = math.inf

    # Failures

    def try_again(self, entry: Entry, error: CallError, calls_made: int, now: float) -> tuple[Terms, float] | None:
        """The terms of the next try and the seconds until it. None: the error is the answer."""
        terms, row = entry[6], entry[3]
        if not terms.retries or not error.retryable or not isinstance(error, _RETRIED):
            return None
        if error.outcome != "not_executed" and not self._is_safe(row, terms):
            return None
        history = terms.history
        tries, resets = (1, 0) if history is None else (history.tries + 1, history.resets)
        resets += isinstance(error, ObjectReset)
        pause_s = max(self._pause_s(tries), _hint_s(error) * (1 + self._chance() / 4))
        if resets > RESETS_MAX or now + pause_s >= entry[2]:
            return None
        if error.overloaded:
            if not _hint_s(error) or self._overloaded >= OVERLOADED_FREE + OVERLOADED_SHARE * calls_made:
                return None
            self._overloaded += 1
        may_have_run = error.outcome != "not_executed" or (history is not None and history.may_have_run)
        return terms.after(History(tries, resets, error, may_have_run=may_have_run)), pause_s

    def _is_safe(self, row: Row, terms: Terms) -> bool:
        """To send it although it may have run."""
        if not row[1]:
            return True  # A question.
        return self.keys_kept and (terms.key is not None or terms.in_session)

    def _pause_s(self, tries: int) -> float:
        return min(PAUSE_S_MAX, PAUSE_S * 2.0 ** min(tries - 1, 16)) * (0.5 + self._chance() / 2)

    # Objects

    def hold(self, entry: Entry, due: float, *, refused: bool) -> None:
        """Keeps a call, and from now on all of its object."""
        row, slot = entry[3], entry[4]
        hold = self.by_object.get(row[1:3])
        if hold is None:
            hold = self.by_object[row[1:3]] = Hold(slot)
            self.by_slot[slot] = self.by_slot.get(slot, 0) + 1
        hold.due = max(hold.due, due)
        if refused:
            hold.refused.add(row[0])
        self.keep(entry)

    def keep(self, entry: Entry) -> None:
        """A call of a held object."""
        self.link.calls[entry[3][0]] = entry
        self.link.add(entry[3])

    def answered(self, entry: Entry, *, ran: bool) -> float:
        """A call of any object will not come back. Returns from when on those that waited for it may go out."""
        row = entry[3]
        hold = self.by_object.get(row[1:3])
        if hold is None:
            return math.inf
        if ran:
            hold.passed.note(entry)
        hold.in_flight.discard(row[0])
        return math.inf if hold.in_flight else hold.due

    def due(self, now: float) -> set[ObjectName]:
        return {name for name, hold in self.by_object.items() if hold.due <= now and not hold.in_flight}

    def next_due(self) -> float:
        return min((hold.due for hold in self.by_object.values() if not hold.in_flight), default=math.inf)

    def wait_for(self, links: Iterable[Link], due: set[ObjectName]) -> set[ObjectName]:
        """Those of the objects of which no call is in flight; the others wait for theirs."""
        ready = set(due)
        for link in links:
            for call_id, entry in link.calls.items() if link is not self.link else ():
                name = entry[3][1:3]
                if name in due:
                    ready.discard(name)
                    self.by_object[name].in_flight.add(call_id)
        return ready

    def release(self, names: set[ObjectName]) -> tuple[list[Entry], list[Entry]]:
        """The calls that go out now, in order, and those that would come too late."""
        link = self.link
        taken = sorted(call_id for call_id, entry in link.calls.items() if entry[3][1:3] in names)
        out: list[Entry] = []
        late: list[Entry] = []
        for call_id in taken:
            entry = link.calls.pop(call_id)
            hold = self.by_object[entry[3][1:3]]
            (late if call_id in hold.refused and hold.passed.has_passed(entry) else out).append(entry)
        link.rows = [row for row in link.rows if row[1:3] not in names]
        for name in names:
            slot = self.by_object.pop(name).slot
            self.by_slot[slot] -= 1
            if not self.by_slot[slot]:
                del self.by_slot[slot]
        return out, late

    def check_invariants(self) -> None:
        assert {row[0] for row in self.link.rows} == self.link.calls.keys()
        assert {entry[3][1:3] for entry in self.link.calls.values()} <= self.by_object.keys()
        slots: dict[int, int] = {}
        for hold in self.by_object.values():
            slots[hold.slot] = slots.get(hold.slot, 0) + 1
        assert slots == self.by_slot, (slots, self.by_slot)


def _hint_s(error: CallError) -> float:
    """When the service says that it makes sense to ask again."""
    hint = error.details.get("retry_after_ms", 0)
    return hint / 1_000 if isinstance(hint, int | float) and hint > 0 else 0.0


def in_the_end(error: CallError, terms: Terms, *, passed: bool = False) -> CallError:
    """The error as the caller is told it: with what was tried before. A call that may have run once may have run. `passed`: it is
    not sent again because a later one may have run."""
    history = terms.history
    if history is None or error.outcome == "executed":
        return error
    tries = history.tries + (error is not history.last)
    text = f"; tried {'once' if tries == 1 else f'{tries} times'}"
    if passed:
        text += ", and not again, because a later call to the object may have run"
    if error is not history.last and type(error) is not type(history.last):
        text += f", before with {history.last.code}: {history.last.message}"
    told = error.again()
    told.message += text
    told.args = (told.message,)
    if history.may_have_run and told.outcome == "not_executed":
        told.outcome = "unknown"
    return told
