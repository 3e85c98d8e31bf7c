"""One module of an app: what its names stand for, which of its classes are object classes, and which functions their code calls.

Guarantee: an object class is found whatever it is called and wherever its base stands, in this module or in another one of the
app. Other modules are read where a base is looked for, and for nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef
Found = Callable[[str], str | None]
"""The source of another module of the app, by its name; a package's is `package.__init__`. None: there is none. May raise
SyntaxError or UnicodeError for what is no text."""
PACKAGE = "__init__"


class Suspect(NamedTuple):
    line: int
    rule: str
    text: str


class Module:
    """Raises what `ast.parse` raises."""

    def __init__(self, source: str, name: str) -> None:
        """`name`: by which it is imported; `package.__init__` of a package."""
        self.tree = ast.parse(source)
        self.name = name
        self.parents = {inner: node for node in ast.walk(self.tree) for inner in ast.iter_child_nodes(node)}
        self.classes = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}
        self.functions = {node.name: node for node in self.tree.body if isinstance(node, Function)}
        self.imports: dict[str, str] = {}
        """What each name stands for that is imported, anywhere in the module."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.imports |= {each.asname or (first := each.name.partition(".")[0]): each.name if each.asname else first
                                 for each in node.names}  # fmt: skip
            elif isinstance(node, ast.ImportFrom):
                self.imports |= {each.asname or each.name: f"{self._origin(node)}.{each.name}" for each in node.names}
        bound = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in ast.walk(self.tree) if isinstance(node, ast.arg)}
        self.own_names = bound | set(self.classes) | set(self.functions)
        """Names to which code of the module gives a meaning of its own, somewhere."""

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".")[: -node.level]
        return ".".join([*package, *([node.module] if node.module else [])])

    def meaning(self, node: ast.expr) -> str:
        """`a.b.c`, of what is imported by its full name; calls and subscripts on the way left out."""
        first, dot, rest = name_of(node).partition(".")
        return f"{self.imports.get(first, first)}{dot}{rest}"

    def statements_around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What it stands in, from within."""
        while (around := self.parents.get(node)) is not None:
            yield around
            node = around


class ObjectCode:
    """An object class of the module, with what it derives from."""

    def __init__(self, module: Module, cls: ast.ClassDef, bases: list[ast.ClassDef]) -> None:
        """`bases`: of the app, the nearest first; those of other modules, too."""
        self.module = module
        self.cls = cls
        self.bases = bases
        self.methods = methods_of(cls)
        self.nodes = [node for each in (cls, *bases) for node in ast.walk(each)]
        """Everything in the class and its bases."""

    def functions_called(self, *starts: Function) -> list[Function]:
        """These, and what they call: methods, functions of the module and in functions. Not what they hand over to others (a
        helper thread, say)."""
        here = {each for each in self.module.classes.values() if each is self.cls or each in self.bases}
        methods = {each.name: each for cls in (*reversed(self.bases), self.cls) if cls in here for each in methods_of(cls)}
        found = dict.fromkeys(starts)
        waiting = list(starts)
        while waiting:
            function = waiting.pop()
            inner = {each.name: each for each in ast.walk(function) if isinstance(each, Function) and each is not function}
            for node in code_of(function):
                if not isinstance(node, ast.Call):
                    continue
                owner, _, name = name_of(node.func).rpartition(".")
                known = {"self": methods, "super": methods, "": self.module.functions | inner}.get(owner, {})
                if (called := known.get(name)) is not None and called not in found:
                    found[called] = None
                    waiting.append(called)
        return list(found)


class App:
    """The modules of an app, as far as they are asked for."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._known: dict[str, Module | None] = {}

    def object_classes(self, module: Module) -> Iterator[ObjectCode]:
        for cls in module.classes.values():
            bases = self._bases(module, cls, {cls})
            if bases is not None:
                yield ObjectCode(module, cls, bases)

    def _bases(self, module: Module, cls: ast.ClassDef, seen: set[ast.ClassDef]) -> list[ast.ClassDef] | None:
        """None: it does not derive from DurableObject."""
        is_object, found = False, list[ast.ClassDef]()
        for each in cls.bases:
            name = module.meaning(each)
            if name not in module.classes and (name == "DurableObject" or name.startswith("tidegate.")):
                is_object |= name.rpartition(".")[2] == "DurableObject"
                continue
            base = self._class(module, name, set())
            if base is not None and base[1] not in seen:
                above = self._bases(*base, seen | {base[1]})
                if above is not None:
                    is_object = True
                    found += [base[1], *above]
        return list(dict.fromkeys(found)) if is_object else None

    def _class(self, module: Module, name: str, seen: set[str]) -> tuple[Module, ast.ClassDef] | None:
        """By what it means in the module; it may only pass through another one."""
        if name in module.classes:
            return module, module.classes[name]
        owner, _, last = name.rpartition(".")
        other = self._module(owner) if owner and name not in seen else None
        if other is None:
            return None
        return self._class(other, last if last in other.classes else other.imports.get(last, last), seen | {name})

    def _module(self, name: str) -> Module | None:
        if name not in self._known:
            self._known[name] = None
            try:
                for candidate in (f"{name}.{PACKAGE}", name):
                    if self._known[name] is None and (source := self._found(candidate)) is not None:
                        self._known[name] = Module(source, candidate)
            except (SyntaxError, ValueError, RecursionError):
                pass  # Who looks at that one says so.
        return self._known[name]


def methods_of(cls: ast.ClassDef) -> list[Function]:
    return [node for node in cls.body if isinstance(node, Function)]


def code_of(function: Function) -> Iterator[ast.AST]:
    """What runs when it is called: not the functions that it defines."""
    waiting: list[ast.AST] = list(reversed(function.body))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            waiting += reversed(list(ast.iter_child_nodes(node)))


def name_of(node: ast.expr) -> str:
    """`a.b.c`, with calls and subscripts on the way left out."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    return node.id if isinstance(node, ast.Name) else ""


def targets_of(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """What is assigned to by it, one by one, and out of what."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _paired(target, node.value)
    elif isinstance(node, ast.AugAssign | ast.NamedExpr) or (isinstance(node, ast.AnnAssign) and node.value is not None):
        yield from _paired(node.target, node.value)
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield from ((target, node.iter) for target, _ in _paired(node.target, None))
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield from _paired(node.optional_vars, node.context_expr)


def _paired(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    if isinstance(target, ast.Starred):
        yield from _paired(target.value, None)
    elif isinstance(target, ast.Tuple | ast.List):
        same = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
        values: list[ast.expr | None] = list(value.elts) if same and isinstance(value, ast.Tuple | ast.List) else []
        for at, each in enumerate(target.elts):
            yield from _paired(each, values[at] if same else value)
    else:
        yield target, value
