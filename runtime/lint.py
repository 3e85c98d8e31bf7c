"""What can be seen of a mistake in the source of an app, without running it.

Rule 1: pure: text in, findings out; nothing is imported or run.
Rule 2: what is said is likely wrong, and says what to write instead. `# tidegate: ignore` on the line says that it is meant.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

IGNORED = "# tidegate: ignore"
HOOKS = ("__init__", "on_start")
READS = {"get", "get_many", "list", "get_alarm"}
MUTATES = {"append", "add", "extend", "update", "setdefault", "insert", "appendleft"}
SHRINKS = {"pop", "popitem", "popleft", "clear", "remove", "discard"}
BLOCKING = {
    "time.sleep": "await asyncio.sleep(...)",
    "subprocess.run": "await asyncio.to_thread(subprocess.run, ...)",
    "subprocess.check_output": "await asyncio.to_thread(...)",
    "urllib.request.urlopen": "self.fetch",
    "requests.get": "self.fetch",
    "requests.post": "self.fetch",
    "requests.request": "self.fetch",
    "open": "await asyncio.to_thread(...)",
    "input": "an argument of the method",
}


class Suspect(NamedTuple):
    line: int
    rule: str
    text: str


def findings(source: str) -> list[Suspect]:
    """In order of their lines. Raises SyntaxError."""
    tree = ast.parse(source)
    lines = source.splitlines()
    shared = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_mutable(node.value)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    known, found = {"DurableObject"}, list[Suspect]()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(_name(base).rpartition(".")[2] in known for base in node.bases):
            known.add(node.name)
            found += _in_class(node, shared)
    return sorted(each for each in set(found) if IGNORED not in lines[each.line - 1])


def _in_class(cls: ast.ClassDef, shared: set[str]) -> Iterator[Suspect]:
    methods = [node for node in cls.body if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)]
    yield from _in_memory(cls, methods)
    for method in methods:
        for node in ast.walk(method):
            if isinstance(node, ast.Call):
                yield from _blocking(method, node)
            yield from _shared(node, shared)
            if isinstance(node, ast.AsyncWith) and any("transaction" in _name(item.context_expr) for item in node.items):
                yield from _in_transaction(node)
        yield from _not_awaited(method)


def _in_memory(cls: ast.ClassDef, methods: list[ast.AsyncFunctionDef | ast.FunctionDef]) -> Iterator[Suspect]:
    """State that a handler assigns and nobody ever reads back from storage."""
    loaded: set[str] = set()
    for node in ast.walk(cls):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and "storage" in ast.dump(node.value):
            loaded |= _own_targets(node)
    for method in methods:
        if method.name == "on_start":
            for node in ast.walk(method):
                loaded |= _own_targets(node)
    shrinks = {_name(node.func.value) for node in ast.walk(cls) if _calls(node, SHRINKS)}  # type: ignore[attr-defined]  # a method's
    shrinks |= {_name(target.value) for node in ast.walk(cls) if isinstance(node, ast.Delete) for target in node.targets
                if isinstance(target, ast.Subscript)}  # fmt: skip
    for method in methods:
        if method.name in HOOKS:
            continue
        for node in ast.walk(method):
            for name in sorted(_own_targets(node) - loaded):
                text = f"self.{name} is lost when the object leaves memory or its process dies: put it into self.storage"
                yield Suspect(node.lineno, "memory", text)  # type: ignore[attr-defined]  # an assignment has a line
            if _calls(node, MUTATES):
                name = _name(node.func.value)  # type: ignore[attr-defined]  # a method's
                if name.startswith("self.") and name.count(".") == 1 and name != "self.storage" and name not in shrinks:
                    text = f"{name} only grows, and is lost with the memory: keep it in self.storage, or bound it"
                    yield Suspect(node.lineno, "grows", text)  # type: ignore[attr-defined]  # a call has a line


def _blocking(method: ast.AsyncFunctionDef | ast.FunctionDef, call: ast.Call) -> Iterator[Suspect]:
    name = _name(call.func)
    if name in BLOCKING and isinstance(method, ast.AsyncFunctionDef):
        yield Suspect(call.lineno, "blocks", f"{name} holds up every object of the worker: use {BLOCKING[name]}")
    if name in ("asyncio.create_task", "asyncio.ensure_future"):
        parents = [node for node in ast.walk(method) if isinstance(node, ast.Expr) and node.value is call]
        if parents:
            yield Suspect(call.lineno, "task", f"nobody hears of what {name} raises here: use self.spawn(...), which logs it")


def _shared(node: ast.AST, shared: set[str]) -> Iterator[Suspect]:
    names: list[str] = []
    if isinstance(node, ast.Global):
        names = node.names
    elif isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [_name(target.value) for target in targets if isinstance(target, ast.Subscript)]
    elif _calls(node, MUTATES | SHRINKS):
        names = [_name(node.func.value)]  # type: ignore[attr-defined]  # a method's
    for name in names:
        if name in shared or isinstance(node, ast.Global):
            text = f"{name} is shared by all objects of a worker, differs between workers, and is lost: keep it in an object"
            yield Suspect(node.lineno, "module", text)  # type: ignore[attr-defined]  # each of these has a line


def _in_transaction(block: ast.AsyncWith) -> Iterator[Suspect]:
    for node in ast.walk(block):
        if isinstance(node, ast.Call) and _name(node.func) == "self.stub":
            text = "what another object is told is not undone with the transaction, and others wait meanwhile: call after it"
            yield Suspect(node.lineno, "transaction", text)


def _not_awaited(method: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[Suspect]:
    for node in ast.walk(method):
        if not isinstance(node, ast.Expr | ast.Return):
            continue
        value = node.value
        if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Attribute):
            continue
        if _name(value.func.value) == "self.storage" and value.func.attr in READS:
            yield Suspect(node.lineno, "await", f"the value of storage.{value.func.attr} is not there yet: write `await`")
        elif isinstance(node, ast.Expr) and "self.stub" in _name(value.func):
            yield Suspect(node.lineno, "await", "nobody hears whether the call of another object succeeds: write `await`")


def _own_targets(node: ast.AST) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    return {each.attr for each in targets if isinstance(each, ast.Attribute) and _name(each.value) == "self"}


def _calls(node: ast.AST, methods: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods


def _is_mutable(value: ast.expr | None) -> bool:
    made = isinstance(value, ast.Call) and _name(value.func).rpartition(".")[2] in {"dict", "list", "set", "defaultdict", "deque"}
    return made or isinstance(value, ast.Dict | ast.List | ast.Set)


def _name(node: ast.expr) -> str:
    """`a.b.c`, with calls on the way left out."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return _name(node.func)
    return node.id if isinstance(node, ast.Name) else ""
