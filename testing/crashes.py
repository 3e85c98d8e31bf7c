"""Where a worker can be told to crash, or a commit to fail, and whom that is to hit.

Guarantee: a plan strikes once, at the first occasion that fits. One that never strikes fails its test: it has proved nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

CrashPoint = Literal["call", "sending", "alarm", "transaction", "before_commit", "after_commit"]
"""Where a worker can crash:

* `call`: a call has reached its object, and nothing of it has run.
* `sending`: an object has called another one; that call is under way.
* `alarm`: an alarm rings, and its handler has not begun.
* `transaction`: in a transaction, before its block ends.
* `before_commit`: what was written is about to become durable, and is lost.
* `after_commit`: it is durable, and nobody has been told.
"""
POINTS: tuple[str, ...] = get_args(CrashPoint)

ObjectName = tuple[str, str]
"""Class and name."""


class Mishap:
    """What is to happen once, where it fits."""

    def __init__(self, text: str, point: str, of: str | ObjectName | None, skip: int) -> None:
        """`of`: one object, all of a class, or any."""
        self.text = text
        self.point = point
        self.of = of
        self.skip = skip
        self.happened = False
        """Whether it has."""

    def strikes(self, point: str, objects: Iterable[ObjectName]) -> bool:
        if self.happened or point != self.point:
            return False
        if not any(self.of in (None, each, each[0]) for each in objects):
            return False
        self.skip -= 1
        self.happened = self.skip < 0
        return self.happened

    def __repr__(self) -> str:
        return f"<{self.text}, {'happened' if self.happened else 'to come'}>"


class Mishaps:
    """Those of one test."""

    def __init__(self) -> None:
        self._mishaps: list[Mishap] = []

    def add(self, mishap: Mishap) -> Mishap:
        self._mishaps.append(mishap)
        return mishap

    @property
    def are_none(self) -> bool:
        return not self._mishaps

    def strikes(self, point: str, objects: Iterable[ObjectName]) -> bool:
        """Whether one of them strikes here. To be asked once on each occasion."""
        return bool(self._mishaps) and any(plan.strikes(point, objects) for plan in self._mishaps)

    def problems(self) -> list[str]:
        return [f"{plan.text} never happened: nothing came to that point after it" for plan in self._mishaps if not plan.happened]
