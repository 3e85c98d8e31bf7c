"""What nobody uses is not there, and what only tests use is in `tests/support/`.

Names are compared, not what they stand for: of two methods with one name, one may be dead unseen."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("shard", "router", "runtime", "benchmarks")

CALLED_FROM_OUTSIDE = {
    # asyncio and uvloop
    "get_stack", "print_stack", "writelines",
    # logging, io, pdb, ctypes, sys, importlib
    "breakpointhook", "createLock", "disabled", "do_EOF", "emit", "excepthook", "get_data", "logMultiprocessing", "path_stats",
    "restype", "set_data", "unraisablehook", "writable",
}  # fmt: skip
FOR_TESTS_AND_PAGES = {
    "check_book": "counts everything again, as each `check_invariants` does",
    "drawing": "the diagram in docs/architecture.md is drawn from the table",
}

NOT_CODE = re.compile(r'"""(?:.|\n)*?"""|#.*')


def sources() -> Iterator[tuple[Path, str]]:
    for folder in PRODUCT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text()


def named(text: str) -> Iterator[tuple[int, str]]:
    """Functions, classes, and what is assigned to; fields of records are read by whoever shows them whole."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield node.lineno, target.id
                elif isinstance(target, ast.Attribute):
                    yield node.lineno, target.attr


def test_every_name_of_the_product_is_used_by_the_product() -> None:
    texts = [NOT_CODE.sub("", text) for _, text in sources()]
    texts += [path.read_text() for path in [ROOT / "tidegate" / "public.py", *(ROOT / "testing").glob("*.py")]]
    uses = Counter(word for text in texts for word in re.findall(r"\w+", text))
    dead = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path, text in sources()
        for line, name in named(text)
        if uses[name] == 1 and not name.startswith("__") and name not in CALLED_FROM_OUTSIDE | FOR_TESTS_AND_PAGES.keys()
    ]
    assert not dead


def test_every_exception_to_that_is_there_still() -> None:
    names = {name for _, text in sources() for _, name in named(text)}
    assert names >= CALLED_FROM_OUTSIDE | FOR_TESTS_AND_PAGES.keys()
