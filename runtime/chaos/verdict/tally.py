"""How many calls there were, how they ended, how long they took. Pure."""

from __future__ import annotations

import collections
import math
from typing import Any

from tidegate.runtime.chaos.verdict.history import Operation

_STEP = math.log(1.05)
"""Latencies are known to 5 %."""


class Tally:
    def __init__(self) -> None:
        self.answered = 0
        self.again = 0
        """Calls that were sent more than once, by a caller of ours that does so."""
        self.errors: collections.Counter[tuple[str, str, str]] = collections.Counter()
        """By kind of caller, code and fate."""
        self.examples: dict[tuple[str, str, str], Operation] = {}
        """The first call of each of them."""
        self.worst_s = 0.0
        self._latencies: collections.Counter[int] = collections.Counter()

    def count(self, operation: Operation) -> None:
        taken_s = operation.ended_at - operation.began_at
        self.again += operation.attempts > 1
        if operation.fate == "answered":
            self.answered += 1
            self.worst_s = max(self.worst_s, taken_s)
            self._latencies[math.ceil(math.log(max(taken_s, 1e-6)) / _STEP)] += 1
        else:
            kind = operation.caller.partition(" ")[0], operation.error, operation.fate
            self.errors[kind] += 1
            self.examples.setdefault(kind, operation)

    def quantile_s(self, part: float) -> float:
        """Of the answered calls."""
        wanted, seen = part * self.answered, 0
        for step, count in sorted(self._latencies.items()):
            seen += count
            if seen >= wanted:
                return min(math.exp(step * _STEP), self.worst_s)
        return 0.0

    @property
    def ended(self) -> int:
        return self.answered + sum(self.errors.values())

    def count_of(self, fate: str) -> int:
        return sum(count for (_, _, ended), count in self.errors.items() if ended == fate)

    def as_dict(self) -> dict[str, Any]:
        return {
            "calls": self.ended,
            "answered": self.answered,
            "unknown": self.count_of("unknown"),
            "refused": self.count_of("refused"),
            "sent_again": self.again,
            "errors": {f"{code} ({fate}) {kind}": count for (kind, code, fate), count in sorted(self.errors.items())},
            "p50_ms": round(self.quantile_s(0.5) * 1_000, 2),
            "p99_ms": round(self.quantile_s(0.99) * 1_000, 2),
            "worst_ms": round(self.worst_s * 1_000, 2),
        }
