"""The page of operations has every problem that a service may tell of."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.service import Serve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
TABLE = PAGE.partition("## Problems")[2].partition("\n## ")[0]
PROBLEMS = re.findall(r"^\| `([^`]+)`(?:, `([^`]+)`)? \|.*\|.*\|$", TABLE, re.MULTILINE)


def made() -> list[tuple[Path, int]]:
    """Where the service makes one."""
    return [
        (path, node.lineno)
        for folder in ("shard", "router", "runtime")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "Problem(" in path.read_text()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
    ]


def test_the_page_has_a_row_for_each_problem_that_the_service_makes() -> None:
    places = made()
    assert len(PROBLEMS) == len(places) > 5, places


def test_the_words_of_each_row_are_those_of_the_service() -> None:
    text = "".join(path.read_text() for path in {path for path, _ in made()})
    states = (ROOT / "runtime" / "supervisor" / "rules" / "seats.py").read_text()
    for problem in (each for row in PROBLEMS for each in row if each):
        for words in filter(None, map(str.strip, problem.split("…"))):
            said = words in text or f'"{words.removeprefix("is ")}"' in states
            assert said, words


def test_a_copy_of_a_stopped_service_is_whole_and_goes_on_where_it_was(serve: Serve, tmp_path: Path) -> None:
    service = serve(1, data=tmp_path / "data")
    assert [service.call("Counter", "alice", "get_unique_number") for _ in range(3)] == [0, 1, 2]
    service.stop()
    copy = Path(shutil.copytree(tmp_path / "data", tmp_path / "copy"))
    checked = subprocess.run([sys.executable, "-m", "tidegate", "check", str(copy)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"{checked.stdout}{checked.stderr}"
    assert serve(1, data=copy).call("Counter", "alice", "get_unique_number") == 3
