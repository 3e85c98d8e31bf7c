"""Charts as SVG: throughput against calls in flight, and latency percentiles. Pure text, so no drawing library is needed.

Both axes are logarithmic: peers differ by a hundred times, and what matters is by how many times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tidegate.benchmarks.figures.compare import Summary
from tidegate.benchmarks.figures.results import Result

_COLOURS = ("#0b6e99", "#7fb7d1", "#8a8a8a", "#c0392b", "#336791", "#d68910", "#7d3c98", "#1e8449")
_DASHED = "6 4"
_WIDTH, _HEIGHT = 860, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 220, 62, 56
_FONT = "font-family='Helvetica, Arial, sans-serif'"
_PERCENTILES = ("p50", "p90", "p99", "p99.9")


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]
    note: Sequence[tuple[float, float]] = ()
    """Lowest and highest value by point, drawn as a thin bar."""
    colour: str = _COLOURS[0]
    dashed: bool = False


def draw(result: Result, folder: Path) -> list[Path]:
    """Writes the charts of a result and returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for workload, route in dict.fromkeys((one.workload, one.route) for one in result.summaries if not one.offered):
        rows = [one for one in result.summaries if (one.workload, one.route, one.offered) == (workload, route, 0)]
        subtitle = f"{result.machine['cpu']}, {result.machine['cores']} cores, load included; {result.at[:10]}, {result.commit}"
        drawn = {
            "rate": throughput(f"{workload}, {route}: calls per second by calls in flight", subtitle, rows),
            "latency": percentiles(f"{workload}, {route}: latency in ms at {_middle(rows)} calls in flight", subtitle, rows),
        }
        for kind, svg in drawn.items():
            written.append(folder / f"{result.command}-{workload}-{route}-{kind}.svg")
            written[-1].write_text(svg)
    return written


def throughput(title: str, subtitle: str, rows: Sequence[Summary]) -> str:
    series = []
    for peer, colour in _peers(rows):
        own = sorted((row for row in rows if row.peer == peer), key=lambda row: row.concurrency)
        points = [(float(row.concurrency), row.rate) for row in own]
        bounds = [(row.rate_min, row.rate_max) for row in own]
        series.append(Series(peer, points, bounds, colour, dashed=_is_reference(peer)))
    ticks = [(float(count), f"{count:,}") for count in sorted({row.concurrency for row in rows})]
    return line_chart(title, subtitle, series, ticks)


def percentiles(title: str, subtitle: str, rows: Sequence[Summary]) -> str:
    series, middle = [], _middle(rows)
    for peer, colour in _peers(rows):
        for row in rows:
            if row.peer == peer and row.concurrency == middle:
                shown = [(4.0**index, row.percentiles_ms[name]) for index, name in enumerate(_PERCENTILES)]
                points = [(x, ms) for x, ms in shown if ms > 0]
                series.append(Series(peer, points, (), colour, dashed=_is_reference(peer)))
    return line_chart(title, subtitle, series, [(4.0**index, name) for index, name in enumerate(_PERCENTILES)])


def _peers(rows: Sequence[Summary]) -> list[tuple[str, str]]:
    """The product first, then in the order of speed, each with its colour."""
    best = {row.peer: 0.0 for row in rows}
    for row in rows:
        best[row.peer] = max(best[row.peer], row.rate)
    names = sorted(best, key=lambda peer: (not peer.startswith("tidegate"), peer != "tidegate", peer != "pipeline", -best[peer]))
    return [(peer, _COLOURS[index % len(_COLOURS)]) for index, peer in enumerate(names)]


def _is_reference(peer: str) -> bool:
    return peer == "pipeline"


def _middle(rows: Sequence[Summary]) -> int:
    """The pressure at which most peers have been measured, the higher the better."""
    counts = {row.concurrency: sum(other.concurrency == row.concurrency for other in rows) for row in rows}
    return max(counts, key=lambda concurrency: (counts[concurrency], concurrency))


# Drawing


class _Scale:
    """A value's place on a logarithmic axis."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = math.log(low), start
        self._unit = (end - start) / ((math.log(high) - self._low) or 1.0)

    def __call__(self, value: float) -> float:
        return round(self._start + (math.log(value) - self._low) * self._unit, 1)


def line_chart(title: str, subtitle: str, series: Sequence[Series], ticks: Sequence[tuple[float, str]]) -> str:
    """`ticks`: the values of the horizontal axis that are labelled."""
    values = [value for one in series for _, value in one.points] + [v for one in series for pair in one.note for v in pair]
    low, high = _bounds(values)
    x = _Scale(ticks[0][0], ticks[-1][0], _LEFT + 14, _WIDTH - _RIGHT - 14)
    y = _Scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}' viewBox='0 0 {_WIDTH} {_HEIGHT}'>",
        f"<rect width='{_WIDTH}' height='{_HEIGHT}' fill='white'/>",
        _text(_LEFT, 26, title, size=16, weight="bold"),
        _text(_LEFT, 44, subtitle, size=11, colour="#777"),
        *_grid(x, y, low, high, ticks),
    ]
    for one in series:
        parts += _line(one, x, y)
    parts += _legend(series, y)
    return "\n".join([*parts, "</svg>\n"])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """From a third below the lowest to a third above the highest value, at least a whole ten apart."""
    low, high = min(values, default=1.0) / 1.35, max(values, default=10.0) * 1.35
    return (low, max(high, low * 10))


def _grid(x: _Scale, y: _Scale, low: float, high: float, ticks: Sequence[tuple[float, str]]) -> list[str]:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high))):
        for step in (1, 2, 5):
            value = step * 10.0**power
            if low <= value <= high:
                colour = "#c8c8c8" if step == 1 else "#ececec"
                parts.append(f"<line x1='{left}' y1='{y(value)}' x2='{right}' y2='{y(value)}' stroke='{colour}'/>")
                label = f"{value:,.0f}" if value >= 1 else f"{value:.2g}"
                parts.append(_text(left - 8, y(value) + 4, label, size=11, anchor="end", colour="#555"))
    for value, label in ticks:
        parts.append(f"<line x1='{x(value)}' y1='{_TOP}' x2='{x(value)}' y2='{bottom}' stroke='#ececec'/>")
        parts.append(_text(x(value), bottom + 20, label, size=12, anchor="middle", colour="#555"))
    parts.append(f"<line x1='{left}' y1='{bottom}' x2='{right}' y2='{bottom}' stroke='#888'/>")
    return parts


def _line(one: Series, x: _Scale, y: _Scale) -> list[str]:
    width = 3 if one.name == "tidegate" else 1.8
    dash = f" stroke-dasharray='{_DASHED}'" if one.dashed else ""
    path = " ".join(f"{x(at)},{y(value)}" for at, value in one.points)
    parts = [f"<polyline points='{path}' fill='none' stroke='{one.colour}' stroke-width='{width}'{dash}/>"]
    for (at, _), (low, high) in zip(one.points, one.note, strict=False):
        parts.append(f"<line x1='{x(at)}' y1='{y(low)}' x2='{x(at)}' y2='{y(high)}' stroke='{one.colour}' stroke-width='1'/>")
    parts += [f"<circle cx='{x(at)}' cy='{y(value)}' r='3.2' fill='{one.colour}'/>" for at, value in one.points]
    return parts


def _legend(series: Sequence[Series], y: _Scale) -> list[str]:
    """Beside the ends of the lines, moved apart where they would touch."""
    ends = sorted((y(one.points[-1][1]), index) for index, one in enumerate(series) if one.points)
    at, parts, left = 0.0, [], _WIDTH - _RIGHT + 12
    total = 18 * len(ends)
    for place, (wanted, index) in enumerate(ends):
        at = max(min(wanted, _HEIGHT - _BOTTOM - total + 18 * place), at + 18 if place else 0.0)
        one = series[index]
        parts.append(f"<rect x='{left}' y='{at - 5}' width='10' height='10' fill='{one.colour}'/>")
        weight = "bold" if one.name == "tidegate" else "normal"
        parts.append(_text(left + 16, at + 4, f"{one.name}  {_short(one.points[-1][1])}", size=12, weight=weight))
    return parts


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(
    x: float, y: float, text: str, *, size: int, anchor: str = "start", weight: str = "normal", colour: str = "#222"
) -> str:
    style = f"font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' fill='{colour}'"
    return f"<text x='{x}' y='{y}' {_FONT} {style}>{escape(text)}</text>"
