"""Whether what a service takes stays as it is: samples over time, their warm-up left out, and how they rise. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

WARM_UP = 0.25
"""Of the samples, left out at the beginning."""
SAMPLES_MIN = 12
GROWTH_MAX = 0.10
"""Of the mean, from the end of the warm-up to the last sample: a rise beyond it, and beyond what `floor` allows, is not flat."""


class Trend(msgspec.Struct, frozen=True):
    """Of one figure."""

    what: str
    unit: str
    first: float
    """At the end of the warm-up, on the line that fits the samples best."""
    last: float
    floor: float
    """A rise by less than this counts for nothing."""

    @property
    def is_flat(self) -> bool:
        rise = self.last - self.first
        return rise <= max(self.floor, GROWTH_MAX * abs(self.first + self.last) / 2)

    def __str__(self) -> str:
        words = f"{self.what} {self.first:,.0f} → {self.last:,.0f}", self.unit, "" if self.is_flat else "(rises)"
        return " ".join(filter(None, words))


def trend(what: str, unit: str, samples: Sequence[tuple[float, float]], floor: float) -> Trend | None:
    """`samples`: seconds and values. None: too few to tell."""
    steady = samples[int(len(samples) * WARM_UP) :]
    if len(samples) < SAMPLES_MIN:
        return None
    mean_x = sum(at for at, _ in steady) / len(steady)
    mean_y = sum(value for _, value in steady) / len(steady)
    spread = sum((at - mean_x) ** 2 for at, _ in steady)
    slope = sum((at - mean_x) * (value - mean_y) for at, value in steady) / spread
    first, last = (mean_y + slope * (at - mean_x) for at in (steady[0][0], steady[-1][0]))
    return Trend(what, unit, first, last, floor)
