"""What skips a test, and who runs it then."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TAKES_MINUTES = "takes minutes; TIDEGATE_FULL=1 runs it"


def test_make_crash_runs_what_is_skipped_because_it_takes_minutes() -> None:
    recipe = re.search(r"^crash:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert "TIDEGATE_FULL=1" in recipe[1]
    run = tuple(word for word in recipe[1].split() if word.startswith("tests/"))
    files = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    skipping = [name for name, text in files.items() if f'reason="{TAKES_MINUTES}"' in text]
    assert skipping
    assert [name for name in skipping if not name.startswith(run)] == []
    sized = "tests/testing/test_catalogue.py"  # docs/guarantees.md names it for what only its full size shows.
    assert sized.startswith(run)
