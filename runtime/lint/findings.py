"""All that is found in one module, but for what a comment says is meant.

Guarantee: `# tidegate: ignore` counts on every line of the statement that it is about; of one with a block, on every line of its
head.
"""

from __future__ import annotations

import ast

from tidegate.runtime.lint.awaits import not_awaited
from tidegate.runtime.lint.blocking import blocking
from tidegate.runtime.lint.memory import in_memory, in_module
from tidegate.runtime.lint.module import App, Found, Module, Suspect

IGNORED = "# tidegate: ignore"
RULES = (not_awaited, blocking, in_memory, in_module)


def findings(source: str, name: str = "app", found: Found = lambda name: None) -> list[Suspect]:
    """In order of their lines. `found` has the other modules of the app. Raises what `ast.parse` raises: SyntaxError, ValueError,
    RecursionError."""
    module = Module(source, name)
    suspects = {each for code in App(found).object_classes(module) for rule in RULES for each in rule(code)}
    meant = _meant(module.tree, source)
    return sorted(each for each in suspects if each.line not in meant)


def _meant(tree: ast.Module, source: str) -> set[int]:
    """Lines of statements with the comment. (Only what ends a line for Python does here: a form feed does not.)"""
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    said = {number for number, line in enumerate(lines, 1) if IGNORED in line}
    meant = set(said)
    for node in ast.walk(tree) if said else ():
        if isinstance(node, ast.stmt):
            inner = [each.lineno for each in ast.walk(node) if isinstance(each, ast.stmt) and each is not node]
            end = max(node.lineno, min(inner) - 1) if inner else node.end_lineno or node.lineno
            lines_of = set(range(node.lineno, end + 1))
            if said & lines_of:
                meant |= lines_of
    return meant
