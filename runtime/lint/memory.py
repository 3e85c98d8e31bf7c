"""State that is kept where it is lost, or shared: in the memory of an object, or of a module.

Guarantee: what a class reads back from storage is left alone, and so is what can be in memory only (a task, a stub, a lock) and a
flag that a `finally` takes back.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tidegate.runtime.lint.fates import is_plain
from tidegate.runtime.lint.module import Function, Module, ObjectCode, Suspect, name_of, targets_of

_MADE_ANEW = ("__init__", "on_start")
_GROWS = {"append", "add", "extend", "update", "setdefault", "insert", "appendleft"}
_SHRINKS = {"pop", "popitem", "popleft", "clear", "remove", "discard"}
_CONTAINERS = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict"}


def in_memory(code: ObjectCode) -> Iterator[Suspect]:
    """What a handler assigns to `self`, or adds to what is there, and nobody ever reads back from storage."""
    known = _Attributes(code)
    for method in code.methods:
        if method.name in _MADE_ANEW:
            continue
        for node in ast.walk(method):
            for target, _ in targets_of(node):
                is_lost = isinstance(target, ast.Attribute) or (isinstance(target, ast.Subscript) and not _is_new_key(target))
                if is_lost and _is_own(name_of(target)) and name_of(target) not in known.kept:
                    text = "is lost when the object leaves memory or its process dies: put it into self.storage"
                    yield Suspect(target.lineno, "memory", f"{name_of(target)} {text}")
            for name, line in _grown(node, code.module):
                if _is_own(name) and name not in known.bounded:
                    yield Suspect(
                        line, "grows", f"{name} only grows, and is lost with the memory: keep it in self.storage, or bound it"
                    )


def in_module(code: ObjectCode) -> Iterator[Suspect]:
    """What methods, and functions that they call, change in the module's own state."""
    module = code.module
    assigned = [each for node in module.tree.body for each in targets_of(node)]
    shared = {name_of(target) for target, value in assigned if value is not None and _is_container(value)}
    for function in code.functions_called(*code.methods):
        own = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        own |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
        for node in ast.walk(function):
            changed = [*_grown(node, module), *_shrunk(node)]
            changed += [(name_of(each), each.lineno) for each, _ in targets_of(node) if isinstance(each, ast.Subscript)]
            changed = [(name, line) for name, line in changed if name in shared - own]
            changed += [(name, node.lineno) for name in node.names] if isinstance(node, ast.Global) else []
            for name, line in changed:
                text = f"{name} is shared by all objects of a worker, differs between workers, and is lost: keep it in an object"
                yield Suspect(line, "module", text)


class _Attributes:
    """Of a class and its bases: which may be in memory."""

    def __init__(self, code: ObjectCode) -> None:
        self.kept: set[str] = set()
        """Read from storage, made anew at each start, taken back by a `finally`, or nothing that could be stored."""
        self.bounded = {"self.storage"}
        """It becomes smaller, too, or is as large as what is stored, or no container."""
        nodes = code.nodes
        functions = [node for node in nodes if isinstance(node, Function)]
        for function in code.functions_called(*(each for each in functions if each.name == "on_start")):
            self.kept |= {name_of(target) for node in ast.walk(function) for target, _ in targets_of(node)}
        for node in nodes:
            self.bounded |= {name for name, _ in _shrunk(node)}
            if isinstance(node, ast.Try):
                last = [inner for each in node.finalbody for inner in ast.walk(each)]
                self.kept |= {name_of(target) for inner in last for target, _ in targets_of(inner)}
        for function in functions:
            self._read_back(function)
            self._live(function, code.module)
            for target, value in (each for node in ast.walk(function) for each in targets_of(node)):
                if isinstance(target, ast.Subscript):
                    continue
                if function.name not in _MADE_ANEW or (isinstance(value, ast.Call) and not _is_container(value)):
                    self.bounded.add(name_of(target))

    def _read_back(self, function: Function) -> None:
        """What is assigned something out of storage, also in steps."""
        assigned = [each for node in ast.walk(function) for each in targets_of(node)]
        known, grows = {"self.storage"}, True
        while grows:
            found = {
                name_of(target) for target, value in assigned if value is not None and not known.isdisjoint(_names_in(value))
            }
            grows = not found <= known
            known |= found
        self.kept |= known
        self.bounded |= known

    def _live(self, function: Function, module: Module) -> None:
        """What is assigned something that could not be stored, or holds such things."""
        nodes = list(ast.walk(function))
        live = {name_of(target) for node in nodes for target, value in targets_of(node) if value and _is_live(value, module)}
        for node in nodes:
            if isinstance(node, ast.Call) and any(_is_live(each, module) or name_of(each) in live for each in node.args):
                live |= {name for name, _ in _grown(node, module)}
        self.kept |= live


def _is_own(name: str) -> bool:
    return name.startswith("self.") and name.count(".") == 1


def _names_in(value: ast.expr) -> Iterator[str]:
    return (name_of(node) for node in ast.walk(value) if isinstance(node, ast.Name | ast.Attribute) and is_plain(node))


def _is_new_key(target: ast.Subscript) -> bool:
    """Whether there may be ever more of its kind."""
    return not isinstance(target.slice, ast.Constant | ast.Slice)


def _grown(node: ast.AST, module: Module) -> Iterator[tuple[str, int]]:
    """What becomes larger, and in which line. The node may be of a base in another module, whose parents are not known."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _GROWS:
        held = node.func.value
        if _is_held(held) and not isinstance(module.parents.get(node), ast.Await):
            yield name_of(held), node.lineno
    if (
        isinstance(node, ast.Call)
        and name_of(node.func).rpartition(".")[2] == "heappush"
        and node.args
        and _is_held(node.args[0])
    ):
        yield name_of(node.args[0]), node.lineno
    for target, _ in targets_of(node):
        if isinstance(target, ast.Subscript) and _is_new_key(target) and _is_held(target):
            yield name_of(target), target.lineno


def _shrunk(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Attribute) and node.attr in _SHRINKS:  # Called, or given to somebody who calls it.
        yield name_of(node.value), node.lineno
    elif isinstance(node, ast.Call) and name_of(node.func).rpartition(".")[2] in ("heappop", "heapreplace") and node.args:
        yield name_of(node.args[0]), node.lineno
    elif isinstance(node, ast.Delete):
        yield from ((name_of(each), each.lineno) for each in node.targets if isinstance(each, ast.Subscript))
    for target, _ in targets_of(node):
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice):
            yield name_of(target), target.lineno


def _is_held(node: ast.expr) -> bool:
    """Whether it is a name, or something in what has one: nothing that a call has made."""
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _is_container(value: ast.expr) -> bool:
    """That may grow for ever."""
    if isinstance(value, ast.Call):
        is_bounded = any(each.arg == "maxlen" for each in value.keywords)
        return name_of(value.func).rpartition(".")[2] in _CONTAINERS and not is_bounded
    return isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp)


def _is_live(value: ast.expr, module: Module) -> bool:
    """Nothing that could be stored."""
    if isinstance(value, ast.Await):
        return False
    name = module.meaning(value)
    return isinstance(value, ast.Call) and (
        name in ("self.stub", "self.spawn") or name.startswith("asyncio.") or name.endswith((".create_task", ".create_future"))
    )
