"""Pages that name tests name tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PAGES = ["docs/guarantees.md", "tests/scenarios/README.md"]


@cache
def names_in(path: str) -> frozenset[str]:
    """Test functions of a file, and names that are assigned (state machines are test cases of theirs)."""
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(names)


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = NAMED.findall((ROOT / page).read_text())
    assert len(named) > 50
    assert [(path, name) for path, name in named if not (ROOT / path).exists() or name not in names_in(path)] == []


def test_every_guarantee_names_its_proof() -> None:
    lines = (ROOT / "docs/guarantees.md").read_text().splitlines()
    promises = [line for line in lines if line.startswith("* ")]
    assert len(promises) > 80
    assert [line for line in promises if not NAMED.search(line)] == []
