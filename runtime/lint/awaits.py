"""What is asked of storage, of other objects, or of tasks, and whose answer nobody waits for; and others who are told something
inside a transaction."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tidegate.runtime.lint.fates import Fates, is_plain
from tidegate.runtime.lint.module import Function, ObjectCode, Suspect, name_of, targets_of

_READS = ("get", "get_many", "list", "get_alarm", "sync")
_ANSWER = ("delete", "delete_many")
"""They happen without an `await`; what they answer has to be awaited."""
_LOOPS = ("asyncio.get_running_loop", "asyncio.get_event_loop", "asyncio.new_event_loop")
_TASKS = ("asyncio.create_task", "asyncio.ensure_future")
_IN_TRANSACTION = "what another object is told is not undone with the transaction, and others wait meanwhile: call after it"


def not_awaited(code: ObjectCode) -> Iterator[Suspect]:
    assigned = [(name_of(target), value) for node in code.nodes for target, value in targets_of(node) if value is not None]
    attributes = [(name, value) for name, value in assigned if name.startswith("self.")]
    coroutines = {each.name for each in code.nodes if isinstance(each, ast.AsyncFunctionDef)} | {"on_start"}
    for method in code.methods:
        yield from _Asked(code, method, attributes, coroutines).suspects()


class _Asked:
    """By one method, and by the functions in it."""

    def __init__(self, code: ObjectCode, method: Function, attributes: list[tuple[str, ast.expr]], coroutines: set[str]) -> None:
        """`attributes`: what each is assigned, somewhere in the class."""
        self._module = code.module
        self._nodes = list(ast.walk(method))
        self._coroutines = {f"{of}.{name}" for of in ("self", "super") for name in coroutines}
        self._storages, self._stubs, self._loops = {"self.storage"}, set[str](), set[str]()
        for name, value in attributes:
            self._learn(name, value)
        for node in self._nodes:
            for target, given in targets_of(node):
                if given is not None:
                    self._learn(name_of(target), given)
        for node in self._nodes:
            if isinstance(node, ast.withitem) and node.optional_vars and self._is_transaction(node):
                self._storages.add(name_of(node.optional_vars))
        calls = [node for node in self._nodes if isinstance(node, ast.Call)]
        wants_values = {call for call in calls if self._operation(call) or self._asks_another(call)}
        self._fates = Fates(code, method, wants_values)

    def _learn(self, name: str, value: ast.expr) -> None:
        """What the name stands for."""
        meant = name_of(value)
        if isinstance(value, ast.Call):
            if meant == "self.stub":
                self._stubs.add(name)
            elif self._module.meaning(value) in _LOOPS:
                self._loops.add(name)
        elif is_plain(value) and meant in self._storages:
            self._storages.add(name)
        elif is_plain(value) and meant in self._stubs:
            self._stubs.add(name)

    def suspects(self) -> Iterator[Suspect]:
        for node in self._nodes:
            if isinstance(node, ast.Call):
                yield from self._of_call(node)
            elif isinstance(node, ast.AsyncWith) and any(map(self._is_transaction, node.items)):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Call) and self._asks_another(inner):
                        yield Suspect(inner.lineno, "transaction", _IN_TRANSACTION)

    def _of_call(self, call: ast.Call) -> Iterator[Suspect]:
        parent, operation, called = self._module.parents[call], self._operation(call), name_of(call.func)
        is_alone = isinstance(parent, ast.Expr)
        if operation in _READS or (operation in _ANSWER and not is_alone):
            if not self._fates.may_be_awaited(call):
                yield Suspect(call.lineno, "await", f"the value of storage.{operation} is not there yet: write `await`")
        elif self._asks_another(call):
            if not self._fates.may_be_awaited(call):
                text = "nobody hears whether the call of another object succeeds: write `await`"
                yield Suspect(call.lineno, "await", text)
        elif self._begins_task(call):
            if is_alone or self._is_forgotten(parent):
                text = f"nobody hears of what {self._module.meaning(call.func)} raises here: use self.spawn(...), which logs it"
                yield Suspect(call.lineno, "task", text)
        elif is_alone and called in self._coroutines:
            yield Suspect(call.lineno, "await", f"{called} does not even begin: write `await`, or use self.spawn(...)")

    def _operation(self, call: ast.Call) -> str:
        """Of storage."""
        func = call.func
        is_storage = isinstance(func, ast.Attribute) and is_plain(func.value) and name_of(func.value) in self._storages
        return func.attr if isinstance(func, ast.Attribute) and is_storage else ""

    def _asks_another(self, call: ast.Call) -> bool:
        func = call.func
        if not isinstance(func, ast.Attribute):
            return False
        if isinstance(func.value, ast.Call):
            return name_of(func.value.func) == "self.stub"
        return is_plain(func.value) and name_of(func.value) in self._stubs

    def _is_transaction(self, item: ast.withitem) -> bool:
        return isinstance(item.context_expr, ast.Call) and self._operation(item.context_expr) == "transaction"

    def _begins_task(self, call: ast.Call) -> bool:
        if self._module.meaning(call.func) in _TASKS:
            return True
        func = call.func
        if not isinstance(func, ast.Attribute) or func.attr != "create_task":
            return False
        return name_of(func.value) in self._loops or self._module.meaning(func.value) in _LOOPS

    def _is_forgotten(self, parent: ast.AST) -> bool:
        """The task is kept by a name alone, at which nobody looks."""
        names = [target.id for target, _ in targets_of(parent) if isinstance(target, ast.Name)]
        return bool(names) and not any(map(self._fates.looks_at, names))
