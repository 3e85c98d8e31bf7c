"""What is found in a whole module: classes under any name, nothing in what is right, and nothing that is said to be meant."""

from __future__ import annotations

import ast
import functools
import gc
from pathlib import Path

import pytest

from tests.testing import catalogue
from tests.testing.catalogue import CATALOGUE, Planted
from tidegate.runtime.lint.findings import findings

ROOT = Path(__file__).parents[3]
HEAD = """import asyncio
import time
from tidegate import DurableObject
CACHE = {}
class C(DurableObject):
    async def m(self):
"""
SEEN = {
    "a count in memory": "memory",
    "numbers that begin anew": "memory",
    "state of a module": "module",
    "a message out of a transaction": "transaction",
    "orders that only memory knows": "grows",
    "a flag that an error leaves set": "memory",
}
"""Of the catalogue of mistakes, those that can be seen in the source; each by the rule that names it."""


@functools.cache
def seen() -> dict[str, set[str]]:
    """By class of the catalogue: the rules that name a line of it."""
    gc.collect()  # Of what other tests have left: see findings/python_ast_parse_bears_no_other_inside.sh.
    source = Path(catalogue.__file__).read_text()
    found, classes = findings(source), [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {cls.name: {each.rule for each in found if cls.lineno <= each.line <= (cls.end_lineno or 0)} for cls in classes}


@pytest.mark.parametrize("planted", CATALOGUE, ids=lambda planted: planted.name)
def test_of_the_catalogue_what_can_be_seen_is_named_and_no_twin_is(planted: Planted) -> None:
    assert seen()[planted.wrong.__name__] == ({SEEN[planted.name]} if planted.name in SEEN else set())
    assert seen()[planted.right.__name__] == set()


APPS = [
    *sorted((ROOT / "examples").rglob("*.py")),
    *sorted((ROOT / "template").rglob("*.py")),
    ROOT / "benchmarks" / "load" / "app.py",
]


@pytest.mark.parametrize("path", APPS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_named_in_what_is_right(path: Path) -> None:
    assert not findings(path.read_text())


BASES = """
import tidegate
from tidegate import DurableObject as DO
from abc import ABC
class Base(DO): ...
class Other(tidegate.DurableObject): ...
class Generic(Base): ...
"""


@pytest.mark.parametrize("head", [
    "from tidegate import DurableObject as DO\nclass C(DO):",
    "import tidegate as t\nclass C(t.DurableObject):",
    "from bases import Base\nclass C(Base):",
    "from bases import Generic as G\nclass C(G[int]):",
    "import bases\nclass C(bases.Other):",
    "from .bases import Base\nclass C(Base):",
    "from . import bases\nclass C(bases.Generic):",
    "from shop import Passed\nclass C(Passed):",
    "class D(object): ...\nclass C(B): ",
])  # fmt: skip
def test_an_object_class_is_found_whatever_it_is_called_and_wherever_its_base_stands(head: str) -> None:
    modules = {"bases": BASES, "shop.bases": BASES, "shop.__init__": "from .bases import Generic as Passed"}
    source = (
        f"{head}\n    async def m(self):\n        self.n = 1\nfrom tidegate import DurableObject\nclass B(DurableObject): ...\n"
    )
    assert [each.rule for each in findings(source, "shop.orders", modules.get)] == ["memory"]


@pytest.mark.parametrize("head", [
    "class DurableObject: ...\nclass C(DurableObject):",
    "from bases import ABC\nclass C(ABC):",
    "from nowhere import Base\nclass C(Base):",
    "from broken import Base\nclass C(Base):",
    "from a import X\nclass C(X):",
    "class C(C):",
])  # fmt: skip
def test_what_is_no_object_class_is_left_alone(head: str) -> None:
    modules = {"bases": BASES, "broken": "class (", "a": "from b import X", "b": "from a import X"}
    assert not findings(f"{head}\n    async def m(self):\n        self.n = 1\n", "app", modules.get)


def test_what_a_base_of_another_module_loads_is_loaded() -> None:
    base = "from tidegate import DurableObject\nclass B(DurableObject):\n    async def on_start(self):\n        self.n = 0\n"
    source = "from base import B\nclass C(B):\n    async def m(self):\n        self.n = 1\n"
    assert not findings(source, "app", {"base": base}.get)


@pytest.mark.parametrize("lines", [
    ["self.n = 1  # tidegate: ignore"],
    ["self.n = (", "    1", ")  # tidegate: ignore"],
    ["self.n = (  # tidegate: ignore", "    1", ")"],
    ["await asyncio.gather(", "    self.m(),", "    time.sleep(1),", ")  # tidegate: ignore"],
    ["if time.sleep(1):  # tidegate: ignore", "    pass"],
])  # fmt: skip
def test_what_is_said_to_be_meant_is_left_alone_on_each_line_of_its_statement(lines: list[str]) -> None:
    assert not findings(HEAD + "".join(f"        {line}\n" for line in lines))


def test_what_one_statement_means_is_not_said_of_another() -> None:
    lines = ["if self.n:  # tidegate: ignore", "    self.n = 1", "self.k = 1"]
    assert [each.line for each in findings(HEAD + "".join(f"        {line}\n" for line in lines))] == [8, 9]


@pytest.mark.parametrize("before", ["\f\n", "x = '\u2028\x1c'\n", "\r\n", "\r"])
def test_lines_are_those_of_python(before: str) -> None:
    source = f"{before}{HEAD}        self.n = 1  # tidegate: ignore\n        self.k = 1\n"
    assert [each.line for each in findings(source)] == [9]
    assert isinstance(ast.parse(source), ast.Module)
