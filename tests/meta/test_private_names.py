"""What the tree uses of CPython, asyncio and others that they do not promise: every name, with where and why.

A new Python or uvloop is judged by this list; `shard/loop/self_test.py` tries at the start of a worker what object code leans on.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shard", "router", "runtime", "benchmarks", "testing")

CPYTHON = "shard/loop/cpython.py"
SELF_TEST = "shard/loop/self_test.py"

PRIVATE: dict[str, set[str]] = {
    # Tasks of our own, run as asyncio runs its.
    "_enter_task": {CPYTHON},
    "_leave_task": {CPYTHON},
    "_register_task": {CPYTHON},
    "_get_loop": {CPYTHON},
    "_asyncio_future_blocking": {"shard/loop/task.py", SELF_TEST},  # And `runtime/wire/pending.py` has it.
    "_make_cancelled_error": {"shard/loop/task.py", SELF_TEST},
    "_task_get_stack": {CPYTHON},
    "_task_print_stack": {CPYTHON},
    "_set_result_unless_cancelled": {CPYTHON},  # Sleeping costs less.
    "getrefcount": {CPYTHON, "shard/host/activation.py"},  # Whether somebody keeps a task, or an instance.
    "getweakrefcount": {CPYTHON},
    "get_referents": {"shard/host/activation.py", "shard/host/piles.py"},  # Whether an instance has kept anything; how much.
    "_set_running_loop": {"testing/virtual_loop.py"},  # It is the loop.
    # Who waits for whom.
    "gi_yieldfrom": {CPYTHON, "shard/loop/task.py", "shard/host/host.py", SELF_TEST},
    "cr_await": {CPYTHON},
    "ag_await": {CPYTHON},
    "cr_frame": {CPYTHON, SELF_TEST},
    "gi_frame": {CPYTHON},
    "ag_frame": {CPYTHON},
    "f_locals": {CPYTHON},
    "_current_frames": {CPYTHON},
    "_GatheringFuture": {CPYTHON},
    "_children": {CPYTHON},
    "_tasks": {CPYTHON},
    # Who asks.
    "_getframe": {CPYTHON, "runtime/wire/unawaited.py", "shard/worker/debugger.py"},
    "_get_running_loop": {"runtime/client/asynchronous.py", "runtime/client/synchronous.py"},
    "_thread": {
        "runtime/client/asynchronous.py", "shard/host/host.py", "shard/host/outbound.py", "shard/objects/threads.py",
    },  # `get_ident`, as `threading` has it.
    "__code__": {CPYTHON, "shard/objects/threads.py", "shard/objects/class_rules.py", SELF_TEST},  # Changed; compared.
}  # fmt: skip

PROMISED = {"_asdict", "_exit", "_replace"}
"""Of named tuples and `os`: documented in spite of their names."""
LOOKS_PRIVATE = re.compile(r"_(?!_)\w")
OURS_TOO = {"_asyncio_future_blocking", "_children", "_tasks", "_thread"}
ALSO = {name for name in PRIVATE if not LOOKS_PRIVATE.match(name)} | OURS_TOO
"""Names that do not look private, or that something of ours has too: these count where something else than `self` is asked."""
BY_NAME = {"getattr", "hasattr", "setattr"}


@cache
def trees() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for name in PACKAGES
        for path in sorted((ROOT / name).rglob("*.py"))
    }


@cache
def our_names() -> frozenset[str]:
    """Whatever is defined anywhere in the tree."""
    found: set[str] = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
                found.add(node.attr)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
    return frozenset(found)


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def asked_for(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (node.attr in ALSO and is_self(node.value)):
            yield node.attr
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            yield from (*(node.module or "").split("."), *(alias.name for alias in node.names))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BY_NAME:
            yield from (each.value for each in node.args[1:2] if isinstance(each, ast.Constant) and isinstance(each.value, str))


@cache
def used() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path, tree in trees().items():
        for name in asked_for(tree):
            private = LOOKS_PRIVATE.match(name) and name not in our_names() and name not in PROMISED
            if private or name in ALSO:
                found.setdefault(name, set()).add(path)
    return found


def test_every_private_name_of_others_is_listed_with_where_it_is_used() -> None:
    found = used()
    new = {name: where - PRIVATE.get(name, set()) for name, where in found.items()}
    assert not {name: where for name, where in new.items() if where}, (
        "put it into shard/loop/cpython.py, and here with its reason"
    )


def test_every_private_name_that_is_listed_is_used_where_the_list_says() -> None:
    found = used()
    gone = {name: where - found.get(name, set()) for name, where in PRIVATE.items()}
    assert not {name: where for name, where in gone.items() if where}
