"""What a run has done and found: as data, and as a page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidegate.runtime.chaos.verdict.history import Violation

KINDS = {
    "wrong answer": "wrong answers (lost, repeated, stale, out of order)",
    "money": "money made or lost",
    "unanswered": "calls not answered",
    "error": "errors that should not be",
    "service": "failures of the service",
}
SHOWN_MAX = 10
NOT_DONE = "not done"
"""What a fault says that could not do what it wanted."""


class ChaosReport(msgspec.Struct, kw_only=True):
    seed: int
    stage: str
    """What was hurt, in words."""
    keys: bool
    seconds: float
    ended_by: str
    """Why the run ended: its time was over, all strikes were made, it was interrupted, a promise was broken."""
    faults: dict[str, int]
    """Strikes by fault, of those that did what they wanted."""
    strikes: dict[str, int]
    """The same by what was struck, in words."""
    calls: dict[str, Any]
    """See `Tally.as_dict`."""
    checked: int
    """Answers that were compared with a model."""
    objects: int
    silence_s: float
    """The longest time in which no call at all was answered."""
    violations: list[Violation]
    undecided: list[str]
    """Objects whose history has more orders than can be searched."""
    samples: list[dict[str, float]]
    trends: list[str]
    kept: str
    """The folder with stories, log and data; empty if it was removed."""

    @property
    def passed(self) -> bool:
        return not self.violations and not self.undecided

    def counts(self) -> Mapping[str, int]:
        return {kind: sum(violation.kind == kind for violation in self.violations) for kind in KINDS}

    def page(self) -> str:
        calls = self.calls
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())) or "none"
        lines = [
            f"chaos, seed {self.seed}, {'with' if self.keys else 'without'} keys: {self.seconds:.0f} s; {self.ended_by}",
            f"  stage     {self.stage}",
            f"  faults    {sum(self.faults.values()):,}: {faults}",
            f"  calls     {calls['calls']:,}: {calls['answered']:,} answered, {calls['unknown']:,} of unknown outcome, "
            f"{calls['refused']:,} refused",
            f"  latency   p50 {calls['p50_ms']:g} ms, p99 {calls['p99_ms']:g} ms, worst {calls['worst_ms']:,.0f} ms; "
            f"nothing answered for {self.silence_s:.1f} s at most",
        ]
        lines += [f"  {what}: {count}" for what, count in self.strikes.items() if NOT_DONE in what]
        lines += [f"  error     {error}: {count:,}" for error, count in calls["errors"].items()]
        lines += [f"  over time {line}" for line in self.trends]
        lines.append(f"  checked   {self.checked:,} answers of {self.objects:,} objects")
        lines += [f"  {count:>9} {KINDS[kind]}" for kind, count in self.counts().items()]
        if self.undecided:
            lines.append(
                f"  {len(self.undecided):>9} objects with too many possible orders to tell: {self.undecided[:SHOWN_MAX]}"
            )
        lines += [f"  BROKEN    {each.kind}: {each.what}: {each.text}" for each in self.violations[:SHOWN_MAX]]
        if self.kept:
            lines.append(f"  kept      {self.kept}")
        lines.append(
            "every promise was kept" if self.passed else f"NOT every promise was kept; repeat it with --seed {self.seed}"
        )
        return "\n".join(lines)
