"""Who may import whom, and what the core may know: the architecture page as tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shard", "router", "runtime", "tidegate")

MAY_IMPORT = {
    "router": {"router", "runtime"},
    "shard": {"shard", "runtime"},
    "runtime": {"runtime"},
    "tidegate": {"tidegate", "runtime", "shard"},
}

SERVING = {
    "addresses", "annotations", "backend", "child", "context", "control", "descriptors", "door", "encoding", "endpoint",
    "errors", "exceptions", "handshakes", "ids", "inflight", "inquiries", "limits", "models", "outbox", "output", "pending",
    "pieces", "port", "protocol", "slots", "stub", "unawaited", "witness",
}  # fmt: skip
"""What of `runtime` the processes that serve may use: nothing that starts or watches processes, nothing of the client."""

CORE = {
    "shard": {
        "ahead", "alarms", "cache", "chain", "class_rules", "codec", "cold_reads", "commit", "input_gate", "layer", "likeness",
        "memory_state", "memtable", "methods", "ready", "record", "refusals", "settings", "steady", "storage",
        "sorting", "store", "values",
    },
    "router": {"machine", "system"},
    "runtime": {
        "annotations", "client_link", "client_machine", "control", "encoding", "errors", "exceptions", "handshakes", "ids",
        "inflight", "inquiries", "limits", "models", "outbox", "pieces", "placement", "protocol", "restart", "slots", "stub",
        "supervision", "suspicion", "unawaited",
    },
}  # fmt: skip
"""Rules only. The rest is shell or edge."""

CORE_MUST_NOT_IMPORT = {
    "aiohttp", "asyncio", "concurrent", "fcntl", "lmdb", "logging", "multiprocessing", "os", "queue", "random", "secrets",
    "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "time", "uvloop", "uuid", "zmq",
}  # fmt: skip

ON_THE_LOOP = {
    "activation", "activator", "alarm_clock", "chained_calls", "critical_section", "given_up", "host", "object", "outbound",
    "resets", "ring", "table", "task", "waiting",
}  # fmt: skip
"""They run coroutines and timers of whatever loop they are given, and know nothing else of the world."""
LOOP_MUST_NOT_IMPORT = CORE_MUST_NOT_IMPORT - {"asyncio", "logging", "random", "time"}

CORE_MUST_NOT_CALL = {"hash", "id", "input", "open", "print", "vars", "globals", "breakpoint"}
MAY_CALL = {("shard", "commit", "id")}
"""`commit` compares objects by identity; nothing there depends on the order of the numbers."""


def modules(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).glob("*.py"))


def imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """Names of imported modules; with `typing_too`, also what is imported for annotations only."""
    tree = ast.parse(path.read_text())
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
            yield node.module or ""


def core_modules() -> list[tuple[str, str]]:
    return [(package, name) for package, names in CORE.items() for name in sorted(names)]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_the_packages_below_it(package: str) -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in modules(package)
        for name in imports(path)
        if name.partition(".")[0] in (*PACKAGES, "benchmarks", "tests", "examples")
        and name.partition(".")[0] not in MAY_IMPORT[package]
        and not (package == "shard" and path.name == "__main__.py" and name == "tidegate")
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["shard", "router"])
def test_processes_that_serve_use_only_the_leaf_modules_of_runtime(package: str) -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in modules(package)
        for name in imports(path)
        if name.startswith("runtime.") and name.removeprefix("runtime.") not in SERVING
    ]
    assert not wrong


def test_leaf_modules_of_runtime_import_only_leaf_modules() -> None:
    wrong = [
        f"{leaf} imports {name}"
        for leaf in sorted(SERVING)
        for name in imports(ROOT / "runtime" / f"{leaf}.py")
        if name.startswith("runtime.") and name.removeprefix("runtime.") not in SERVING
    ]
    assert not wrong


@pytest.mark.parametrize(("package", "name"), core_modules())
def test_a_core_module_knows_no_socket_thread_file_clock_or_chance(package: str, name: str) -> None:
    path = ROOT / package / f"{name}.py"
    known = {module.partition(".")[0] for module in imports(path, typing_too=False)}
    assert not known & CORE_MUST_NOT_IMPORT


@pytest.mark.parametrize("name", sorted(ON_THE_LOOP))
def test_what_runs_on_the_loop_of_a_worker_knows_no_socket_thread_or_file(name: str) -> None:
    known = {module.partition(".")[0] for module in imports(ROOT / "shard" / f"{name}.py", typing_too=False)}
    assert not known & LOOP_MUST_NOT_IMPORT


@pytest.mark.parametrize(("package", "name"), core_modules())
def test_a_core_module_calls_nothing_whose_answer_differs_from_run_to_run(package: str, name: str) -> None:
    tree = ast.parse((ROOT / package / f"{name}.py").read_text())
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (package, name, node.func.id) not in MAY_CALL
    }
    assert not called & CORE_MUST_NOT_CALL


@pytest.mark.parametrize(("package", "name"), core_modules())
def test_a_core_module_imports_other_core_modules_only(package: str, name: str) -> None:
    for module in imports(ROOT / package / f"{name}.py", typing_too=False):
        owner, _, rest = module.partition(".")
        if owner in CORE:
            assert rest in CORE[owner] or (owner, rest) == ("shard", "object"), module


@pytest.mark.parametrize("package", ["shard", "router", "runtime"])
def test_no_two_modules_of_a_package_import_each_other_in_a_circle(package: str) -> None:
    own = f"{package}."
    graph = {
        path.stem: {name.removeprefix(own) for name in imports(path, typing_too=False) if name.startswith(own)}
        for path in modules(package)
    }
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in finished:
            for below in sorted(graph.get(name, ())):
                visit(below, (*path, name))
            finished.add(name)

    for name in graph:
        visit(name, ())
