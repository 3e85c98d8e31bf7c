"""The input gate: decides when an event may be delivered to an object.

Guarantee: while the gate is locked, or a critical section runs, no event is delivered but those that the section started
itself. Events that wait are delivered one at a time, first come first served; sections that wait to start go before them, but
not before those that have been favoured.

Rule 1: every change of a gate's state happens in this file.
Rule 2: this file does not know what a task, a future or a clock is. A waiter is any object; the caller delivers it.
Rule 3: whoever is granted is granted before anything else can be asked: `grant` is the only way past a queue.

Sections form a tree. The *active* node is its deepest running section (or the root); only events of the active node can
pass. A section that ends while work it started is unfinished hands that work to its parent (it is re-parented): the work
neither deadlocks nor opens the gate early. Chains of ended sections are followed in a loop, never by recursion.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Container
from typing import Any, Final, TypeVar

import msgspec

from tidegate.runtime.limits import SECTION_DEPTH_MAX


class SectionsTooDeep(RuntimeError):
    """Critical sections are nested deeper than 64. Raised at entry; the object is unharmed."""


Item = TypeVar("Item")
Queue = collections.deque[Item] | tuple[()]
"""Most objects never queue anybody, and an empty deque takes 600 bytes: it is made when it is needed."""


def _joined(queue: Queue[Item], *items: Item) -> collections.deque[Item]:
    if not isinstance(queue, collections.deque):
        return collections.deque(items)
    queue.extend(items)
    return queue


class Section(msgspec.Struct, eq=False):
    """A node of the gate: the root, or one critical section. (A Struct is made without running Python code, and each object that
    comes into memory makes one.)"""

    parent: Section | None = None
    depth: int = 0
    locks: int = 0
    """Storage operations at work. Each closes the node until it is released."""
    child: Section | None = None
    """The section that runs in this one."""
    starters: Queue[tuple[Any, Section]] = ()
    waiters: Queue[Any] = ()
    favoured: int = 0
    """So many of the first waiters go before sections."""
    over: bool = False
    holder: Any = None
    """Who runs in it, as `enter` was told. Nobody once it is over: contexts keep sections, and holders their tasks."""
    token: int | None = None
    """By which the calls that its code makes name it: see `chain`."""


AT_REST: Final = Section()
"""The root of every gate that rests, which nobody enters: 100 bytes less for each of a million idle objects."""


class InputGate:
    """One per activation. `open` tells, without a call, whether an event of the root may be delivered right now."""

    __slots__ = ("active", "open", "resting", "root")

    def __init__(self) -> None:
        self.root = self.active = Section()
        self.open = True
        self.resting = False

    # Asking

    def living(self, section: Section) -> Section:
        """The section itself, or the nearest ancestor that is not over: to whom its events belong now."""
        while section.over:
            assert section.parent is not None, "the root is never over"
            section = section.parent
        return section

    def passes(self, section: Section) -> bool:
        """Whether an event of this section may be delivered now. False also when others wait: nobody overtakes."""
        if section.over:
            section = self.living(section)
        return section is self.active and not section.locks and not section.waiters and not section.starters

    def named(self, tokens: Container[int]) -> Section | None:
        """The innermost running section that has one of these tokens."""
        section = self.active
        while section.parent is not None:
            if section.token in tokens:
                return section
            section = section.parent
        return None

    def wait(self, section: Section, waiter: Any) -> None:
        """Queues a waiter that did not pass."""
        section = self.living(section)
        section.waiters = _joined(section.waiters, waiter)
        self._refresh()

    def give_up(self, section: Section, waiters: Collection[Any]) -> None:
        """Takes out who waits in a section."""
        section = self.living(section)
        section.waiters = collections.deque(each for each in section.waiters if each not in waiters)
        self._refresh()

    def grant(self) -> Any | None:
        """Takes the next waiter that may be delivered now, or None. For a starter its section has been started."""
        active = self.active
        if active.locks:
            return None
        if active.starters and not (active.favoured and active.waiters):
            waiter, section = active.starters.popleft()
            self._run(section)
            return waiter
        if active.waiters:
            waiter = active.waiters.popleft()
            active.favoured = max(0, active.favoured - 1)
            self._refresh()
            return waiter
        return None

    @property
    def has_waiters(self) -> bool:
        """Whether `grant` would return somebody."""
        active = self.active
        return not active.locks and bool(active.starters or active.waiters)

    def favour(self) -> None:
        """Whoever waits in the root now has been overtaken by sections for long enough."""
        self.root.favoured = len(self.root.waiters)

    @property
    def waiting(self) -> int:
        """How many wait anywhere."""
        count = 0
        section: Section | None = self.root
        while section is not None:
            count += len(section.starters) + len(section.waiters)
            section = section.child
        return count

    # Rest

    def rest(self) -> None:
        """Until `rouse`, the gate does not say that it is open: whoever brings an event has to rouse the object first. It must be
        open."""
        self.root = self.active = AT_REST
        self.resting = True
        self.open = False

    def rouse(self) -> None:
        self.root = self.active = Section()
        self.resting = False
        self.open = True

    # Storage operations

    def lock(self, section: Section) -> None:
        self.living(section).locks += 1
        self._refresh()

    def unlock(self, section: Section) -> None:
        section = self.living(section)
        assert section.locks > 0, "unlocked more often than locked"
        section.locks -= 1
        self._refresh()

    # Critical sections

    def enter(self, section: Section, waiter: Any) -> tuple[Section, bool]:
        """Begins a critical section inside `section`. Returns it, and whether it runs already; if not, `grant` will
        return `waiter` once it does. Raises SectionsTooDeep."""
        parent = self.living(section)
        if parent.depth + 1 > SECTION_DEPTH_MAX:
            raise SectionsTooDeep(f"critical sections and transactions are nested too deeply (limit {SECTION_DEPTH_MAX})")
        begun = Section(parent, parent.depth + 1, holder=waiter)
        if parent is self.active and not parent.locks and not parent.starters and not (parent.favoured and parent.waiters):
            self._run(begun)
            return begun, True
        parent.starters = _joined(parent.starters, (waiter, begun))
        self._refresh()
        return begun, False

    def withdraw(self, section: Section) -> None:
        """A section that was entered and does not run yet will never run."""
        assert section.parent is not None
        parent = self.living(section.parent)
        parent.starters = collections.deque(entry for entry in parent.starters if entry[1] is not section)
        section.over = True
        section.holder = None
        self._refresh()

    def leave(self, section: Section) -> None:
        """The section ends. What it started and did not finish now belongs to its parent."""
        assert not section.over, "a section ends once"
        assert section.parent is not None
        parent = self.living(section.parent)
        assert parent.child is section
        section.over = True
        section.holder = None
        parent.child = below = section.child
        if below is not None:
            below.parent = parent
            while below is not None:  # At most 64.
                below.depth -= 1
                below = below.child
        elif self.active is section:
            self.active = parent
        parent.locks += section.locks
        if section.waiters:
            parent.waiters = _joined(parent.waiters, *section.waiters)
        for waiter, starting in section.starters:
            starting.parent = parent
            parent.starters = _joined(parent.starters, (waiter, starting))
        section.locks, section.child = 0, None
        section.waiters = section.starters = ()
        self._refresh()

    def drain(self) -> list[Any]:
        """Takes out everybody who waits anywhere, in order: for an object that is being reset."""
        everybody: list[Any] = []
        section: Section | None = self.root
        while section is not None:
            everybody.extend(waiter for waiter, _ in section.starters)
            everybody.extend(section.waiters)
            section.starters = section.waiters = ()
            section = section.child
        self._refresh()
        return everybody

    def _run(self, section: Section) -> None:
        assert section.parent is not None
        section.parent.child = section
        section.depth = section.parent.depth + 1
        self.active = section
        self._refresh()

    def _refresh(self) -> None:
        root = self.root
        is_free = root is self.active and not root.locks and not root.waiters and not root.starters
        self.open = is_free and not self.resting

    def check_invariants(self) -> None:
        """Recomputes what is kept incrementally. For tests."""
        deepest = self.root
        seen = [deepest]
        while deepest.child is not None:
            assert deepest.child.parent is deepest
            assert deepest.child.depth == deepest.depth + 1
            deepest = deepest.child
            assert not deepest.over
            seen.append(deepest)
        assert deepest is self.active
        for section in seen:
            assert section.locks >= 0
            assert all(self.living(starting.parent) is section for _, starting in section.starters if starting.parent)
        root = self.root
        is_free = root is self.active and not (root.locks or root.waiters or root.starters)
        assert self.open == (is_free and not self.resting)
        assert self.resting == (root is AT_REST)
