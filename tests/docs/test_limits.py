"""The page of limits has every bound, with the numbers of the code. `python -m tests.docs.test_limits` corrects the numbers; what
happens at a bound is written by hand."""

from __future__ import annotations

import re
from pathlib import Path

from tidegate.runtime import limits
from tidegate.runtime.supervisor.config import OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
BOUNDS = {name: value for name, value in vars(limits).items() if name.isupper()}


def shown(name: str) -> str:
    """A bound with its unit, which is a part of its name."""
    value, words = BOUNDS[name], name.split("_")
    if "BYTES" in words:
        unit, size = max(
            (each for each in (("bytes", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)) if value >= each[1]), key=lambda each: each[1]
        )
        return f"{value / size:,.6g} {unit}" if value % size == 0 else f"{value:,} bytes"
    if words[-2:] == ["PER", "S"]:
        return f"{value:,g} a second"
    if "MS" in words:
        return f"{value:,} ms"
    return f"{value:,g} s" if "S" in words else f"{value:,}"


def test_the_page_has_every_bound_once_with_its_number_and_unit() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert [(name, value) for name, value, *_ in rows if shown(name) != value] == []
    assert sorted(name for name, *_ in rows) == sorted(BOUNDS)


def test_the_options_that_the_page_names_at_bounds_exist() -> None:
    named = re.findall(r"\[(\w+)\] (\w+)", "".join(" ".join(row) for row in ROW.findall(PAGE.read_text())))
    assert len(named) > 10
    assert [(section, option) for section, option in named if option not in OPTIONS.get(section, {})] == []


def test_the_page_says_of_every_bound_what_it_bounds() -> None:
    assert [name for name, _, what, at_it, _ in ROW.findall(PAGE.read_text()) if not what.strip() or not at_it.strip()] == []


if __name__ == "__main__":
    PAGE.write_text(ROW.sub(lambda row: row[0].replace(f"| {row[2]} |", f"| {shown(row[1])} |", 1), PAGE.read_text()))
