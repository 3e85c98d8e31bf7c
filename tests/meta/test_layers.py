"""Who may import whom, and what rules may know: the floors of the house as tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shard", "router", "runtime", "benchmarks", "testing")

LEAVES = {
    "runtime/errors",
    "runtime/limits",
    "runtime/ids",
    "runtime/addresses",
    "runtime/descriptors",
    "runtime/heap",
    "runtime/shares",
    "runtime/harmless",
    "runtime/shipping",
    "runtime/extras",
    "runtime/regular",
    "runtime/ending",
    "runtime/lookup",
}
LINES = {"runtime/logs/line", "runtime/logs/tracebacks"}
"""What a line of the log holds."""
SERVING = LEAVES | LINES | {"runtime/options", "runtime/wire", "runtime/sockets", "runtime/child", "runtime/logs"}
"""What the processes that serve use of `runtime`: nothing that starts or watches processes, nothing of the client."""
SUPERVISOR = {f"runtime/supervisor{floor}" for floor in ("", "/config", "/rules", "/operators")}
STORE = ("store/interface", "store/snapshots", "store", "store/state", "store/checkpoints", "store/worker_store")
"""What a worker puts together, from the bottom to the top."""

ARROWS: dict[str, set[str]] = {
    "runtime/errors": {"runtime/limits"},
    "runtime/limits": set(),
    "runtime/ids": {"runtime/limits"},
    "runtime/addresses": {"runtime/limits", "runtime/lookup"},
    "runtime/descriptors": {"runtime/errors", "runtime/limits"},
    "runtime/heap": {"runtime/limits"},
    "runtime/shares": {"runtime/limits"},
    "runtime/harmless": {"runtime/errors"},
    "runtime/extras": set(),
    "runtime/shipping": {"runtime/limits", "runtime/regular"},
    "runtime/regular": set(),
    "runtime/ending": {"runtime/lookup"},
    "runtime/lookup": set(),
    "runtime/lint": set(),
    "runtime/options": LEAVES,
    "runtime/wire": LEAVES | {"runtime/options"},
    "runtime/sockets": LEAVES | {"runtime/wire"},
    "runtime/logs/line": LEAVES,
    "runtime/logs/tracebacks": LEAVES,
    "runtime/logs": LEAVES | LINES,
    "runtime/child": LEAVES | LINES | {"runtime/wire", "runtime/logs"},
    "runtime/client": LEAVES | {"runtime/wire", "runtime/sockets"},
    "runtime/metrics": LEAVES | {"runtime/wire"},
    "runtime/cluster": LEAVES | {"runtime/wire", "shard/replicated", "shard/store/snapshots"},
    "runtime/data": LEAVES | {"runtime/wire"},
    "runtime/supervisor/config": LEAVES | LINES | {"runtime/options", "runtime/wire", "runtime/logs"},
    "runtime/supervisor/rules": LEAVES | {"runtime/data", "runtime/options", "runtime/wire"},
    "runtime/supervisor/operators": LEAVES
    | {"runtime/data", "runtime/metrics", "runtime/wire", "runtime/supervisor/config", "runtime/supervisor/rules"},
    "runtime/supervisor": SERVING
    | {"runtime/data", "runtime/metrics", "runtime/lint"}
    | {f"runtime/supervisor/{floor}" for floor in ("config", "rules", "operators")},
    "runtime/install": LEAVES,
    "runtime/chaos/verdict": LEAVES,
    "runtime/chaos/calls": LEAVES | {"runtime/client", "runtime/sockets", "runtime/chaos/verdict"},
    "runtime/chaos/stage": LEAVES | {"runtime/chaos/verdict", "runtime/cluster"},
    "runtime/chaos/faults": LEAVES
    | {f"runtime/chaos/{floor}" for floor in ("verdict", "calls", "stage")}
    | {"runtime/cluster", "shard/replicated"},
    "runtime/chaos": LEAVES | {f"runtime/chaos/{floor}" for floor in ("verdict", "calls", "stage", "faults")},
    "runtime/cli/commands": SERVING
    | SUPERVISOR
    | {"runtime/client", "runtime/data", "runtime/install", "runtime/cli", "shard/offline", "shard/backup"}
    | {"runtime/cluster", "shard/replicated", "shard/store/snapshots", "shard/migration"}
    | {"runtime/console", "testing", "testing/stock", "runtime/lint"}
    | {f"runtime/chaos{floor}" for floor in ("", "/stage", "/faults")},
    "runtime/cli": SERVING | SUPERVISOR | {"runtime/client", "runtime/data"},
    "runtime/console": SERVING | SUPERVISOR | {"runtime/client", "runtime/data", "runtime/cli", "shard/backup"},
    "runtime/cli/cli": SERVING | {"runtime/cli", "runtime/cli/commands"},
    "router": SERVING,
    "shard/neutral": set(),
    "shard/store/interface": {"runtime/errors"},
    "shard/store/snapshots": set(),
    "shard/log": LEAVES,
    "shard/store": LEAVES | {"shard/store/interface", "shard/log"},
    "shard/store/state": LEAVES | {"shard/neutral", "shard/store/interface", "shard/log", "shard/store"},
    "shard/store/checkpoints": LEAVES
    | {f"shard/{floor}" for floor in ("neutral", "store/interface", "log", "store", "store/state")},
    "shard/store/worker_store": LEAVES
    | {f"shard/{floor}" for floor in ("store/interface", "store/snapshots", "log", "store", "store/state", "store/checkpoints")},
    "shard/replicated": LEAVES | {"shard/store/interface", "shard/store/snapshots", "shard/log", "shard/store"},
    "shard/core": LEAVES | {"runtime/wire", "shard/store/interface"},
    "shard/offline": LEAVES
    | {"runtime/wire"}
    | {f"shard/{floor}" for floor in ("store/interface", "log", "store", "store/state", "core")},
    "shard/backup": LEAVES
    | {"runtime/wire"}
    | {f"shard/{floor}" for floor in ("store/interface", "log", "store", "store/state", "core", "offline")},
    "shard/migration": LEAVES | {f"shard/{floor}" for floor in (*STORE, "log", "core", "offline", "replicated")},
    "shard/loop": LEAVES | LINES | {"runtime/wire", "shard/neutral", "shard/core"},
    "shard/objects": LEAVES | LINES | {"runtime/wire", "shard/neutral", "shard/store/interface", "shard/core", "shard/loop"},
    "shard/host": LEAVES
    | LINES
    | {"runtime/wire", "shard/neutral", "shard/store/interface", "shard/core", "shard/loop", "shard/objects"},
    "shard/worker": SERVING | {f"shard/{floor}" for floor in (*STORE, "neutral", "log", "core", "loop", "objects", "host")},
    "shard/__main__": SERVING
    | {f"shard/{floor}" for floor in (*STORE, "neutral", "log", "core", "loop", "objects", "host", "worker", "replicated")},
    "testing": LEAVES
    | {"runtime/wire", "runtime/options", "runtime/chaos/verdict", "shard/store", "shard/store/state"}
    | {f"shard/{floor}" for floor in ("neutral", "store/interface", "core", "loop", "objects", "host", "worker")},
    "testing/stock": LEAVES | {"runtime/wire", "runtime/options", "shard/objects", "shard/worker", "testing"},
}
"""By floor, the floors that it may import from; a floor is a folder, or a single module that is known by name."""

RULES = {
    "shard/core": "*",
    "shard/store": {"answers", "interface", "memtable", "names", "reads", "record", "store"},
    "shard/store/state": {"memory_state"},
    "shard/store/checkpoints": {"ahead", "sorting"},
    "shard/objects": {"class_rules", "methods", "answered", "refusals", "storage"},
    "shard/host": {"settings"},
    "shard/backup": {"manifest", "pieces"},
    "shard/offline": {"rows"},
    "shard/migration": {"commits"},
    "shard/replicated": {"answers", "mark", "message", "owner", "refusals", "replay", "settings", "snapshot"},
    "shard/worker": {"attempts", "duties", "patience"},
    "router": {"machine", "system"},
    "runtime": {"errors", "ids", "limits", "shares"},
    "runtime/lint": "*",
    "runtime/cluster": {"diagnosis", "load", "machine", "picture", "placement", "records"},
    "runtime/chaos/verdict": "*",
    "runtime/chaos/calls": {"workload"},
    "runtime/chaos/faults": {"catalogue", "schedule", "shapes"},
    "runtime/chaos/stage": {"leaders"},
    "runtime/logs": {"forms", "line", "settings", "tracebacks"},
    "runtime/console": {"admission", "last_minutes"},
    "runtime/client": {"links", "machine", "retries", "terms"},
    "runtime/sockets": {"frames", "handshakes", "inflight", "inquiries", "moving_inflight", "outbox", "slices"},
    "runtime/install": {"plan", "units"},
    "runtime/metrics": "*",
    "runtime/options": "*",
    "runtime/data": {"backups"},
    "runtime/supervisor/rules": "*",
    "runtime/wire": "*",
    "testing/stock": {"comparison", "report"},
}
"""Modules that are rules only, by folder. The rest is shell or edge."""
NOT_RULES = {("runtime/wire", "pending"), ("shard/core", "chain")}
RULES_MUST_NOT_IMPORT = {
    "aiohttp", "asyncio", "concurrent", "fcntl", "lmdb", "logging", "multiprocessing", "os", "queue", "random", "secrets",
    "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "time", "uvloop", "uuid", "zmq",
}  # fmt: skip
RULES_MUST_NOT_CALL = {"hash", "id", "input", "open", "print", "vars", "globals", "breakpoint"}
MAY_CALL = {("shard/core", "output_gate", "id")}
"""The output gate compares objects by identity; nothing there depends on the order of the numbers."""

ON_THE_LOOP_MUST_NOT_IMPORT = RULES_MUST_NOT_IMPORT - {"asyncio", "logging", "random", "time"}
"""The host runs coroutines and timers of whatever loop it is given, and knows nothing else of the world."""


@cache
def modules() -> tuple[Path, ...]:
    found = tuple(path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    assert len(found) > 150, "the tree is looked at as a whole"
    return found


def floor_of(module: str) -> str:
    """`module` is a path without its suffix."""
    names = [name for name in ARROWS if module == name or module.startswith(f"{name}/")]
    return max(names, key=len, default="")


def imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """Imported modules; with `typing_too`, also what is imported for annotations only."""
    tree = ast.parse((ROOT / path).read_text())
    skipped: set[int] = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            inner = ROOT.joinpath(*module.split(".")[1:]) if module.startswith("tidegate.") else None
            if inner is not None and inner.is_dir():
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


def own(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """Modules of ours that it imports, as paths without suffix."""
    for name in imports(path, typing_too=typing_too):
        if name.startswith("tidegate."):
            yield name.removeprefix("tidegate.").replace(".", "/")


def rules() -> list[str]:
    found = []
    for folder, names in RULES.items():
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.stem != "__init__" and (names == "*" or path.stem in names) and (folder, path.stem) not in NOT_RULES:
                found.append(f"{folder}/{path.stem}")
        assert names == "*" or {f"{folder}/{name}" for name in names} <= set(found), f"{folder}: {names}"
    return found


def test_every_module_is_on_exactly_one_floor() -> None:
    homeless = [str(path) for path in modules() if path.parts[0] != "benchmarks" and not floor_of(str(path.with_suffix("")))]
    assert set(homeless) <= {"shard/__init__.py", "runtime/__init__.py"}


def test_every_floor_says_what_lives_there() -> None:
    silent = [
        floor
        for floor in ARROWS
        if (ROOT / floor).is_dir() and not ast.get_docstring(ast.parse((ROOT / floor / "__init__.py").read_text()))
    ]
    assert not silent


def test_arrows_between_floors_run_downwards_only() -> None:
    wrong = []
    for path in modules():
        here = floor_of(str(path.with_suffix("")))
        if here:
            for module in own(path):
                there = floor_of(module)
                if there != here and there not in ARROWS[here]:
                    wrong.append(f"{path} imports {module}")
    assert not wrong


def test_the_table_of_arrows_has_no_circle() -> None:
    def visit(floor: str, path: tuple[str, ...]) -> None:
        assert floor not in path, " -> ".join((*path, floor))
        for below in sorted(ARROWS[floor]):
            visit(below, (*path, floor))

    for floor in ARROWS:
        visit(floor, ())


def test_what_is_imported_by_nobody_else_has_one_name_and_that_is_tidegate() -> None:
    """An app, a client or a project may have a `runtime.py`, `shard/`, `router/`, `benchmarks/` or `testing/` of its own."""
    bare = [
        f"{path.relative_to(ROOT)} imports {name}"
        for folder in (*PACKAGES, "tests", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imports(path.relative_to(ROOT))
        if name.partition(".")[0] in PACKAGES
    ]
    assert not bare


@pytest.mark.parametrize("module", rules())
def test_rules_know_no_socket_thread_file_clock_or_chance(module: str) -> None:
    known = {name.partition(".")[0] for name in imports(Path(f"{module}.py"), typing_too=False)}
    assert not known & RULES_MUST_NOT_IMPORT


@pytest.mark.parametrize("module", rules())
def test_rules_call_nothing_whose_answer_differs_from_run_to_run(module: str) -> None:
    folder, _, name = module.rpartition("/")
    called = {
        node.func.id
        for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (folder, name, node.func.id) not in MAY_CALL
    }
    assert not called & RULES_MUST_NOT_CALL


@pytest.mark.parametrize("module", rules())
def test_rules_import_other_rules_only(module: str) -> None:
    known = set(rules()) | {"shard/core/chain", "shard/objects/object", "shard/loop/done"}
    wrong = [other for other in own(Path(f"{module}.py"), typing_too=False) if other not in known]
    assert not wrong


def test_the_host_knows_no_socket_thread_or_file() -> None:
    wrong = [
        f"{path} imports {name}"
        for path in modules()
        if path.parts[:2] == ("shard", "host")
        for name in imports(path, typing_too=False)
        if name.partition(".")[0] in ON_THE_LOOP_MUST_NOT_IMPORT
    ]
    assert not wrong


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    graph = {str(path.with_suffix("")): set(own(path, typing_too=False)) for path in modules()}
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in finished:
            for below in sorted(graph.get(name, ())):
                visit(below, (*path, name))
            finished.add(name)

    for name in graph:
        visit(name, ())
