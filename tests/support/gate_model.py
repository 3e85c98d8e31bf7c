"""The input gate as plainly as it can be said: one list of everybody who waits, and a walk up the tree for every question.

Immutable, so that an enumeration can go on from any state without copying it.
"""

from __future__ import annotations

from typing import NamedTuple

Op = tuple[str, int]

QUEUED, RUNNING, OVER = range(3)
ROOT = 0


class Waiting(NamedTuple):
    number: int
    node: int
    """Where it waits: for a section that wants to start, the node in which it was entered."""
    starts: int
    """The section that wants to start, or -1 for an ordinary event."""


class GateModel(NamedTuple):
    parents: tuple[int, ...] = (-1,)
    states: tuple[int, ...] = (RUNNING,)
    locks: tuple[int, ...] = ()
    queue: tuple[Waiting, ...] = ()
    numbers: int = 0

    def living(self, node: int) -> int:
        while self.states[node] == OVER:
            node = self.parents[node]
        return node

    @property
    def active(self) -> int:
        node = ROOT
        while True:
            below = [s for s in range(1, len(self.states)) if self.states[s] == RUNNING and self.living(self.parents[s]) == node]
            assert len(below) <= 1, "at most one section runs in a node"
            if not below:
                return node
            node = below[0]

    def locked(self, node: int) -> bool:
        return any(self.living(at) == node for at in self.locks)

    def waiting_in(self, node: int) -> list[Waiting]:
        return [entry for entry in self.queue if self.living(entry.node) == node]

    def passes(self, node: int) -> bool:
        node = self.living(node)
        return node == self.active and not self.locked(node) and not self.waiting_in(node)

    @property
    def open(self) -> bool:
        return self.passes(ROOT)

    def next(self) -> Waiting | None:
        """Who would be granted."""
        active = self.active
        if self.locked(active):
            return None
        waiting = self.waiting_in(active)
        return next((entry for entry in waiting if entry.starts >= 0), waiting[0] if waiting else None)

    def enabled(self, sections_max: int, locks_max: int) -> list[Op]:
        ops: list[Op] = [("grant", 0)]
        nodes = [node for node, state in enumerate(self.states) if state != QUEUED]
        ops += [("arrive", node) for node in nodes]
        if len(self.states) <= sections_max:
            ops += [("enter", node) for node in nodes]
        if len(self.locks) < locks_max:
            ops += [("lock", node) for node in nodes]
        ops += [("unlock", at) for at in range(len(self.locks))]
        ops += [("leave", node) for node in nodes if node and self.states[node] == RUNNING]
        ops += [("withdraw", node) for node, state in enumerate(self.states) if state == QUEUED]
        return ops

    def step(self, op: Op) -> tuple[GateModel, object]:
        """The state after it, and what the caller is told."""
        kind, at = op
        if kind == "arrive":
            if self.passes(at):
                return self, True
            entry = Waiting(self.numbers, at, -1)
            return self._replace(queue=(*self.queue, entry), numbers=self.numbers + 1), False
        if kind == "enter":
            parent = self.living(at)
            runs = parent == self.active and not self.locked(parent) and not any(e.starts >= 0 for e in self.waiting_in(parent))
            section = len(self.states)
            after = self._replace(parents=(*self.parents, parent), states=(*self.states, RUNNING if runs else QUEUED))
            if not runs:
                after = after._replace(queue=(*self.queue, Waiting(self.numbers, parent, section)), numbers=self.numbers + 1)
            return after, runs
        if kind == "lock":
            return self._replace(locks=(*self.locks, at)), None
        if kind == "unlock":
            return self._replace(locks=self.locks[:at] + self.locks[at + 1 :]), None
        if kind == "leave":
            moved = tuple(self.waiting_in(at))  # Behind those who wait in the parent already.
            stayed = tuple(entry for entry in self.queue if entry not in moved)
            return self._set(at, OVER)._replace(queue=stayed + moved), None
        if kind == "withdraw":
            return self._set(at, OVER)._replace(queue=tuple(entry for entry in self.queue if entry.starts != at)), None
        granted = self.next()
        if granted is None:
            return self, None
        after = self._replace(queue=tuple(entry for entry in self.queue if entry is not granted))
        if granted.starts >= 0:
            after = after._set(granted.starts, RUNNING)
        return after, granted.number

    def _set(self, node: int, state: int) -> GateModel:
        return self._replace(states=(*self.states[:node], state, *self.states[node + 1 :]))
