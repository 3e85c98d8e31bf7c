"""What the tour of the house names is there, under that name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
STOP = re.compile(r"`((?:shard|runtime|router)/[\w/]+\.py)` `([\w.]+)`")
FILE = re.compile(r"`((?:shard|runtime|router|tests|docs|systemd|benchmarks)(?:/[\w.]+)+)`")


def names_in(path: Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(f"{node.name}.{inner.name}")
    return names


def test_every_stop_of_the_walks_is_where_the_page_says() -> None:
    stops = STOP.findall(PAGE.read_text())
    assert len(stops) > 30
    wrong = [f"{path} {name}" for path, name in stops if not (ROOT / path).exists() or name not in names_in(ROOT / path)]
    assert wrong == []


def test_every_file_and_folder_that_a_page_for_developers_names_exists() -> None:
    wrong = [
        f"{page}: {path}"
        for page in ("architecture", "decisions", "development", "style")
        for path in FILE.findall((ROOT / "docs" / f"{page}.md").read_text())
        if not (ROOT / path).exists()
    ]
    assert wrong == []
