"""Rates: how fast a process goes, as `tidegate status` shows it: calls and errors a second, and how long answers take.

Rule: pure; made of what was counted in a time that the caller knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tidegate.runtime.wire.counts import TIMES_S, Counts, Value, added, quantile

_WORKER = ("calls", "call_errors", "call_answer_seconds")
_ROUTER = ("router_calls", "router_errors", "router_answer_seconds")
SERVICE = ""
"""In the place of a class: all of them."""


class Rate(msgspec.Struct):
    calls_per_s: float = 0.0
    errors_per_s: float = 0.0
    answers: list[float] = []
    """A histogram: how long they have taken."""

    def shown(self) -> dict[str, Any]:
        """As the status has it. Milliseconds are None where nothing was answered."""
        return {
            "calls_per_s": round(self.calls_per_s, 1),
            "errors_per_s": round(self.errors_per_s, 1),
            **{f"answer_p{share}_ms": _milliseconds(self.answers, share / 100) for share in (50, 95, 99)},
        }


Rates = dict[str, Rate]
"""By class; of all of them under `SERVICE`."""


def rates_of(counts: Counts, elapsed_s: float) -> Rates:
    """`counts`: what has come in that time, of a worker or a router."""
    rates: Rates = {SERVICE: Rate()}
    calls, errors, answers = _ROUTER if _ROUTER[0] in counts else _WORKER
    for key in (calls, errors, answers):
        for labels, value in counts.get(key, []):
            for name in {SERVICE, labels[0] if labels and key in _WORKER else SERVICE}:
                rate = rates.setdefault(name, Rate())
                if isinstance(value, list):
                    rate.answers = _plus(rate.answers, value)
                elif key == calls:
                    rate.calls_per_s += value / elapsed_s
                else:
                    rate.errors_per_s += value / elapsed_s
    return rates


def calls_by_shard(counts: Counts, elapsed_s: float) -> dict[int, float]:
    """A second, of the shards that have any. `counts`: what has come in that time, of a worker."""
    rows = counts.get("shard_calls", [])
    return {
        int(shard): value / elapsed_s
        for (shard,), value in rows
        if shard.isdecimal() and not isinstance(value, list) and value > 0
    }


def _plus(one: list[float], other: list[float]) -> list[float]:
    both: Value = added(one, other) if one else other
    assert isinstance(both, list)
    return both


def merged(several: Iterable[Rates]) -> Rates:
    """Of processes that do the same."""
    sums: Rates = {}
    for rates in several:
        for name, rate in rates.items():
            total = sums.setdefault(name, Rate())
            total.calls_per_s += rate.calls_per_s
            total.errors_per_s += rate.errors_per_s
            if rate.answers:
                total.answers = _plus(total.answers, rate.answers)
    return sums


def _milliseconds(answers: list[float], share: float) -> float | None:
    if not answers or (seconds := quantile(answers, TIMES_S, share)) is None:
        return None
    return float(f"{seconds * 1_000:.3g}")
