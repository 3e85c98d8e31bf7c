"""Every planted mistake is found by the default settings, and none of the twins is blamed.

`python -m tests.testing.test_catalogue` says after how many schedules, and in what time, each is found, and writes the numbers of
schedules into docs/testing.md."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testing.catalogue import CATALOGUE, SHARED, Planted
from tests.testing.test_exploration import run_explored
from tidegate.testing import Objects, explore
from tidegate.testing.exploration import SCHEDULES, Exploration

FULL = os.environ.get("TIDEGATE_FULL") == "1"
NEEDED_MAX = 150
"""Schedules, half of what is tried by default."""
PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
ROW = re.compile(r"^\| ([^|`]+) \| (\d+) \|$", re.MULTILINE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def run(planted: Planted, cls: Any, schedules: int = SCHEDULES) -> tuple[Exploration, Exception | None]:
    """What was found, if anything."""

    async def test(objects: Objects) -> None:
        SHARED.clear()
        await planted.test(objects, cls)

    exploration: Exploration = explore(schedules=schedules)(test).tidegate_exploration  # type: ignore[attr-defined]  # its mark
    with quiet():
        try:
            run_explored(exploration, test)
        except Exception as error:
            return exploration, error
    return exploration, None


def needed(exploration: Exploration) -> int:
    """Schedules, up to the first that failed."""
    assert exploration.search is not None
    return exploration.search.runs


@pytest.mark.parametrize("planted", CATALOGUE, ids=lambda planted: planted.name)
def test_the_mistake_is_found(planted: Planted) -> None:
    exploration, error = run(planted, planted.wrong)
    assert error is not None
    assert any("--tidegate-seed=" in note for note in error.__notes__)
    assert needed(exploration) <= NEEDED_MAX


@pytest.mark.parametrize("planted", CATALOGUE, ids=lambda planted: planted.name)
@pytest.mark.slow
def test_its_twin_is_not_blamed(planted: Planted) -> None:
    exploration, error = run(planted, planted.right, SCHEDULES if FULL else 80)
    if error is not None:
        raise error
    assert exploration.cut_short < needed(exploration), "no run came to its end"


def test_the_page_has_every_mistake_of_the_catalogue_with_the_schedules_that_it_took() -> None:
    rows = dict(ROW.findall(PAGE.read_text()))
    assert sorted(rows) == sorted(planted.name for planted in CATALOGUE)
    assert all(0 < int(schedules) <= NEEDED_MAX for schedules in rows.values())


def main() -> None:
    found: dict[str, int] = {}
    false_alarms = 0
    for planted in CATALOGUE:
        began = time.process_time()
        exploration, error = run(planted, planted.wrong)
        took_s = time.process_time() - began
        found[planted.name] = needed(exploration)
        blamed = run(planted, planted.right)[1]
        false_alarms += blamed is not None
        said = "NOT FOUND" if error is None else f"found after {found[planted.name]} schedules, told after {took_s:.2f} s"
        print(f"{planted.name}: {said}{'; ITS TWIN IS BLAMED' if blamed is not None else ''}")
    print(f"{len(CATALOGUE)} mistakes; of {SCHEDULES} schedules of each twin, {false_alarms} false alarms")
    rows = "\n".join(f"| {name} | {schedules} |" for name, schedules in found.items())
    text, head = PAGE.read_text(), "| mistake | schedules |\n| --- | --- |\n"
    before, _, after = text.partition(head)
    rest = after[after.index("\n\n") :]
    PAGE.write_text(f"{before}{head}{rows}{rest}")


if __name__ == "__main__":
    main()
