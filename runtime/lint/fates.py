"""What becomes of a value in a method: whether it may reach an `await`.

Guarantee: it may, also by way of `gather` and its like, of a name, a list or a dict, of a function that is no coroutine and
hands it to its caller, and of any function that nothing is known of. What is computed with, compared, shown, stored or answered
as it is does not.
"""

from __future__ import annotations

import ast

from tidegate.runtime.lint.module import Function, ObjectCode, name_of, targets_of

_ENDS = (ast.Expr, ast.FormattedValue, ast.Compare, ast.UnaryOp, ast.If, ast.While, ast.Assert, ast.Slice, ast.Match)
_BOXES = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_LOOPS = (ast.For, ast.AsyncFor, ast.comprehension)
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)
_OF_FUTURES = ("add_done_callback", "cancel", "send", "close", "__await__")
_GIVE_BACK = frozenset(("dict", "enumerate", "filter", "iter", "list", "map", "next", "reversed", "set", "tuple", "zip"))
"""What was in what they were given."""
_WANT_VALUES = _GIVE_BACK | {
    *("abs", "all", "any", "bool", "bytes", "float", "format", "frozenset", "int", "isinstance", "len", "max", "min", "print"),
    *("range", "repr", "round", "sorted", "str", "sum"),
}
_MODULES_OF_VALUES = frozenset(("datetime", "decimal", "json", "math", "msgspec", "operator", "re"))


class Fates:
    def __init__(self, code: ObjectCode, method: Function, wants_values: set[ast.Call]) -> None:
        """`wants_values`: calls that take no awaitable, by what the method's code shows."""
        self._module = code.module
        self._in_method = list(ast.walk(method))
        self._in_class = code.nodes
        self._wants_values = wants_values

    def may_be_awaited(self, node: ast.expr, boxed: bool = False, seen: frozenset[str] = frozenset()) -> bool:
        """`boxed`: it is in `node`, a list or the like. `seen`: names by which it has come here."""
        parent = self._module.parents.get(node)
        if isinstance(parent, ast.Await):
            return not boxed
        if isinstance(parent, ast.Return):
            around = next(each for each in self._module.statements_around(parent) if isinstance(each, Function))
            return not isinstance(around, ast.AsyncFunctionDef)
        if isinstance(parent, _ENDS):
            return False
        if isinstance(parent, ast.Call | ast.keyword):
            return self._is_taken(node, parent, boxed, seen)
        if isinstance(parent, _BOXES):
            return self._is_boxed(node, parent, seen)
        if isinstance(parent, _ASSIGNMENTS):
            if isinstance(parent, ast.AugAssign) and not boxed:
                return False
            is_used_at_once = isinstance(parent, ast.NamedExpr) and self.may_be_awaited(parent, boxed, seen)
            return is_used_at_once or self._is_kept([target for target, _ in targets_of(parent)], boxed, seen)
        if isinstance(parent, _LOOPS):
            return boxed and node is parent.iter
        if isinstance(parent, ast.BoolOp):
            return node is parent.values[-1] and self.may_be_awaited(parent, boxed, seen)
        if isinstance(parent, ast.IfExp):
            return node is not parent.test and self.may_be_awaited(parent, boxed, seen)
        if isinstance(parent, ast.BinOp | ast.Starred):
            return boxed and self.may_be_awaited(parent, True, seen)
        if isinstance(parent, ast.Subscript):
            return boxed and node is parent.value
        if isinstance(parent, ast.Attribute):
            return boxed or parent.attr in _OF_FUTURES
        return True

    def _is_taken(self, node: ast.expr, parent: ast.Call | ast.keyword, boxed: bool, seen: frozenset[str]) -> bool:
        """By a call, as an argument."""
        call = self._module.parents[parent] if isinstance(parent, ast.keyword) else parent
        if not isinstance(call, ast.Call) or node is call.func:
            return True
        name = self._module.meaning(call.func)
        if boxed and name in _GIVE_BACK:
            return self.may_be_awaited(call, True, seen)
        first, _, rest = name.partition(".")
        is_class = name.rpartition(".")[2][:1].isupper() and first != "asyncio"
        is_module = bool(rest) and first in _MODULES_OF_VALUES and name_of(call.func).partition(".")[0] in self._module.imports
        return not (name in _WANT_VALUES or is_class or is_module or call in self._wants_values)

    def _is_boxed(self, node: ast.expr, parent: ast.expr, seen: frozenset[str]) -> bool:
        around = self._module.parents[parent]
        own = [target for target, value in targets_of(around) if value is node]  # `a, b = x, y`
        if own:
            return self._is_kept(own, False, seen)
        is_key = node in getattr(parent, "keys", ()) or node is getattr(parent, "key", None)
        return not is_key and self.may_be_awaited(parent, True, seen)

    def _is_kept(self, targets: list[ast.expr], boxed: bool, seen: frozenset[str]) -> bool:
        """And looked at where it may be awaited."""
        for target in targets:
            name = name_of(target)
            is_own = isinstance(target, ast.Name) or name.startswith("self.") or isinstance(target, ast.Subscript)
            if not is_own:
                return True  # Somebody else's attribute.
            held = boxed or isinstance(target, ast.Subscript)
            if name not in seen and any(self.may_be_awaited(each, held, seen | {name}) for each in self.looks_at(name)):
                return True
        return False

    def looks_at(self, name: str) -> list[ast.expr]:
        """Where the value of the name is used: in the method, or, of `self.…`, in the class."""
        nodes = self._in_class if name.startswith("self.") else self._in_method
        loads = (node for node in nodes if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load))
        return [node for node in loads if is_plain(node) and name_of(node) == name]


def is_plain(node: ast.expr) -> bool:
    """Whether it is names and dots alone."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)
